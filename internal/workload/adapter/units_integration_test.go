//go:build integration

package adapter_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/project-flotta/flotta-agent/internal/podman"
	"github.com/project-flotta/flotta-agent/internal/systemd"
	"github.com/project-flotta/flotta-agent/internal/workload"
	"github.com/project-flotta/flotta-agent/internal/workload/adapter"
	"github.com/project-flotta/flotta-agent/internal/workload/workloadtest"
	"github.com/project-flotta/flotta-agent/test/device"
	"github.com/project-flotta/flotta-agent/test/image"
)

// TestUnitsOfUser and TestUnitsOfRoot hold the two templates, and what Configure
// adds to them, to what they promise. They boot a device and run themselves
// there.
func TestUnitsOfUser(t *testing.T) {
	t.Parallel()
	testUnitsAs(t, device.User, device.CgroupV2)
}

func TestUnitsOfRoot(t *testing.T) {
	t.Parallel()
	testUnitsAs(t, "root", rootCgroup(t))
}

// rootCgroup is the hierarchy in which a device runs containers of root: on a
// host with v1 controllers, v2 has none.
func rootCgroup(t *testing.T) device.Cgroup {
	t.Helper()
	if os.Getenv(onDevice) != "" {
		return ""
	}
	host, err := device.DetectHost()
	if err != nil {
		t.Fatal(err)
	}
	if host.PureCgroupV2 {
		return device.CgroupV2
	}
	return device.CgroupV1
}

func testUnitsAs(t *testing.T, owner string, cgroup device.Cgroup) {
	if os.Getenv(onDevice) != "" {
		unitsOnDevice(t, owner)
		return
	}
	d := device.New(t, device.Config{Cgroup: cgroup})
	if err := d.AddImage(t.Context(), owner, image.Spec{Ref: testImage}); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	const program = "/usr/local/bin/adapter.test"
	if err := d.CopyIn(self, program, 0o755); err != nil {
		t.Fatal(err)
	}
	result, err := d.Run(t.Context(), "env", onDevice+"=1", program, "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=8m")
	t.Log(result.Stdout, result.Stderr)
	if err != nil {
		t.Fatal(err)
	}
}

func unitsOnDevice(t *testing.T, owner string) {
	account, err := user.Lookup(owner)
	must(t, err)
	uid, err := strconv.Atoi(account.Uid)
	must(t, err)
	h := &host{T: t, owner: owner, dropIns: adapter.SystemDropIns}
	sockets := [2]string{"/run/podman/podman.sock", systemd.SystemSocket}
	if uid != 0 {
		h.dropIns = adapter.UserDropIns
		sockets = [2]string{"/run/user/" + account.Uid + "/podman/podman.sock", systemd.UserSocket(uid)}
	}
	h.podman, err = podman.New(podman.Config{Socket: sockets[0]})
	must(t, err)
	defer h.podman.Close()
	h.manager, err = systemd.New(systemd.Config{Socket: sockets[1]})
	must(t, err)
	defer h.manager.Close()
	must(t, h.manager.Enable(t.Context(), "podman.socket"))
	must(t, h.manager.Start(t.Context(), "podman.socket"))
	h.pods, h.units = adapter.NewPods(h.podman), h.newUnits()
	if uid == 0 {
		h.sub("contract", func(h *host) {
			workloadtest.Contract(h.T, workloadtest.Subject{
				Runtime: h.pods, Units: h.units, Image: testImage, None: noImage,
				Stranger: func(name string) { stranger(h.T, h.podman, name) },
				Place:    func(name, digest, image string) { place(h.T, name, digest, image) },
			})
		})
	}
	h.sub("pods that end", testCompletion)
	h.sub("time to end", testGrace)
	h.sub("drop-in and manager", testDropInIsRead)
	h.sub("conditions", testConditions)
	h.sub("replacement", testReplacement)
	h.sub("starts that systemd misses", testMissed)
	h.sub("all at once", testTarget)
	h.sub("remains of starts", testRemains)
	if got := h.containers(); got != "" {
		t.Errorf("left: %s", got)
	}
}

// testCompletion has pods that come to their end, which then stay to be looked
// at, and can be started anew.
func testCompletion(h *host) {
	ctx := h.Context()
	flaky := "/var/tmp/flaky"
	must(h.T, os.MkdirAll(flaky, 0o777))
	must(h.T, os.Chmod(flaky, 0o777))
	for name, spec := range map[string]string{
		"well": "  restartPolicy: Never\n  containers:\n" + container("app", "args: [exit, '0', 300ms]"),
		"ill":  "  restartPolicy: Never\n  containers:\n" + container("app", "args: [exit, '3', 300ms]"),
		"both": "  restartPolicy: Never\n  containers:\n" + container("first", "args: [exit, '5']") + container("last", "args: [exit, '0', 3s]"),
		"flaky": "  restartPolicy: OnFailure\n  volumes: [{name: v, hostPath: {path: " + flaky + ", type: Directory}}]\n  containers:\n" +
			container("app", "args: [check, /v/ready]\n    volumeMounts: [{name: v, mountPath: /v}]"),
		"stays": "  restartPolicy: Never\n  containers:\n" + container("app", "args: [sleep]"),
	} {
		h.place(name, spec)
		must(h.T, h.units.Configure(ctx, name, workload.UnitSettings{Completes: true}))
		must(h.T, h.units.Start(ctx, name))
	}
	time.AfterFunc(2*time.Second, func() { _ = os.WriteFile(flaky+"/ready", nil, 0o600) })
	for name, want := range map[string]map[string]int32{
		"well": {"app": 0}, "ill": {"app": 3}, "both": {"first": 5, "last": 0}, "flaky": {"app": 0},
	} {
		u := h.settled(name, workload.UnitInactive)
		status, codes := h.codes(name)
		if u.Waiting || u.Result != "success" || status != "Exited" || !cmp.Equal(codes, want) {
			h.Errorf("%s ended as %+v, pod %s, codes %v, want %v", name, u, status, codes, want)
		}
	}
	// Stopped by hand, it stays as well; and started anew, it is a new one.
	h.settled("stays", workload.UnitActive)
	must(h.T, h.units.Stop(ctx, "stays"))
	before, _, err := h.pods.Pod(ctx, "stays")
	must(h.T, err)
	if status, codes := h.codes("stays"); status != "Exited" || !cmp.Equal(codes, map[string]int32{"app": 0}) {
		h.Errorf("stopped by hand: pod %s, codes %v", status, codes)
	}
	must(h.T, h.units.Start(ctx, "stays"))
	after, _, err := h.pods.Pod(ctx, "stays")
	must(h.T, err)
	if after.ID == before.ID || after.Status != workload.PodRunning {
		h.Errorf("started anew: %+v, before %+v", after, before)
	}
	// Podman's service is killed: nothing runs unsupervised. Where systemd is not
	// told of empty control groups, it takes a while.
	h.systemctl("kill", "--kill-whom=main", "--signal=KILL", "flotta-workload@stays.service")
	h.settled("stays", workload.UnitFailed)
	if status, _ := h.codes("stays"); status != "Exited" {
		h.Errorf("after the unit was killed, the pod is %s", status)
	}
	h.removed("well", "ill", "both", "flaky", "stays")
}

// testGrace has containers that take longer to end than Podman gives them by
// itself.
func testGrace(h *host) {
	ctx := h.Context()
	spec := "  terminationGracePeriodSeconds: 30\n  containers:\n" + container("app", "args: [sleep]\n    env: [{name: LINGER, value: 12s}]")
	for name, s := range map[string]workload.UnitSettings{
		"slow-end": {StopTimeout: 30 * time.Second},
		"slow-job": {StopTimeout: 30 * time.Second, Completes: true},
	} {
		h.place(name, spec)
		must(h.T, h.units.Configure(ctx, name, s))
		must(h.T, h.units.Start(ctx, name))
	}
	// An update, a stop of one that stays and a stop of one that goes.
	ended := make(chan error, 1)
	go func() { ended <- h.units.Stop(ctx, "slow-job") }()
	must(h.T, h.units.Restart(ctx, "slow-end"))
	must(h.T, <-ended)
	if _, codes := h.codes("slow-job"); !cmp.Equal(codes, map[string]int32{"app": 0}) {
		h.Errorf("it was not given the time to end: %v", codes)
	}
	h.settled("slow-end", workload.UnitActive)
	must(h.T, h.units.Stop(ctx, "slow-end"))
	h.removed("slow-end", "slow-job")
	died := h.as("podman", "events", "--stream=false", "--since=15m", "--filter=event=died", "--filter=container=slow-end-app", "--format={{.ContainerExitCode}}")
	if want := "0\n0"; died != want {
		h.Errorf("the containers ended with codes %q, want %q", died, want)
	}
}

// testDropInIsRead: what is written is what the manager goes by, whoever died or
// meddled in between.
func testDropInIsRead(h *host) {
	ctx := h.Context()
	const name = "read"
	property := func(p string) string {
		return h.systemctl("show", "--value", "--property="+p, "flotta-workload@"+name+".service")
	}
	is := func(units *adapter.Units, want workload.UnitSettings) {
		h.Helper()
		one, err := units.Unit(ctx, name)
		must(h.T, err)
		all, err := units.Units(ctx)
		must(h.T, err)
		if !one.Settings.Equal(want) || !all[name].Settings.Equal(want) {
			h.Errorf("settings are %+v, and %+v in the list, want %+v", one.Settings, all[name].Settings, want)
		}
	}
	h.place(name, "  containers:\n"+container("app", "args: [sleep]"))
	before := property("TimeoutStopUSec")
	s := workload.UnitSettings{StopTimeout: 2 * time.Minute, Mounts: []string{"/"}}
	must(h.T, h.units.Configure(ctx, name, s))
	is(h.units, s)
	if got := property("TimeoutStopUSec"); got != "3min" {
		h.Errorf("stop timeout %s, want 3min", got)
	}
	// Written, and then the agent died: the next one finds out.
	path := h.dropIns + "/flotta-workload@" + name + ".service.d/50-flotta.conf"
	text, err := os.ReadFile(path)
	must(h.T, err)
	must(h.T, h.units.Configure(ctx, name, workload.UnitSettings{}))
	if got := property("TimeoutStopUSec"); got != before {
		h.Errorf("stop timeout %s without a drop-in, want %s", got, before)
	}
	must(h.T, os.MkdirAll(filepath.Dir(path), 0o755))
	must(h.T, os.WriteFile(path, text, 0o644))
	is(h.units, s)
	must(h.T, h.newUnits().Configure(ctx, name, s))
	if got := property("TimeoutStopUSec"); got != "3min" {
		h.Errorf("stop timeout %s, want 3min", got)
	}
	// By hand: added to, and deleted.
	must(h.T, os.WriteFile(path, append(text, "ExecStartPre=/bin/false\n"...), 0o644))
	one, err := h.units.Unit(ctx, name)
	must(h.T, err)
	if one.Settings.Equal(s) || one.Settings.Equal(workload.UnitSettings{}) {
		h.Errorf("a change by hand is not seen: %+v", one.Settings)
	}
	must(h.T, h.units.Configure(ctx, name, s))
	is(h.units, s)
	must(h.T, os.RemoveAll(filepath.Dir(path)))
	is(h.units, workload.UnitSettings{})
	must(h.T, h.units.Configure(ctx, name, s))
	is(h.units, s)
	h.removed(name)
}

// testConditions: a unit is skipped while a mount is missing, and while somebody
// works on its workload.
func testConditions(h *host) {
	ctx := h.Context()
	const name = "careful"
	h.place(name, "  containers:\n"+container("app", "args: [sleep]"))
	starts := func() bool {
		h.Helper()
		must(h.T, h.units.Start(ctx, name))
		u, err := h.units.Unit(ctx, name)
		must(h.T, err)
		must(h.T, h.units.Stop(ctx, name))
		return u.State == workload.UnitActive
	}
	run := func(args ...string) {
		h.Helper()
		if out, err := exec.CommandContext(ctx, args[0], args[1:]...).CombinedOutput(); err != nil {
			h.Fatalf("%v: %v: %s", args, err, out)
		}
	}
	for _, dir := range []string{"/var/mnt/plain", `/var/mnt/50% "of" it's \x20 %n $HOME ;# `, `/var/mnt/back\`} {
		must(h.T, os.MkdirAll(dir, 0o755))
		must(h.T, h.units.Configure(ctx, name, workload.UnitSettings{Mounts: []string{"/", dir}}))
		if starts() {
			h.Errorf("it starts without a mount at %q", dir)
		}
		run("mount", "-t", "tmpfs", "none", dir)
		if !starts() {
			h.Errorf("it does not start with a mount at %q", dir)
		}
		run("umount", dir)
	}
	must(h.T, h.units.Configure(ctx, name, workload.UnitSettings{}))
	for _, dir := range []string{"/etc/flotta/maintenance", "/run/flotta/maintenance"} {
		for _, file := range []string{name, "@all"} {
			marker := filepath.Join(dir, file)
			must(h.T, os.WriteFile(marker, nil, 0o600))
			if starts() {
				h.Errorf("it starts in spite of %s", marker)
			}
			must(h.T, os.Remove(marker))
		}
		must(h.T, os.WriteFile(filepath.Join(dir, "other"), nil, 0o600))
	}
	if !starts() {
		h.Error("it does not start without a marker")
	}
	h.removed(name)
}

// testReplacement is about an update of what runs.
func testReplacement(h *host) {
	ctx := h.Context()
	const name = "fresh"
	spec := "  containers:\n" + container("app", "args: [sleep]")
	h.place(name, spec)
	must(h.T, h.units.Restart(ctx, name))
	pod := func() workload.Pod {
		h.Helper()
		p, _, err := h.pods.Pod(ctx, name)
		must(h.T, err)
		return p
	}
	first := pod()
	for range 3 {
		must(h.T, h.units.Restart(ctx, name))
		h.settled(name, workload.UnitActive)
		second := pod()
		if second.ID == first.ID || second.Status != workload.PodRunning {
			h.Errorf("replaced by %+v, before %+v", second, first)
		}
		first = second
	}
	// The new pod is as supervised as the first one was.
	h.systemctl("kill", "--kill-whom=main", "--signal=KILL", "flotta-workload@"+name+".service")
	for deadline := time.Now().Add(patience); ; time.Sleep(100 * time.Millisecond) {
		if p := pod(); p.ID != first.ID && p.Status == workload.PodRunning {
			break
		}
		if time.Now().After(deadline) {
			h.Fatalf("pod is still %+v", pod())
		}
	}
	h.settled(name, workload.UnitActive)
	// What cannot be read replaces nothing, and what cannot be played is tried
	// again.
	first = pod()
	must(h.T, os.WriteFile(manifestPath(name), []byte(":"), 0o644))
	if err := h.units.Restart(ctx, name); !errors.Is(err, systemd.ErrJob) {
		h.Errorf("a manifest that cannot be read: %v", err)
	}
	if p := pod(); p.ID != first.ID || p.Status != workload.PodRunning {
		h.Errorf("it was replaced by %+v", p)
	}
	h.settled(name, workload.UnitActive)
	h.place(name, strings.ReplaceAll(spec, testImage, noImage))
	if err := h.units.Restart(ctx, name); err == nil {
		h.Error("replaced by an image that is not there")
	}
	h.place(name, spec)
	must(h.T, h.units.Restart(ctx, name)) // whatever systemd is at
	h.settled(name, workload.UnitActive)
	must(h.T, os.WriteFile(manifestPath(name), []byte(":"), 0o644))
	must(h.T, h.units.Stop(ctx, name))
	if u := h.settled(name, workload.UnitInactive); u.Result != "success" {
		h.Errorf("stopped with a manifest that cannot be read: %+v", u)
	}
	h.removed(name)
}

// testMissed has systemd miss what Podman says of the pod's process, as happens to
// it on a busy host: at the first start, and at an update. The unit ends then.
func testMissed(h *host) {
	ctx := h.Context()
	const name = "missed"
	const play = "/usr/bin/podman play kube --replace --service-container=true /var/local/yggdrasil/device/workloads/%i/manifest.yaml"
	const dropIn = "[Service]\nExecStart=\nExecStart=/bin/sh -c 'test -e %t/missed-once || { touch %t/missed-once; unset NOTIFY_SOCKET; }; exec " + play + "'\n" +
		"ExecReload=\nExecReload=/usr/bin/env --unset=NOTIFY_SOCKET " + play + "\n"
	folder := filepath.Join(h.dropIns, "flotta-workload@"+name+".service.d")
	must(h.T, os.MkdirAll(folder, 0o755))
	must(h.T, os.WriteFile(filepath.Join(folder, "90-missed.conf"), []byte(dropIn), 0o644))
	must(h.T, h.manager.Reload(ctx))
	h.place(name, "  containers:\n"+container("app", "args: [sleep]"))
	before := ""
	for _, start := range []func(context.Context, string) error{h.units.Start, h.units.Restart} {
		must(h.T, start(ctx, name))
		h.settled(name, workload.UnitActive)
		p, there, err := h.pods.Pod(ctx, name)
		must(h.T, err)
		if !there || p.ID == before || p.Status != workload.PodRunning {
			h.Errorf("pod is %+v, before %s", p, before)
		}
		before = p.ID
	}
	must(h.T, os.RemoveAll(folder))
	must(h.T, h.manager.Reload(ctx))
	h.removed(name)
}

// testTarget stops and starts all workloads with their target, and looks where
// they are in the tree of control groups.
func testTarget(h *host) {
	ctx := h.Context()
	names := []string{"one", "two", "three"}
	for _, name := range names {
		h.place(name, "  containers:\n"+container("app", "args: [sleep]"))
		must(h.T, h.units.Enable(ctx, name))
		must(h.T, h.units.Start(ctx, name))
	}
	h.systemctl("stop", "flotta-workloads.target")
	for _, name := range names {
		h.settled(name, workload.UnitInactive)
	}
	if left := h.containers(); left != "" {
		h.Errorf("after the stop of the target: %s", left)
	}
	h.systemctl("start", "flotta-workloads.target")
	for _, name := range names {
		h.settled(name, workload.UnitActive)
		if group := h.systemctl("show", "--value", "--property=ControlGroup", "flotta-workload@"+name+".service"); !strings.HasSuffix(group, "/flotta.slice/flotta-workload@"+name+".service") {
			h.Errorf("the unit of %s is in %s", name, group)
		}
	}
	if status := h.systemctl("status", "flotta-workloads.target"); !strings.Contains(status, "Active: active") {
		h.Errorf("status of the target: %s", status)
	}
	if timer := h.systemctl("is-active", "podman-auto-update.timer"); timer != "active" {
		h.Errorf("podman-auto-update.timer is %s", timer)
	}
	// Where a weight or a limit for all pods has to be set.
	slice := "machine.slice"
	if h.owner != "root" {
		slice = "user.slice"
	}
	parent := h.as("podman", "pod", "inspect", "--format", "{{.CgroupParent}}", "one")
	if manager := h.as("podman", "info", "--format", "{{.Host.CgroupManager}}"); manager == "systemd" && parent != slice {
		h.Errorf("pods are below %s, want %s", parent, slice)
	}
	h.removed(names...)
}

// testRemains has what a start that fails on a full disk can leave: a service
// container without a pod, named by a manifest that is no more.
func testRemains(h *host) {
	ctx := h.Context()
	h.place("web", "  containers:\n"+container("app", "args: [sleep]"))
	must(h.T, h.units.Start(ctx, "web"))
	h.settled("web", workload.UnitActive)
	h.as("podman", "create", "--name=0123456789ab-service", "--label=PODMAN_SYSTEMD_UNIT=flotta-workload@web.service", testImage, "sleep")
	h.as("podman", "create", "--name=anothers", "--label=PODMAN_SYSTEMD_UNIT=flotta-workload@webb.service", testImage, "sleep")
	before := strings.Count(h.containers(), "\n")
	must(h.T, h.pods.RemoveRemains(ctx, "web"))
	if now := strings.Count(h.containers(), "\n"); now != before {
		h.Errorf("what was just made, and may be about to start, is gone: %s", h.containers())
	}
	for deadline := time.Now().Add(patience); strings.Contains(h.containers(), "0123456789ab-service"); time.Sleep(500 * time.Millisecond) {
		must(h.T, h.pods.RemoveRemains(ctx, "web"))
		if time.Now().After(deadline) {
			h.Fatal("it stays")
		}
	}
	if now := strings.Count(h.containers(), "\n"); now != before-1 {
		h.Errorf("more than that is gone: %s", h.containers())
	}
	if u, err := h.units.Unit(ctx, "web"); err != nil || u.State != workload.UnitActive {
		h.Errorf("the unit is %+v, %v", u, err)
	}
	h.as("podman", "rm", "anothers")
	h.removed("web")
}
