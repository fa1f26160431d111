//go:build device

package e2e

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/project-flotta/flotta-agent/test/image"
	"github.com/project-flotta/flotta-agent/test/site"
)

// tool is a file of the device that stands in for sh, curl and nc, which the test
// image lacks and Podman's health checks use.
const tool = "/opt/flotta/tool"

// TestFeatures shows from inside of real containers what a pod may ask for. The
// workloads are deployed at once; each part looks at its own.
func TestFeatures(t *testing.T) {
	t.Parallel()
	r := newRig(t, site.EdgeConfig{})
	program, err := image.Program(r.ctx)
	must(t, err)
	raw, err := os.ReadFile(program)
	must(t, err)
	must(t, r.edge.WriteFile(tool, raw, 0o755))
	parts := []struct {
		name   string
		deploy func(r *rig)
		check  func(r *rig)
	}{
		{"init containers, containers, commands, variables and an emptyDir", deployParts, checkParts},
		{"ConfigMaps and Secrets as files", deployFiles, checkFiles},
		{"paths and devices of the host", deployPaths, checkPaths},
		{"the host's network", deployHostNetwork, checkHostNetwork},
		{"probes", deployProbes, checkProbes},
		{"restart policies", deployPolicies, checkPolicies},
		{"time to end", deployGrace, checkGrace},
		{"security contexts", deploySecurity, checkSecurity},
		{"resources", func(*rig) {}, checkResources},
	}
	for _, p := range parts {
		p.deploy(r)
	}
	for _, p := range parts {
		r.sub(p.name, p.check)
	}
}

// podSpec saves a workload with that PodSpec, and further metadata.
func (r *rig) podSpec(name, metadata, spec string) {
	r.Helper()
	r.save(name+".yaml", fmt.Sprintf(`apiVersion: management.project-flotta.io/v1alpha1
kind: EdgeWorkload
metadata:
  name: %s
%s
spec:
  type: pod
  device: %q
  pod:
    spec:
%s
`, name, indent(metadata, 2), r.edge.ID(), indent(strings.ReplaceAll(spec, "IMAGE", imageV1), 6)))
}

// query asks the test program behind a port of the device.
func (r *rig) query(port, path string, query ...string) (string, error) {
	values := url.Values{}
	for i := 0; i+1 < len(query); i += 2 {
		values.Set(query[i], query[i+1])
	}
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	req, err := http.NewRequestWithContext(r.ctx, http.MethodGet, "http://"+r.edge.Addr()+":"+port+path+"?"+values.Encode(), nil)
	if err != nil {
		return "", err
	}
	resp, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	return string(body), err
}

// tells waits until the test program answers that to a question about a path.
func (r *rig) tells(port, question, path, want string) {
	r.Helper()
	r.until(fmt.Sprintf("port %s says of %s %s", port, question, path), func() error {
		got, err := r.query(port, question, "path", path)
		if err == nil && got != want {
			err = fmt.Errorf("%q, want %q", got, want)
		}
		return err
	})
}

// has waits until the answer to a question about a path has something in it.
func (r *rig) has(port, question, path, want string) {
	r.Helper()
	r.until(fmt.Sprintf("port %s says of %s %s", port, question, path), func() error {
		got, err := r.query(port, question, "path", path)
		if err == nil && !strings.Contains(got, want) {
			err = fmt.Errorf("%q, want something with %q", got, want)
		}
		return err
	})
}

// inspect returns a field of a container of a workload.
func (r *rig) inspect(name, field string) string {
	r.Helper()
	out, err := r.edge.Podman(r.ctx, "inspect", "--format", "{{"+field+"}}", name)
	must(r.T, err)
	return out
}

// noted waits until the Edge API has heard a note about a workload.
func (r *rig) noted(workload, text string) {
	r.Helper()
	r.until(workload+" is reported with a note of "+text, func() error {
		d, err := r.site.Device(r.edge.ID())
		if err != nil {
			return err
		}
		for _, w := range d.Status.Workloads {
			if w.Name == workload && strings.Contains(strings.Join(w.Notes, "\n"), text) {
				return nil
			}
		}
		return fmt.Errorf("workloads: %+v", d.Status.Workloads)
	})
}

func deployParts(r *rig) {
	r.save("parts-words.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: parts-words}\ndata: {GREETING: hello, WHO: configmap}\n")
	r.save("parts-keys.yaml", "apiVersion: v1\nkind: Secret\nmetadata: {name: parts-keys}\nstringData: {WHO: secret, TOKEN: t0ken}\n")
	r.podSpec("parts", `labels: {podman/example.com/place: hall, other: x}
annotations: {podman/example.com/note: words, podman/io.containers.autoupdate: local, other: x}`, `
fieldOfTomorrow: {deep: [1, {x: "y"}]}
initContainers:
- name: first
  image: IMAGE
  args: [put, /cache/first, "one"]
  volumeMounts: [{name: cache, mountPath: /cache}]
- name: second
  image: IMAGE
  command: [/app, put]
  args: [/cache/second, "two, of $(DEVICE_ID)"]
  volumeMounts: [{name: cache, mountPath: /cache}]
containers:
- name: app
  image: IMAGE
  command: [/app]
  args: [serve, "8080", "an argument with blanks"]
  workingDir: /tmp
  ports: [{containerPort: 8080, hostPort: 18100}]
  envFrom:
  - configMapRef: {name: parts-words}
  - {prefix: IN_, secretRef: {name: parts-keys}}
  - secretRef: {name: nowhere, optional: true}
  env:
  - {name: WHO, value: env}
  - {name: EMPTY, value: ""}
  - {name: TOKEN, valueFrom: {secretKeyRef: {name: parts-keys, key: TOKEN}}}
  - {name: GREETED, valueFrom: {configMapKeyRef: {name: parts-words, key: GREETING}}}
  - {name: NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
  - {name: PLACE, valueFrom: {fieldRef: {fieldPath: "metadata.labels['example.com/place']"}}}
  volumeMounts: [{name: cache, mountPath: /cache}]
- name: side
  image: IMAGE
  args: [serve, "8081"]
  ports: [{containerPort: 8081, hostPort: 18101}]
  volumeMounts: [{name: cache, mountPath: /elsewhere}]
volumes:
- {name: cache, emptyDir: {}}
`)
	// Another pod's volume of the same name is another one.
	r.podSpec("stranger", "", `
containers:
- name: app
  image: IMAGE
  args: [serve, "8080"]
  ports: [{containerPort: 8080, hostPort: 18102}]
  volumeMounts: [{name: cache, mountPath: /cache}]
volumes:
- {name: cache, emptyDir: {}}
`)
}

func checkParts(r *rig) {
	r.tells("18100", "/read", "/cache/first", "one")
	r.has("18100", "/read", "/cache/second", "two")
	r.tells("18100", "/args", "", "/app\nserve\n8080\nan argument with blanks")
	r.tells("18100", "/host", "", "parts /tmp")
	for name, want := range map[string]string{
		"GREETING": "hello", "WHO": "env", "IN_WHO": "secret", "IN_TOKEN": "t0ken", "TOKEN": "t0ken", "EMPTY": "",
		"GREETED": "hello", "NAME": "parts", "PLACE": "hall", "DEVICE_ID": r.edge.ID(),
	} {
		r.answers("18100", "/env?name="+name, want)
	}
	r.answers("18101", "/env?name=DEVICE_ID", r.edge.ID())
	// Both containers see one volume, and the other pod does not.
	if got, err := r.query("18100", "/touch", "path", "/cache/shared", "text", "both"); err != nil || got != "ok" {
		r.Errorf("write: %q %v", got, err)
	}
	r.tells("18101", "/read", "/elsewhere/shared", "both")
	r.tells("18102", "/list", "/cache", "")
	labels, err := r.edge.Podman(r.ctx, "pod", "inspect", "--format", "{{.Labels}}", "parts")
	must(r.T, err)
	if !strings.Contains(labels, "example.com/place:hall") || strings.Contains(labels, "other:") {
		r.Errorf("labels of the pod: %s", labels)
	}
	if got := r.inspect("parts-app", `index .Config.Labels "io.containers.autoupdate"`); got != "local" {
		r.Errorf("the container's label for automatic updates is %q", got)
	}
	if got := r.inspect("parts-app", `index .Config.Annotations "example.com/note"`); got != "words" {
		r.Errorf("the container's annotation is %q", got)
	}
	manifest, err := r.edge.ReadFile("/var/local/yggdrasil/device/workloads/parts/manifest.yaml")
	must(r.T, err)
	if !strings.Contains(string(manifest), "fieldOfTomorrow:\n    deep:") {
		r.Error("a field that nobody knows did not get into the manifest")
	}
	r.noted("parts", "fieldOfTomorrow")
	for _, name := range []string{"parts", "stranger"} {
		r.remove(name + ".yaml")
		r.gone(name)
	}
	if left, err := r.edge.Podman(r.ctx, "volume", "ls", "--noheading"); err != nil || strings.Contains(left, "cache") {
		r.Errorf("volumes are left: %s %v", left, err)
	}
}

func deployHostNetwork(r *rig) {
	r.podSpec("outside", "", `
hostNetwork: true
containers:
- name: app
  image: IMAGE
  args: [serve, "18110"]
  ports: [{containerPort: 18110}]
`)
}

func checkHostNetwork(r *rig) {
	r.answers("18110", "/version", "v1")
	want, err := r.edge.Run(r.ctx, "readlink", "/proc/1/ns/net")
	must(r.T, err)
	pid := r.inspect("outside-app", ".State.Pid")
	got, err := r.edge.Run(r.ctx, "readlink", "/proc/"+pid+"/ns/net")
	must(r.T, err)
	if got.Stdout != want.Stdout {
		r.Errorf("the container's network is %s, the host's %s", got.Stdout, want.Stdout)
	}
	r.remove("outside.yaml")
	r.gone("outside")
}

func deployGrace(r *rig) {
	for name, env := range map[string]string{"patient": "12s", "hasty": "50s"} {
		grace := map[string]string{"patient": "30", "hasty": "2"}[name]
		r.podSpec(name, "", fmt.Sprintf(`
terminationGracePeriodSeconds: %s
containers:
- name: app
  image: IMAGE
  args: [sleep]
  env: [{name: LINGER, value: %s}]
`, grace, env))
	}
}

// checkGrace has one workload need more than Podman's 10 s, which it is given,
// and one more than it asked for.
func checkGrace(r *rig) {
	r.running("patient", "app")
	r.running("hasty", "app")
	began := time.Now()
	r.remove("hasty.yaml")
	r.remove("patient.yaml")
	r.gone("hasty")
	if took := time.Since(began); took > 45*time.Second { // it would linger for 50 s
		r.Errorf("the workload that is given 2 s was removed after %s", took.Round(time.Second))
	}
	r.gone("patient")
	for name, want := range map[string]bool{"patient": true, "hasty": false} {
		_, err := os.Stat(r.edge.Path(filepath.Join(site.Export(name), "lingered")))
		if got := err == nil; got != want {
			r.Errorf("%s came to its end by itself: %t, want %t", name, got, want)
		}
	}
}

func deployPolicies(r *rig) {
	for policy, code := range map[string]string{"Never": "3", "OnFailure": "0", "Always": "0"} {
		r.podSpec("ends-"+strings.ToLower(policy), "", fmt.Sprintf(`
restartPolicy: %s
containers:
- name: app
  image: IMAGE
  args: [exit, "%s", 3s]
`, policy, code))
	}
	r.podSpec("retries-onfailure", "", `
restartPolicy: OnFailure
containers:
- name: app
  image: IMAGE
  args: [exit, "5", 3s]
- name: main
  image: IMAGE
  args: [sleep]
`)
}

func checkPolicies(r *rig) {
	for name, code := range map[string]string{"ends-never": "3", "ends-onfailure": "0"} {
		r.until(name+" has come to its end", func() error {
			out, err := r.edge.Podman(r.ctx, "ps", "--all", "--filter", "name=^"+name+"-app$", "--format", "{{.ID}} {{.State}}")
			if err == nil && !strings.Contains(strings.ToLower(out), "exited") {
				err = fmt.Errorf("container: %q", out)
			}
			return err
		})
		id := r.inspect(name+"-app", ".Id")
		if got := r.inspect(name+"-app", ".State.ExitCode"); got != code {
			r.Errorf("%s ended with %s, want %s", name, got, code)
		}
		hold(r.T, 10*time.Second, func() error {
			out, err := r.edge.Podman(r.ctx, "inspect", "--format", "{{.Id}} {{.State.Status}} {{.RestartCount}}", name+"-app")
			if err == nil && out != id+" exited 0" {
				err = fmt.Errorf("%s did not stay as it ended: %s", name, out)
			}
			return err
		})
	}
	r.until("a container that fails is started again", func() error {
		if n := r.inspect("retries-onfailure-app", ".RestartCount"); n == "0" {
			return fmt.Errorf("it was not restarted")
		}
		return nil
	})
	for _, name := range []string{"ends-never", "ends-onfailure", "ends-always", "retries-onfailure"} {
		r.remove(name + ".yaml")
	}
	for _, name := range []string{"ends-never", "ends-onfailure", "ends-always", "retries-onfailure"} {
		r.gone(name)
	}
}
