//go:build integration

package adapter_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/project-flotta/flotta-agent/internal/podman"
	"github.com/project-flotta/flotta-agent/internal/systemd"
	"github.com/project-flotta/flotta-agent/internal/workload/adapter"
	"github.com/project-flotta/flotta-agent/internal/workload/workloadtest"
	"github.com/project-flotta/flotta-agent/test/device"
	"github.com/project-flotta/flotta-agent/test/image"
)

const (
	// onDevice says that this process runs on a device: the service manager of
	// a user talks to no process outside of it.
	onDevice = "FLOTTA_TEST_ON_DEVICE"

	testImage = "localhost/contract:v1"
	noImage   = "localhost:1/none:v1"
)

// TestDeviceKeepsTheContract holds the rootless Podman and the systemd of a
// booted device to the contract. It boots the device and runs itself there.
func TestDeviceKeepsTheContract(t *testing.T) {
	if os.Getenv(onDevice) != "" {
		testOnDevice(t)
		return
	}
	trust := "[[registry]]\nlocation = \"127.0.0.1:5000\"\ninsecure = true\n"
	d := device.New(t, device.Config{Files: map[string]device.File{
		"/etc/containers/registries.conf.d/test.conf": {Content: []byte(trust)},
	}})
	if err := d.AddImage(t.Context(), device.User, image.Spec{Ref: testImage}); err != nil {
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
	result, err := d.Run(t.Context(), "env", onDevice+"=1", program, "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=3m")
	t.Log(result.Stdout, result.Stderr)
	if err != nil {
		t.Fatal(err)
	}
}

func testOnDevice(t *testing.T) {
	flotta, err := user.Lookup(device.User)
	if err != nil {
		t.Fatal(err)
	}
	uid, err := strconv.Atoi(flotta.Uid)
	if err != nil {
		t.Fatal(err)
	}
	pc, err := podman.New(podman.Config{Socket: "/run/user/" + flotta.Uid + "/podman/podman.sock"})
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	sc, err := systemd.New(systemd.Config{Socket: systemd.UserSocket(uid)})
	if err != nil {
		t.Fatal(err)
	}
	defer sc.Close()
	units, err := adapter.NewUnits(adapter.UnitsConfig{Client: sc, DropIns: adapter.UserDropIns})
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	workloadtest.Contract(t, workloadtest.Subject{
		Runtime: adapter.NewPods(pc), Units: units, Image: testImage, None: noImage,
		Stranger: func(name string) { stranger(t, pc, name) },
		Place:    func(name, digest, image string) { place(t, name, digest, image) },
	})
	lines, err := units.Output(t.Context(), "contract-b", began, 5)
	said := slices.ContainsFunc(lines, func(line string) bool { return strings.Contains(line, noImage) })
	if err != nil || !said || len(lines) > 5 {
		t.Errorf("the unit that could not be played said %q, %v", lines, err)
	}
	t.Run("images", func(t *testing.T) { testImages(t, pc) })
	t.Run("health", func(t *testing.T) { testHealth(t, pc, units) })
	t.Run("other units", func(t *testing.T) { testUnits(t, sc, flotta.HomeDir) })
	t.Run("manager restarts", func(t *testing.T) { testManagerRestarts(t, sc, flotta.Uid) })
}

// stranger makes a secret that is not ours.
func stranger(t *testing.T, pc *podman.Client, name string) {
	t.Helper()
	if err := pc.CreateSecret(t.Context(), podman.NewSecret{Name: name, Data: []byte("theirs")}); err != nil {
		t.Fatal(err)
	}
}

// place writes a manifest where the shipped unit plays it.
func place(t *testing.T, name, digest, image string) {
	t.Helper()
	folder := filepath.Join("/var/local/yggdrasil/device/workloads", name)
	if err := os.MkdirAll(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprintf(workloadtest.Manifest, name, name, digest, image)
	if err := os.WriteFile(filepath.Join(folder, "manifest.yaml"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func testUnits(t *testing.T, sc *systemd.Client, home string) {
	ctx := t.Context()
	for name, text := range map[string]string{
		"fails.service": "[Service]\nType=oneshot\nExecStart=/bin/false\n",
		"runs.service":  "[Service]\nExecStart=/bin/sleep 1000\n[Install]\nWantedBy=default.target\n",
	} {
		if err := os.WriteFile(filepath.Join(home, ".config/systemd/user", name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := sc.Reload(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := sc.Unit(ctx, "none.service"); !errors.Is(err, systemd.ErrNotFound) {
		t.Errorf("a unit that does not exist: %v, want ErrNotFound", err)
	}
	if err := sc.Start(ctx, "none.service"); !errors.Is(err, systemd.ErrNotFound) {
		t.Errorf("starting it: %v, want ErrNotFound", err)
	}
	var job *systemd.JobError
	if err := sc.Start(ctx, "fails.service"); !errors.Is(err, systemd.ErrJob) || !errors.As(err, &job) || job.Result != "failed" {
		t.Errorf("a job that fails: %v, want ErrJob", err)
	}
	if u, err := sc.Unit(ctx, "fails.service"); err != nil || u.ActiveState != "failed" || u.Result != "exit-code" ||
		u.ExecMainStatus != 1 || time.Since(u.StateChange) > time.Minute {
		t.Errorf("unit that failed: %+v, %v", u, err)
	}
	if err := sc.ResetFailed(ctx, "fails.service"); err != nil {
		t.Error(err)
	}
	if err := sc.TryRestart(ctx, "runs.service"); err != nil {
		t.Error(err)
	}
	if u, err := sc.Unit(ctx, "runs.service"); err != nil || u.ActiveState != "inactive" || u.FileState != "disabled" {
		t.Errorf("try-restart of what does not run: %+v, %v", u, err)
	}
	if err := errors.Join(sc.Enable(ctx, "runs.service"), sc.Enable(ctx, "runs.service"), sc.Start(ctx, "runs.service")); err != nil {
		t.Error(err)
	}
	if u, err := sc.Unit(ctx, "runs.service"); err != nil || u.ActiveState != "active" || u.FileState != "enabled" {
		t.Errorf("enabled and started: %+v, %v", u, err)
	}
	if wants, err := sc.Wants(ctx, "default.target"); err != nil || !slices.Contains(wants, "runs.service") {
		t.Errorf("wants %v, %v", wants, err)
	}
}

// testManagerRestarts kills the manager: the client fails as it says it does,
// and works again when there is a manager again.
func testManagerRestarts(t *testing.T, sc *systemd.Client, uid string) {
	ctx := t.Context()
	unit := "user@" + uid + ".service"
	run := func(args ...string) {
		t.Helper()
		if out, err := exec.CommandContext(ctx, "systemctl", args...).CombinedOutput(); err != nil {
			t.Fatalf("systemctl %v: %v: %s", args, err, out)
		}
	}
	watching, watched := make(chan struct{}, 100), make(chan error, 1)
	go func() { watched <- sc.Watch(ctx, "x", func(string) { watching <- struct{}{} }) }()
	<-watching
	run("stop", unit)
	if err := <-watched; !errors.Is(err, systemd.ErrUnavailable) {
		t.Errorf("watching ended with %v, want ErrUnavailable", err)
	}
	if _, err := sc.Units(ctx, "*"); !errors.Is(err, systemd.ErrUnavailable) {
		t.Errorf("a manager that is gone: %v, want ErrUnavailable", err)
	}
	run("start", unit)
	if units, err := sc.Units(ctx, "*.target"); err != nil || len(units) == 0 {
		t.Errorf("a manager that is back: %v, %v", units, err)
	}
}
