//go:build device

package e2e

import (
	"context"
	"fmt"
	"strings"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/project-flotta/flotta-agent/internal/desired"
	"github.com/project-flotta/flotta-agent/internal/workload/manifest"
	"github.com/project-flotta/flotta-agent/test/device"
)

func deployPaths(r *rig) {
	for _, command := range [][]string{
		{"mkdir", "-p", "/opt/flotta/dir", "/opt/flotta/plain"},
		{"sh", "-c", "echo in-a-folder >/opt/flotta/dir/x; echo in-a-file >/opt/flotta/file; echo plain >/opt/flotta/plain/x"},
		{"chown", "-R", device.User, "/opt/flotta"},
	} {
		_, err := r.edge.Run(r.ctx, command...)
		must(r.T, err)
	}
	r.podSpec("paths", "", fmt.Sprintf(`
containers:
- name: app
  image: IMAGE
  args: [serve, "8080"]
  ports: [{containerPort: 8080, hostPort: 18120}, {containerPort: 8080, hostPort: 18121, hostIP: 127.0.0.1}, {containerPort: 8080, hostPort: 18120, protocol: UDP}]
  volumeMounts:
  - {name: plain, mountPath: /plain}
  - {name: dir, mountPath: /dir, readOnly: true}
  - {name: dirorcreate, mountPath: /dirorcreate}
  - {name: file, mountPath: /file}
  - {name: fileorcreate, mountPath: /fileorcreate}
  - {name: socket, mountPath: /socket}
  - {name: char, mountPath: /dev/nothing}
  - {name: zero, mountPath: /dev/noughts}
volumes:
- {name: plain, hostPath: {path: /opt/flotta/plain}}
- {name: dir, hostPath: {path: /opt/flotta/dir, type: Directory}}
- {name: dirorcreate, hostPath: {path: /opt/flotta/made, type: DirectoryOrCreate}}
- {name: file, hostPath: {path: /opt/flotta/file, type: File}}
- {name: fileorcreate, hostPath: {path: /opt/flotta/written, type: FileOrCreate}}
- {name: socket, hostPath: {path: /run/user/%d/podman/podman.sock, type: Socket}}
- {name: char, hostPath: {path: /dev/null, type: CharDevice}}
- {name: zero, hostPath: {path: /dev/zero, type: CharDevice}}
`, r.edge.UID()))
}

func checkPaths(r *rig) {
	r.tells("18120", "/read", "/plain/x", "plain\n")
	r.tells("18120", "/read", "/dir/x", "in-a-folder\n")
	r.tells("18120", "/read", "/file", "in-a-file\n")
	for path, want := range map[string]string{"/dirorcreate/new": "ok", "/fileorcreate": "ok", "/dev/nothing": "ok", "/plain/y": "ok"} {
		if got, err := r.query("18120", "/touch", "path", path, "text", "from inside"); err != nil || got != want {
			r.Errorf("write %s: %q %v", path, got, err)
		}
	}
	if got, err := r.query("18120", "/touch", "path", "/dir/new"); err != nil || !strings.Contains(got, "read-only") {
		r.Errorf("write into a read-only mount: %q %v", got, err)
	}
	for path, want := range map[string]string{"/opt/flotta/made/new": "from inside", "/opt/flotta/written": "from inside"} {
		if got, err := r.edge.ReadFile(path); err != nil || string(got) != want {
			r.Errorf("%s on the device: %q %v", path, got, err)
		}
	}
	r.has("18120", "/stat", "/socket", "S")
	r.has("18120", "/stat", "/dev/nothing", "Dc")
	if got, err := r.query("18120", "/read", "path", "/dev/noughts"); err != nil || got != strings.Repeat("\x00", 64<<10) {
		r.Errorf("the device of zeroes gave %.20q %v", got, err)
	}
	if got, err := r.query("18121", "/version"); err == nil {
		r.Errorf("a port of the loopback answers from outside: %q", got)
	}
	ports := r.inspect("paths-app", ".NetworkSettings.Ports")
	if !strings.Contains(ports, "127.0.0.1 18121") || !strings.Contains(ports, "8080/udp") {
		r.Errorf("ports: %s", ports)
	}
	r.remove("paths.yaml")
	r.gone("paths")
}

func deploySecurity(r *rig) {
	r.podSpec("guarded", "", `
securityContext: {runAsUser: 1234, runAsGroup: 2345, supplementalGroups: [3456]}
containers:
- name: app
  image: IMAGE
  args: [serve, "8080"]
  ports: [{containerPort: 8080, hostPort: 18130}]
  securityContext: {allowPrivilegeEscalation: false, readOnlyRootFilesystem: true}
- name: weak
  image: IMAGE
  args: [serve, "8081"]
  ports: [{containerPort: 8081, hostPort: 18131}]
  securityContext: {runAsUser: 0, runAsGroup: 0, capabilities: {drop: [ALL], add: [NET_BIND_SERVICE]}}
- name: strong
  image: IMAGE
  args: [serve, "8082"]
  ports: [{containerPort: 8082, hostPort: 18132}]
  securityContext: {runAsUser: 0, runAsGroup: 0, privileged: true}
`)
}

func checkSecurity(r *rig) {
	const status = "/proc/self/status"
	r.has("18130", "/read", status, "Uid:\t1234\t1234\t1234\t1234\n")
	r.has("18130", "/read", status, "Gid:\t2345\t2345\t2345\t2345\n")
	r.has("18130", "/read", status, "Groups:\t2345 3456 \n")
	r.has("18130", "/read", status, "NoNewPrivs:\t1\n")
	if got, err := r.query("18130", "/touch", "path", "/app2"); err != nil || !strings.Contains(got, "read-only") && !strings.Contains(got, "denied") {
		r.Errorf("write to the root of a read-only container: %q %v", got, err)
	}
	if got := r.inspect("guarded-app", ".HostConfig.ReadonlyRootfs"); got != "true" {
		r.Errorf("read-only root: %s", got)
	}
	r.has("18131", "/read", status, "CapEff:\t0000000000000400\n")
	r.has("18131", "/read", status, "Uid:\t0\t0\t0\t0\n")
	if got := r.inspect("guarded-strong", ".HostConfig.Privileged"); got != "true" {
		r.Errorf("privileged: %s", got)
	}
	r.until("the privileged container has what others lack", func() error {
		got, err := r.query("18132", "/read", "path", status)
		if err == nil && strings.Contains(got, "CapEff:\t00000000a80425fb") || strings.Contains(got, "CapEff:\t00000000800405fb") {
			err = fmt.Errorf("its capabilities are the usual ones")
		}
		return err
	})
	r.remove("guarded.yaml")
	r.gone("guarded")
}

// lifeSign is a file of the device without which a container is not well.
const lifeSign = "/opt/flotta/probe/alive"

// deployProbes has what Podman makes of probes: a liveness probe is a health
// check, the others stand for themselves in the status.
func deployProbes(r *rig) {
	const tools = `
  volumeMounts: [{name: tool, mountPath: /bin/sh}, {name: tool, mountPath: /curl}, {name: tool, mountPath: /nc}]
`
	const volumes = `
volumes:
- {name: tool, hostPath: {path: ` + tool + `, type: File}}
- {name: probe, hostPath: {path: /opt/flotta/probe, type: Directory}}
`
	must(r.T, r.edge.WriteFile(lifeSign, nil, 0o644))
	r.podSpec("alive", "", `
containers:
- name: exec
  image: IMAGE
  args: [serve, "8080"]
  ports: [{containerPort: 8080, hostPort: 18140}]
  livenessProbe: {exec: {command: [/app, check, /probe/alive]}, periodSeconds: 2, timeoutSeconds: 20}
`+strings.Replace(tools, "[", "[{name: probe, mountPath: /probe}, ", 1)+`
- name: http
  image: IMAGE
  args: [serve, "8081"]
  ports: [{containerPort: 8081, name: web}]
  livenessProbe: {httpGet: {path: /version, port: web}, periodSeconds: 2, timeoutSeconds: 20}
`+tools+`
- name: tcp
  image: IMAGE
  args: [serve, "8082"]
  livenessProbe: {tcpSocket: {port: 8082}, periodSeconds: 2, timeoutSeconds: 20}
  readinessProbe: {exec: {command: [/app, check, /nowhere]}, periodSeconds: 2, timeoutSeconds: 20}
  startupProbe: {exec: {command: [/app, check, /app]}, periodSeconds: 2, timeoutSeconds: 20}
`+tools+volumes)
}

func checkProbes(r *rig) {
	for _, name := range []string{"alive-exec", "alive-http", "alive-tcp"} {
		r.until(name+" is healthy", func() error {
			got, err := r.edge.Podman(r.ctx, "inspect", "--format", "{{.State.Health.Status}}", name)
			if err == nil && got != "healthy" {
				err = fmt.Errorf("it is %q", got)
			}
			return err
		})
	}
	r.phase("alive", "Running")
	started := r.inspect("alive-exec", ".State.Status}} {{.State.StartedAt")
	r.noted("alive", "containers[2].readinessProbe")
	r.noted("alive", "containers[2].startupProbe")
	_, err := r.edge.Run(r.ctx, "rm", lifeSign)
	must(r.T, err)
	r.until("the unhealthy container is started again", func() error {
		got, err := r.edge.Podman(r.ctx, "inspect", "--format", "{{.State.Status}} {{.State.StartedAt}}", "alive-exec")
		if err == nil && (got == started || !strings.HasPrefix(got, "running ")) {
			err = fmt.Errorf("it is %s", got)
		}
		return err
	})
	r.remove("alive.yaml")
	r.gone("alive")
}

// checkResources plays a rendered manifest without starting it: on this device
// a user's pod may have no limits.
func checkResources(r *rig) {
	spec, err := yaml.YAMLToJSON([]byte(`
containers:
- name: app
  image: ` + imageV1 + `
  resources: {limits: {cpu: 250m, memory: 64Mi}, requests: {cpu: 100m, memory: 32Mi}}
`))
	must(r.T, err)
	plan, err := manifest.Render(desired.Workload{Name: "limited", PodSpec: spec}, nil, manifest.Options{VolumesDir: "/opt/flotta/volumes"})
	must(r.T, err)
	ctx, cancel := context.WithTimeout(r.ctx, time.Minute)
	defer cancel()
	// With the agent's label, it would be removed as something that nobody asked for.
	text := strings.ReplaceAll(string(plan.Manifest), manifest.LabelWorkload, "example.com/workload")
	_, err = r.edge.RunInput(ctx, device.User, strings.NewReader(text), "podman", "play", "kube", "--start=false", "-")
	must(r.T, err)
	for field, want := range map[string]string{
		".HostConfig.Memory": "67108864", ".HostConfig.MemoryReservation": "33554432",
		".HostConfig.CpuQuota": "25000", ".HostConfig.CpuPeriod": "100000",
	} {
		if got := r.inspect("limited-app", field); got != want {
			r.Errorf("%s is %s, want %s", field, got, want)
		}
	}
	_, err = r.edge.Podman(ctx, "pod", "rm", "--force", "limited")
	must(r.T, err)
}
