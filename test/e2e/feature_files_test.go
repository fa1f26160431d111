//go:build device

package e2e

import (
	"encoding/base64"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
)

// The secret of the workload with files, before and after a change.
const (
	fileSecret    = "wh1sper-that-nobody-else-hears"
	fileSecretNew = "s3cond-wh1sper-of-the-same-kind"
)

func (r *rig) saveFileSecret(value string) {
	r.Helper()
	r.save("files-keys.yaml", fmt.Sprintf(`apiVersion: v1
kind: Secret
metadata: {name: files-keys}
data: {binary: AP8B}
stringData: {password: %s}
`, value))
}

func (r *rig) saveFileWords(value string) {
	r.Helper()
	r.save("files-words.yaml", fmt.Sprintf(`apiVersion: v1
kind: ConfigMap
metadata: {name: files-words}
data: {greeting: %q, gone: soon}
binaryData: {binary: AP8B}
`, value))
}

func deployFiles(r *rig) {
	r.saveFileSecret(fileSecret)
	r.saveFileWords("hello\n")
	r.podSpec("files", "", `
containers:
- name: app
  image: IMAGE
  args: [serve, "8080"]
  ports: [{containerPort: 8080, hostPort: 18150}]
  env:
  - {name: PASSWORD, valueFrom: {secretKeyRef: {name: files-keys, key: password}}}
  volumeMounts:
  - {name: words, mountPath: /words}
  - {name: keys, mountPath: /keys}
  - {name: all, mountPath: /all}
  - {name: words, mountPath: /etc/greeting, subPath: greeting}
  - {name: none, mountPath: /none}
- name: other
  image: IMAGE
  args: [serve, "8081"]
  ports: [{containerPort: 8081, hostPort: 18151}]
  securityContext: {runAsUser: 1234}
  volumeMounts: [{name: keys, mountPath: /keys}, {name: words, mountPath: /words}]
volumes:
- {name: words, configMap: {name: files-words}}
- {name: keys, secret: {secretName: files-keys, defaultMode: 0400}}
- name: all
  projected:
    sources:
    - secret: {name: files-keys, items: [{key: password, path: deep/er/password, mode: 0440}]}
    - configMap: {name: files-words, items: [{key: greeting, path: words}]}
- {name: none, secret: {secretName: nowhere, optional: true}}
`)
	// It uses a ConfigMap of the same volume name, and nothing that changes.
	r.save("calm-words.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: calm-words}\ndata: {greeting: calm}\n")
	r.podSpec("calm", "", `
containers:
- name: app
  image: IMAGE
  args: [serve, "8080"]
  ports: [{containerPort: 8080, hostPort: 18152}]
  volumeMounts: [{name: words, mountPath: /words}]
volumes:
- {name: words, configMap: {name: calm-words}}
`)
}

func checkFiles(r *rig) {
	r.tells("18150", "/read", "/words/greeting", "hello\n")
	r.tells("18150", "/list", "/words", "binary\ngone\ngreeting")
	r.tells("18150", "/read", "/words/binary", "\x00\xff\x01")
	r.tells("18150", "/read", "/keys/password", fileSecret)
	r.tells("18150", "/read", "/keys/binary", "\x00\xff\x01")
	r.tells("18150", "/stat", "/keys/password", "-r-------- 0:0")
	r.tells("18150", "/stat", "/words/greeting", "-rw-r--r-- 0:0")
	r.tells("18150", "/read", "/all/deep/er/password", fileSecret)
	r.tells("18150", "/stat", "/all/deep/er/password", "-r--r----- 0:0")
	r.tells("18150", "/list", "/all", "deep\nwords")
	r.tells("18150", "/read", "/etc/greeting", "hello\n")
	r.tells("18150", "/list", "/none", "")
	r.answers("18150", "/env?name=PASSWORD", fileSecret)
	r.has("18151", "/read", "/keys/password", "permission denied")
	r.tells("18151", "/read", "/words/greeting", "hello\n")
	r.tells("18152", "/read", "/words/greeting", "calm")
	if got, err := r.query("18150", "/touch", "path", "/words/greeting"); err != nil || !strings.Contains(got, "read-only") {
		r.Errorf("write into a ConfigMap: %q %v", got, err)
	}
	r.phase("files", "Running")
	calm := r.running("calm", "app")

	old := r.running("files", "app")
	r.saveFileWords("good day\n")
	r.replaced("files", "app", old)
	r.tells("18150", "/read", "/words/greeting", "good day\n")
	r.tells("18150", "/read", "/etc/greeting", "good day\n")
	old = r.running("files", "app")
	r.saveFileSecret(fileSecretNew)
	r.replaced("files", "app", old)
	r.tells("18150", "/read", "/keys/password", fileSecretNew)
	r.tells("18150", "/read", "/all/deep/er/password", fileSecretNew)
	r.answers("18150", "/env?name=PASSWORD", fileSecretNew)
	if now := r.running("calm", "app"); now != calm {
		r.Error("a workload that uses neither was restarted")
	}
	nothingSecret(r)
	filesGo(r)
}

// nothingSecret looks where a secret must not be: in the journal, in the list of
// processes, in the manifest, and in what somebody else on the device can read.
func nothingSecret(r *rig) {
	r.Helper()
	journal, err := r.edge.Run(r.ctx, "journalctl", "--no-pager", "--output=cat")
	must(r.T, err)
	// yggd, told to log all that it does, logs what it was sent as well.
	journal.Stdout = strings.Join(slices.DeleteFunc(strings.Split(journal.Stdout, "\n"), func(line string) bool {
		return strings.Contains(line, "client.go") && strings.Contains(line, "received HTTP")
	}), "\n")
	processes, err := r.edge.Run(r.ctx, "ps", "axww", "-o", "args")
	must(r.T, err)
	manifest, err := r.edge.ReadFile(filepath.Join(stateDir, "workloads/files/manifest.yaml"))
	must(r.T, err)
	for _, value := range []string{fileSecret, fileSecretNew} {
		hidden := base64.StdEncoding.EncodeToString([]byte(value))
		for where, text := range map[string]string{"journal": journal.Stdout, "list of processes": processes.Stdout, "manifest": string(manifest)} {
			if strings.Contains(text, value) || strings.Contains(text, hidden) {
				r.Errorf("the secret is in the %s", where)
			}
		}
		// It complains of all that it cannot read, which is how it should be.
		found, _ := r.edge.Run(r.ctx, "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups",
			"grep", "-rsl", "--devices=skip", "-e", value, "-e", hidden, "/var", "/etc", "/run", "/tmp", "/opt")
		if found.Stdout != "" {
			r.Errorf("others can read the secret in %s", found.Stdout)
		}
	}
}

// filesGo looks for what is left of former contents, and then of the workload.
func filesGo(r *rig) {
	r.Helper()
	r.until("only files that a manifest mounts are kept", func() error {
		out, err := r.edge.Run(r.ctx, "sh", "-c", "ls -d "+stateDir+"/workloads/files/files-* | wc -l")
		if n := strings.TrimSpace(out.Stdout); err == nil && n != "1" && n != "2" {
			err = fmt.Errorf("there are %s folders of files", n)
		}
		return err
	})
	for _, name := range []string{"files", "calm", "files-words", "files-keys", "calm-words"} {
		r.remove(name + ".yaml")
	}
	r.gone("files")
	r.gone("calm")
	if out, err := r.edge.Podman(r.ctx, "volume", "ls", "--noheading"); err != nil || strings.Contains(out, "words") || strings.Contains(out, "keys") {
		r.Errorf("volumes are left: %s %v", out, err)
	}
	r.until("its folder is gone", func() error {
		out, err := r.edge.Run(r.ctx, "ls", stateDir+"/workloads")
		if err == nil && strings.Contains(out.Stdout, "files") {
			err = fmt.Errorf("workloads: %s", out.Stdout)
		}
		return err
	})
}
