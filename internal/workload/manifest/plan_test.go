package manifest_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/quick"
	"time"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"

	"github.com/project-flotta/flotta-agent/internal/desired"
	"github.com/project-flotta/flotta-agent/internal/secret"
	"github.com/project-flotta/flotta-agent/internal/workload/manifest"
)

// plan renders a workload called w; text is its specification in YAML.
func plan(t testing.TB, text string, configMaps ...string) manifest.Plan {
	t.Helper()
	p, err := render(t, text, configMaps...)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func render(t testing.TB, text string, configMaps ...string) (manifest.Plan, error) {
	t.Helper()
	w := desired.Workload{Name: "w", PodSpec: spec(t, text)}
	for _, cm := range configMaps {
		w.ConfigMaps = append(w.ConfigMaps, spec(t, cm))
	}
	o := options()
	o.HideContainerPorts = true
	return manifest.Render(w, secrets(), o)
}

// pod returns the rendered pod.
func pod(t testing.TB, p manifest.Plan) map[string]any {
	t.Helper()
	first, _, _ := strings.Cut(string(p.Manifest), "---\n")
	var object map[string]any
	if err := yaml.Unmarshal([]byte(first), &object); err != nil {
		t.Fatal(err)
	}
	return object["spec"].(map[string]any)
}

func refused(t *testing.T, err error, reason string) {
	t.Helper()
	var invalid *manifest.InvalidError
	if !errors.As(err, &invalid) || !strings.Contains(invalid.Reason, reason) {
		t.Errorf("error %v, want one with %q", err, reason)
	}
}

func TestHostPorts(t *testing.T) {
	t.Parallel()
	const ports = `
containers:
- {name: a, image: i, ports: [{containerPort: 80, hostPort: 8080}, {containerPort: 81}, {hostPort: 53, protocol: UDP, hostIP: 127.0.0.1}]}
- {name: b, image: i, ports: [{containerPort: 80, hostPort: 8080, protocol: sctp}, {containerPort: 1, hostPort: 53, protocol: UDP, hostIP: "::1"}, {containerPort: 2, hostPort: 9, hostIP: 0.0.0.0}]}
`
	want := []manifest.HostPort{
		{Protocol: "tcp", Port: 8080},
		{Protocol: "udp", IP: "127.0.0.1", Port: 53},
		{Protocol: "sctp", Port: 8080},
		{Protocol: "udp", IP: "::1", Port: 53},
		{Protocol: "tcp", Port: 9},
	}
	if diff := cmp.Diff(want, plan(t, ports).HostPorts); diff != "" {
		t.Errorf("ports (-want +got):\n%s", diff)
	}
	want = slices.Insert(want, 1, manifest.HostPort{Protocol: "tcp", Port: 81})
	if diff := cmp.Diff(want, plan(t, "hostNetwork: true\n"+ports).HostPorts); diff != "" {
		t.Errorf("ports in the host's network (-want +got):\n%s", diff)
	}
}

func TestHostPortsInvalid(t *testing.T) {
	t.Parallel()
	for ports, reason := range map[string]string{
		"[{containerPort: 0}]":                                                   "no containerPort",
		"[{containerPort: 65536}]":                                               "65535",
		"[{containerPort: -1}]":                                                  "65535",
		"[{containerPort: 80, hostPort: 70000}]":                                 "65535",
		"[{containerPort: '80'}]":                                                "65535",
		"[{containerPort: 80.5}]":                                                "65535",
		"[{containerPort: 80, protocol: ICMP}]":                                  "none of TCP",
		"[{containerPort: 80, protocol: [TCP]}]":                                 "none of TCP",
		"[{containerPort: 80, hostPort: 80, hostIP: nowhere}]":                   "no address",
		"[{containerPort: 80, hostPort: 80, hostIP: fe80::1%eth0}]":              "no address",
		"[{containerPort: 1, hostPort: 80}, {containerPort: 2, hostPort: 80}]":   "twice",
		"[{containerPort: 1, hostPort: 80, hostIP: 10.0.0.1}, {hostPort: 80}]":   "twice",
		"[{hostPort: 80, hostIP: '::'}, {containerPort: 5, hostPort: 80}]":       "twice",
		"[{hostPort: 80, hostIP: '10.0.0.1'}, {hostPort: 80, hostIP: 10.0.0.1}]": "twice",
		"80":   "not a list",
		"[80]": "not an object",
	} {
		_, err := render(t, "{containers: [{name: a, image: i, ports: "+ports+"}]}")
		refused(t, err, reason)
	}
}

func TestHostPaths(t *testing.T) {
	t.Parallel()
	p := plan(t, `
containers: [{name: a, image: i}]
volumes:
- {name: b, hostPath: {path: /srv//b/./, type: DirectoryOrCreate}}
- {name: a, hostPath: {path: /srv/a, type: Directory}}
- {name: c, hostPath: {path: /srv/b, type: ""}}
- {name: d, hostPath: {path: /dev/null, type: CharDevice}}
- {name: e, hostPath: {path: /dev/sda, type: BlockDevice}}
- {name: f, hostPath: {path: /run/s, type: Socket}}
- {name: g, hostPath: {path: /etc/f, type: File}}
- {name: h, hostPath: {path: /etc/g, type: FileOrCreate}}
- {name: i, hostPath: {path: /..x}}
- {name: j, configMap: {name: none, optional: true}}`)
	devices := []manifest.Device{{Path: "/dev/null"}, {Path: "/dev/sda", Block: true}}
	if diff := cmp.Diff(devices, p.Devices); diff != "" {
		t.Errorf("devices (-want +got):\n%s", diff)
	}
	want := []string{"/..x", "/dev/null", "/dev/sda", "/etc/f", "/etc/g", "/run/s", "/srv/a", "/srv/b"}
	if diff := cmp.Diff(want, p.HostPaths); diff != "" {
		t.Errorf("paths (-want +got):\n%s", diff)
	}
	for volume, reason := range map[string]string{
		"{name: v, hostPath: {path: srv}}":                              "not absolute",
		"{name: v, hostPath: {}}":                                       "not absolute",
		"{name: v, hostPath: {path: /srv/../etc}}":                      "..",
		`{name: v, hostPath: {path: "/srv/\n"}}`:                        "control",
		"{name: v, hostPath: {path: /dev/a:b, type: CharDevice}}":       "colon",
		"{name: v, hostPath: {path: /srv, type: Anything}}":             "none of",
		"{name: v, hostPath: {path: /srv, type: 1}}":                    "none of",
		"{name: v, hostPath: /srv}":                                     "not an object",
		"{name: V, emptyDir: {}}":                                       "lower-case",
		"{name: v}":                                                     "sources",
		"{name: v, emptyDir: {}, hostPath: {path: /srv}}":               "sources",
		"{name: v, emptyDir: {}}, {name: v, emptyDir: {}}":              "another volume",
		"{name: v, persistentVolumeClaim: {claimName: flotta_w_cache}}": "lower-case",
		"{name: v, projected: {sources: [{serviceAccountToken: {}}]}}":  "serviceAccountToken",
	} {
		_, err := render(t, "{containers: [{name: a, image: i}], volumes: ["+volume+"]}")
		refused(t, err, reason)
	}
}

func TestGrace(t *testing.T) {
	t.Parallel()
	for seconds, want := range map[string]time.Duration{"null": 0, "0": time.Second, "1": time.Second, "90": 90 * time.Second, "86400": 24 * time.Hour} {
		if got := plan(t, "{terminationGracePeriodSeconds: "+seconds+", containers: [{name: a, image: i}]}").Grace; got != want {
			t.Errorf("%s s gives %s, want %s", seconds, got, want)
		}
	}
	for _, seconds := range []string{"-1", "86401", "1.5", "'5'", "99999999999999999999"} {
		_, err := render(t, "{terminationGracePeriodSeconds: "+seconds+", containers: [{name: a, image: i}]}")
		refused(t, err, "terminationGracePeriodSeconds")
	}
}

// TestPodmanNames has two workloads that Podman would call by the same names:
// whoever runs both has to see it.
func TestPodmanNames(t *testing.T) {
	t.Parallel()
	names := func(workload, container string) []string {
		w := desired.Workload{Name: workload, PodSpec: spec(t, "{initContainers: [{name: init, image: i}], containers: [{name: "+container+", image: i}]}")}
		p, err := manifest.Render(w, nil, options())
		if err != nil {
			t.Fatal(err)
		}
		return p.PodmanNames
	}
	one, other := names("a", "b-c"), names("a-b", "c")
	if diff := cmp.Diff([]string{"a", "a-init", "a-b-c"}, one); diff != "" {
		t.Errorf("names (-want +got):\n%s", diff)
	}
	if !slices.Contains(one, "a-b-c") || !slices.Contains(other, "a-b-c") {
		t.Errorf("%v and %v do not show that they clash", one, other)
	}
	if third := names("a-b-c", "x"); !slices.Contains(third, "a-b-c") {
		t.Errorf("%v does not show that the pod clashes with a container", third)
	}
}

func TestEnvFrom(t *testing.T) {
	t.Parallel()
	p := plan(t, `
containers:
- name: a
  image: i
  envFrom:
  - {configMapRef: {name: words}}
  - {prefix: P_, configMapRef: {name: words}}
  - {secretRef: {name: db}}
  - {secretRef: {name: nowhere, optional: true}}
  - {configMapRef: {name: nowhere, optional: true}}
  - {somethingNew: {name: x}}
  env:
  - {name: A, value: own}
  - {name: GONE, valueFrom: {secretKeyRef: {name: nowhere, key: k, optional: true}}}
`, `{kind: ConfigMap, metadata: {name: words}, data: {A: "1", user: "2", "b=c": "3"}, binaryData: {bin: AA==}}`)
	c := pod(t, p)["containers"].([]any)[0].(map[string]any)
	got := map[string]string{}
	for _, item := range c["env"].([]any) {
		v := item.(map[string]any)
		name := v["name"].(string)
		if _, twice := got[name]; twice {
			t.Errorf("%s is there twice", name)
		}
		text, _ := v["value"].(string)
		if from, ok := v["valueFrom"].(map[string]any); ok {
			for kind, ref := range from {
				r := ref.(map[string]any)
				text = fmt.Sprint(kind, " ", r["name"], " ", r["key"])
			}
		}
		got[name] = text
	}
	db := p.Secrets[0].Name
	want := map[string]string{
		"A": "own", "user": "secretKeyRef " + db + " user", "password": "secretKeyRef " + db + " password",
		"P_A": "configMapKeyRef words A", "P_user": "configMapKeyRef words user", "DEVICE_ID": "device-1",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("variables (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]any{map[string]any{"somethingNew": map[string]any{"name": "x"}}}, c["envFrom"]); diff != "" {
		t.Errorf("sources that are not known (-want +got):\n%s", diff)
	}
}

func TestFiles(t *testing.T) {
	t.Parallel()
	const text = `
containers:
- name: a
  image: i
  volumeMounts:
  - {name: words, mountPath: /words}
  - {name: words, mountPath: /etc/one, subPath: A}
  - {name: all, mountPath: /all, subPath: deep}
volumes:
- {name: words, configMap: {name: words, defaultMode: 256}}
- {name: cache, emptyDir: {}}
- name: all
  projected:
    sources:
    - secret: {name: db, items: [{key: password, path: deep/er, mode: 288}]}
    - configMap: {name: words, items: [{key: B, path: b}, {key: Z, path: z}], optional: true}
`
	const words = `{kind: ConfigMap, metadata: {name: words}, data: {A: "1"}, binaryData: {B: AP8=}}`
	p := plan(t, text, words)
	want := map[string]string{
		"words/A": "-r-------- 1", "words/B": "-r-------- \x00\xff", "all/deep/er": "-r--r----- s3cret", "all/b": "-rw-r--r-- \x00\xff",
	}
	got := map[string]string{}
	for _, f := range p.Files.Files {
		got[f.Path] = f.Mode.String() + " " + f.Data.Reveal()
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"all", "words"}, p.Files.Volumes); diff != "" {
		t.Errorf("volumes (-want +got):\n%s", diff)
	}
	if !manifest.IsFilesFolder(p.Files.Folder) {
		t.Errorf("folder %q", p.Files.Folder)
	}
	folder := manifest.FilesFolder("/var/local/yggdrasil/device/workloads", "w", p.Files)
	sources := map[string]string{}
	for _, item := range pod(t, p)["volumes"].([]any) {
		v := item.(map[string]any)
		if path, ok := v["hostPath"].(map[string]any); ok {
			sources[v["name"].(string)] = fmt.Sprint(path["type"], " ", path["path"])
		} else {
			sources[v["name"].(string)] = "other"
		}
	}
	wantSources := map[string]string{
		"words": "DirectoryOrCreate " + folder + "/words", "all": "DirectoryOrCreate " + folder + "/all",
		"words_1": "FileOrCreate " + folder + "/words/A", "all_2": "DirectoryOrCreate " + folder + "/all/deep",
		"flotta_w_cache": "other", "export-w": "DirectoryOrCreate " + volumes + "/w",
	}
	if diff := cmp.Diff(wantSources, sources); diff != "" {
		t.Errorf("volumes (-want +got):\n%s", diff)
	}
	if strings.Contains(string(p.Manifest), "s3cret") {
		t.Error("the manifest holds the secret")
	}
	changed := plan(t, text, strings.Replace(words, `"1"`, `"2"`, 1))
	if changed.Files.Folder == p.Files.Folder || changed.Digest == p.Digest {
		t.Error("another content did not change the folder and the digest")
	}
	mode := plan(t, strings.Replace(text, "256", "292", 1), words)
	if mode.Files.Folder == p.Files.Folder {
		t.Error("another mode did not change the folder")
	}
}

func TestFilesInvalid(t *testing.T) {
	t.Parallel()
	const words = `{kind: ConfigMap, metadata: {name: words}, data: {A: "1", B: "2"}}`
	for volume, reason := range map[string]string{
		"configMap: {name: gone}":                                                   "was not sent",
		"secret: {secretName: gone}":                                                "was not sent",
		"configMap: {name: words, items: [{key: Z, path: z}]}":                      "no key",
		"configMap: {name: words, items: [{key: A, path: ../z}]}":                   "does not lead",
		"configMap: {name: words, items: [{key: A, path: /z}]}":                     "does not lead",
		"configMap: {name: words, items: [{key: A, path: .}]}":                      "does not lead",
		"configMap: {name: words, items: [{key: A}]}":                               "does not lead",
		"configMap: {name: words, items: [{key: A, path: x}, {key: B, path: x/y}]}": "file and a folder",
		"configMap: {name: words, items: [{key: A, path: x/y}, {key: B, path: x}]}": "file and a folder",
		"configMap: {name: words, defaultMode: 512}":                                "defaultMode",
		"configMap: {name: words, items: [{key: A, path: a, mode: '7'}]}":           "mode",
		"projected: {sources: [{configMap: {name: gone}}]}":                         "sources[0].configMap",
	} {
		_, err := render(t, "{containers: [{name: a, image: i}], volumes: [{name: v, "+volume+"}]}", words)
		refused(t, err, reason)
	}
	for mount, reason := range map[string]string{
		"{name: gone, mountPath: /x}":                         "no volume",
		"{name: v, mountPath: /x, subPath: Z}":                "no file",
		"{name: v, mountPath: /x, subPath: ../A}":             "does not lead",
		"{name: v, mountPath: /}":                             "no folder",
		"{name: v, mountPath: '/export:ro'}":                  "/export",
		"{name: v, mountPath: /x}, {name: v, mountPath: /x/}": "two mounts",
	} {
		_, err := render(t, "{containers: [{name: a, image: i, volumeMounts: ["+mount+"]}], volumes: [{name: v, configMap: {name: words}}]}", words)
		refused(t, err, reason)
	}
	for _, bad := range []string{`data: {"a/b": x}`, `data: {"..": x}`, "data: {a: 1}", "binaryData: {a: '!'}", "data: {a: x}, binaryData: {a: AA==}", "data: []"} {
		_, err := render(t, "{containers: [{name: a, image: i}]}", "{kind: ConfigMap, metadata: {name: words}, "+bad+"}")
		refused(t, err, "config map 1")
	}
}

func TestEnvInvalid(t *testing.T) {
	t.Parallel()
	for container, reason := range map[string]string{
		"envFrom: [{configMapRef: {name: gone}}]":                                             "was not sent",
		"envFrom: [{secretRef: {name: gone}}]":                                                "was not sent",
		"env: [{name: '', value: x}]":                                                         "no name",
		"env: [{name: 'a=b', value: x}]":                                                      "no name",
		"env: [{name: a, value: 5}]":                                                          "not a text",
		"env: [{name: a, valueFrom: {configMapKeyRef: {name: gone, key: x}}}]":                "was not sent",
		"env: [{name: a, valueFrom: {configMapKeyRef: {name: words, key: x}}}]":               "no key",
		"livenessProbe: {httpGet: {port: web}}":                                               "no port",
		"livenessProbe: {tcpSocket: {port: 0}}":                                               "port",
		"ports: [{name: web, containerPort: 80}], readinessProbe: {tcpSocket: {port: other}}": "no port",
	} {
		_, err := render(t, "{containers: [{name: a, image: i, "+container+"}]}", "{kind: ConfigMap, metadata: {name: words}}")
		refused(t, err, reason)
	}
	for container, reason := range map[string]string{
		"livenessProbe: {exec: {command: [x]}}": "livenessProbe", "lifecycle: {preStop: {}}": "lifecycle", "restartPolicy: Always": "make it a container",
	} {
		_, err := render(t, "{initContainers: [{name: z, image: i, "+container+"}], containers: [{name: a, image: i}]}")
		refused(t, err, reason)
	}
}

func TestProbesAreWrittenOut(t *testing.T) {
	t.Parallel()
	p := plan(t, `
containers:
- name: a
  image: i
  ports: [{name: web, containerPort: 8080}]
  livenessProbe: {httpGet: {port: web}}
  startupProbe: {tcpSocket: {port: "81"}}`)
	c := pod(t, p)["containers"].([]any)[0].(map[string]any)
	got := map[string]any{"livenessProbe": c["livenessProbe"], "startupProbe": c["startupProbe"]}
	want := map[string]any{
		"livenessProbe": map[string]any{"httpGet": map[string]any{"port": 8080.0}},
		"startupProbe":  map[string]any{"tcpSocket": map[string]any{"port": 81.0, "host": "localhost"}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("probes (-want +got):\n%s", diff)
	}
}

// TestInitContainersOfOldPodman has the policy that keeps versions before 4.6
// from running init containers again and again.
func TestInitContainersOfOldPodman(t *testing.T) {
	t.Parallel()
	w := desired.Workload{Name: "w", PodSpec: spec(t, "{initContainers: [{name: z, image: i}], containers: [{name: a, image: i}]}")}
	for version, want := range map[string]any{"": "OnFailure", "4.3.1": "OnFailure", "4.6.0": nil, "5.4.2": nil} {
		o := options()
		o.Podman = version
		p, err := manifest.Render(w, nil, o)
		if err != nil {
			t.Fatal(err)
		}
		if got := pod(t, p)["restartPolicy"]; got != want || p.RestartPolicy != manifest.RestartAlways {
			t.Errorf("Podman %q: policy %v in the manifest, want %v; %s in the plan", version, got, want, p.RestartPolicy)
		}
	}
}

// TestNamesNeverCollide has random pairs of valid names: what is made of them is
// the same only if they are.
func TestNamesNeverCollide(t *testing.T) {
	t.Parallel()
	const letters = "ab-."
	name := func(raw []byte) string {
		var b strings.Builder
		for _, c := range raw {
			b.WriteByte(letters[int(c)%len(letters)])
		}
		return b.String()
	}
	made := func(workload, volume string) (out []string, ok bool) {
		w := desired.Workload{Name: workload, PodSpec: []byte(`{"containers":[{"name":"c","image":"i"}],"volumes":[{"name":"` + volume + `","emptyDir":{}},{"name":"f","configMap":{"name":"x","optional":true}}]}`)}
		p, err := manifest.Render(w, nil, options())
		if err != nil {
			return nil, false
		}
		volumeName := ""
		for _, item := range pod(t, p)["volumes"].([]any) {
			if v := item.(map[string]any); v["emptyDir"] != nil {
				volumeName = v["name"].(string)
			}
		}
		return []string{
			p.PodmanNames[0], volumeName, manifest.VolumeDir(volumes, workload), manifest.FilesFolder("/w", workload, p.Files),
			"flotta-workload@" + p.Name + ".service",
		}, true
	}
	check := func(a, b, v, w []byte) bool {
		first, second := name(a), name(b)
		one, ok := made(first, name(v))
		if valid := manifest.CheckName(first) == ""; ok && !valid {
			return false
		}
		other, ok2 := made(second, name(w))
		if !ok || !ok2 || first == second {
			return true
		}
		for i := range one {
			if one[i] == other[i] || strings.HasPrefix(one[i], other[i]+"/") {
				t.Logf("%q and %q", one[i], other[i])
				return false
			}
		}
		return true
	}
	if err := quick.Check(check, &quick.Config{MaxCount: 3000}); err != nil {
		t.Error(err)
	}
}

func FuzzCheckName(f *testing.F) {
	for _, name := range []string{"", ".", "..", "../x", "-.mount", "a", "a.b", "a-.b", strings.Repeat("a", 64), "ä", "A", "a\x00", "a/b", "x@y", "%i", "\\x2d"} {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		if manifest.CheckName(name) != "" {
			return
		}
		if len(name) == 0 || len(name) > 63 || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-.") != "" ||
			strings.ContainsAny(name[:1]+name[len(name)-1:], "-.") || strings.Contains(name, "..") {
			t.Errorf("%q is taken for a name", name)
		}
	})
}

func jsonText(s string) string {
	raw, err := json.Marshal(s)
	if err != nil {
		return `""`
	}
	return string(raw)
}

// FuzzVolumes looks for a file that leads out of its volume.
func FuzzVolumes(f *testing.F) {
	f.Add("k", "a/b", "a")
	f.Add("..", "../x", "/")
	f.Fuzz(func(t *testing.T, key, path, sub string) {
		text := fmt.Sprintf("{\"containers\":[{\"name\":\"a\",\"image\":\"i\",\"volumeMounts\":[{\"name\":\"v\",\"mountPath\":\"/x\",\"subPath\":%s}]}],"+
			"\"volumes\":[{\"name\":\"v\",\"secret\":{\"secretName\":\"s\",\"items\":[{\"key\":%s,\"path\":%s}]}}]}", jsonText(sub), jsonText(key), jsonText(path))
		s := []desired.Secret{{Name: "s", Data: map[string]secret.Value{key: secret.New("x")}}}
		p, err := manifest.Render(desired.Workload{Name: "w", PodSpec: []byte(text)}, s, options())
		if err != nil {
			return
		}
		for _, file := range p.Files.Files {
			if !strings.HasPrefix(file.Path, "v/") || strings.Contains("/"+file.Path+"/", "/../") || strings.ContainsRune(file.Path, 0) {
				t.Errorf("file %q", file.Path)
			}
		}
	})
}
