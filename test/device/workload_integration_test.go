//go:build integration

package device_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/project-flotta/flotta-agent/test/device"
	"github.com/project-flotta/flotta-agent/test/image"
)

const (
	testImage = "localhost/flotta-test:v1"
	unit      = "flotta-workload@my-x.service"
)

// stage writes a manifest as the agent does: readable for flotta only.
func stage(t *testing.T, d *device.Device, ref, args string) {
	t.Helper()
	const manifest = `apiVersion: v1
kind: Pod
metadata:
  name: my-x
  labels:
    io.project-flotta.workload: my-x
spec:
  restartPolicy: Always
  containers:
  - name: app
    image: %s
    imagePullPolicy: IfNotPresent
    args: [%s]
    ports:
    - containerPort: 8080
      hostPort: 18080
`
	path := "/var/local/yggdrasil/device/workloads/my-x/manifest.yaml"
	must(t, "write manifest", d.WriteFile(path, fmt.Appendf(nil, manifest, ref, args), 0o640))
	run(t, d, "chown", "root:flotta", path)
}

func containers(t *testing.T, d *device.Device) string {
	t.Helper()
	return runUser(t, d, "podman", "ps", "--all", "--format", "{{.Names}} {{.Status}}")
}

func version(d *device.Device) string {
	client := http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get("http://" + d.Addr() + ":18080/version")
	if err != nil {
		return ""
	}
	defer func() { _ = resp.Body.Close() }()
	body, _ := io.ReadAll(resp.Body)
	return string(body)
}

func show(t *testing.T, d *device.Device, property string) string {
	t.Helper()
	return runUser(t, d, "systemctl", "--user", "show", "--value", "--property="+property, unit)
}

func TestWorkloadUnit(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	start := time.Now()
	d := device.New(t, device.Config{})
	t.Logf("booted in %s", time.Since(start).Round(time.Millisecond))
	start = time.Now()
	must(t, "add image", d.AddImage(ctx, device.User, image.Spec{Ref: testImage}))
	t.Logf("imported in %s", time.Since(start).Round(time.Millisecond))
	stage(t, d, testImage, "serve")
	start = time.Now()
	runUser(t, d, "systemctl", "--user", "enable", "--now", unit)
	t.Logf("first pod started in %s", time.Since(start).Round(time.Millisecond))
	serving := func() bool { return version(d) == "v1" }
	eventually(t, "the container answers the host", 20*time.Second, serving)
	if got, want := show(t, d, "Slice"), "flotta.slice"; got != want {
		t.Errorf("slice %q, want %q", got, want)
	}

	// Podman restarts what dies in the pod; systemd restarts the pod.
	inspect := func(format, name string) string { return runUser(t, d, "podman", "inspect", "--format", format, name) }
	before := inspect("{{.State.Pid}}", "my-x-app")
	run(t, d, "kill", "-KILL", before)
	eventually(t, "Podman restarts the container", 20*time.Second, func() bool {
		now := inspect("{{.State.Pid}}", "my-x-app")
		return now != before && now != "0" && serving()
	})
	if n := show(t, d, "NRestarts"); n != "0" {
		t.Errorf("the unit restarted %s times with its container", n)
	}
	service := func() string { return runUser(t, d, "podman", "ps", "--quiet", "--filter", "name=-service") }
	for i, kill := range []func() string{
		func() string { return show(t, d, "MainPID") },
		func() string { return inspect("{{.State.Pid}}", service()) },
	} {
		run(t, d, "kill", "-KILL", kill())
		eventually(t, "systemd restarts the pod", 60*time.Second, func() bool {
			return show(t, d, "NRestarts") == fmt.Sprint(i+1) && show(t, d, "ActiveState") == "active" && serving()
		})
	}

	// A stop is orderly and leaves nothing.
	start = time.Now()
	runUser(t, d, "systemctl", "--user", "stop", unit)
	t.Logf("pod stopped in %s", time.Since(start).Round(time.Millisecond))
	if ps, state := containers(t, d), show(t, d, "ActiveState"); ps != "" || state != "inactive" {
		t.Errorf("after the stop the unit is %s, containers: %q", state, ps)
	}
	start = time.Now()
	runUser(t, d, "systemctl", "--user", "start", unit)
	t.Logf("pod started in %s", time.Since(start).Round(time.Millisecond))

	// A device without power and without network runs what it ran.
	must(t, "cut network", d.CutNetwork(ctx))
	must(t, "cut power", d.PowerCut())
	must(t, "power on", d.PowerOn(ctx))
	eventually(t, "the pod is back by itself, without network", 60*time.Second, func() bool {
		return strings.Contains(containers(t, d), "my-x-app Up")
	})
	// On a busy machine systemd can miss Podman's word that the pod has started, because
	// the process that sent it has ended by the time that it is looked up.
	if n := show(t, d, "NRestarts"); n > "1" {
		t.Errorf("the unit was restarted %s times", n)
	}
	must(t, "restore network", d.RestoreNetwork(ctx))
	eventually(t, "the container answers the host", 20*time.Second, serving)
}

func TestWorkloadUnitNeverGivesUp(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	d := device.New(t, device.Config{})
	stage(t, d, "localhost/flotta-test:v2", "serve")
	if _, err := d.RunAs(ctx, device.User, "systemctl", "--user", "start", unit); err == nil {
		t.Error("a pod without an image started")
	}
	eventually(t, "systemd tries again", 60*time.Second, func() bool { return show(t, d, "NRestarts") >= "2" })
	must(t, "add image", d.AddImage(ctx, device.User, image.Spec{Ref: "localhost/flotta-test:v2"}))
	eventually(t, "the pod runs now", 60*time.Second, func() bool { return version(d) == "v2" })

	// A manifest that no longer parses must not keep the old pod from ending.
	must(t, "break manifest", d.WriteFile("/var/local/yggdrasil/device/workloads/my-x/manifest.yaml", []byte(":"), 0o644))
	_, _ = d.RunAs(ctx, device.User, "systemctl", "--user", "stop", unit)
	if ps := containers(t, d); ps != "" {
		t.Errorf("after the stop there is %q", ps)
	}
}

// TestRootfulContainerOnV1 is about the hosts that have v1 controllers; on any
// other one, containers of root run on an ordinary device.
func TestRootfulContainer(t *testing.T) {
	t.Parallel()
	host, err := device.DetectHost()
	must(t, "detect host", err)
	cfg := device.Config{Cgroup: device.CgroupV1}
	if host.PureCgroupV2 {
		if _, err := device.Boot(t.Context(), cfg); err == nil {
			t.Error("a v1 device booted on a v2 host")
		}
		cfg.Cgroup = device.CgroupV2
	}
	d := device.New(t, cfg)
	must(t, "add image", d.AddImage(t.Context(), "root", image.Spec{Ref: testImage}))
	run(t, d, "podman", "run", "--detach", "--name", "x", "--memory", "64m", "--publish", "18080:8080", testImage)
	eventually(t, "the container answers the host", 20*time.Second, func() bool { return version(d) == "v1" })
}

// A unit is done with when its last process has ended, also one that is no child
// of systemd's. On v1 the kernel tells only who asked outside of all containers.
func TestUnitEndsWithItsLastProcess(t *testing.T) {
	t.Parallel()
	host, err := device.DetectHost()
	must(t, "detect host", err)
	cfg := device.Config{Cgroup: device.CgroupV1}
	if host.PureCgroupV2 {
		cfg.Cgroup = device.CgroupV2
	}
	d := device.New(t, cfg)
	run(t, d, "sh", "-euc", `
		systemd-run --quiet --unit=lasting sleep 1000
		group=/sys/fs/cgroup/systemd
		[ -e $group ] || group=/sys/fs/cgroup
		group=$group$(systemctl show --property=ControlGroup --value lasting)
		sh -c 'trap "sleep 1; exit" TERM; while :; do sleep 0.1; done' &
		echo $! >$group/cgroup.procs
		timeout 30 systemctl stop lasting`)
}
