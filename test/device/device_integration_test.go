//go:build integration

package device_test

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/project-flotta/flotta-agent/test/device"
)

func TestDeviceIsItsOwnMachine(t *testing.T) {
	t.Parallel()
	d := device.New(t, device.Config{
		Name:  "shed",
		Hosts: []string{"project-flotta.io", "s3.project-flotta.io"},
		Files: map[string]device.File{
			"/usr/bin/hello":   {Content: []byte("#!/bin/sh\necho hello\n"), Mode: 0o755},
			"/etc/host-passwd": {Source: "/etc/passwd", Mode: 0o600},
			"/lib/linked/file": {Content: []byte("x")},
			"/var/local/a/b":   {Content: []byte("on disk")},
		},
	})
	for _, c := range []struct {
		name, want string
		args       []string
	}{
		{"host name", "shed", []string{"hostname"}},
		{"machine id", d.ID(), []string{"cat", "/etc/machine-id"}},
		{"file", "hello", []string{"hello"}},
		{"file of the host", "600", []string{"stat", "-c", "%a", "/etc/host-passwd"}},
		{"file behind a symlink", "x", []string{"cat", "/usr/lib/linked/file"}},
		{"file on a disk", "on disk", []string{"cat", "/var/local/a/b"}},
		{"name of the host", d.HostAddr(), []string{"sh", "-c", "getent hosts s3.project-flotta.io | cut -d' ' -f1"}},
		{"users' files", "", []string{"ls", "-A", "/home"}},
		{"user's home", "flotta:/var/home/flotta:/usr/sbin/nologin", []string{"sh", "-c", "getent passwd flotta | cut -d: -f1,6,7"}},
		{"manifest folder", "750 root flotta", []string{"stat", "-c", "%a %U %G", "/var/local/yggdrasil/device/workloads"}},
		{"volume folder", "711 flotta flotta", []string{"stat", "-c", "%a %U %G", "/var/local/yggdrasil/device/volumes"}},
		{"state", "running", []string{"systemctl", "is-system-running"}},
	} {
		if got := run(t, d, c.args...); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
	// Not for everybody on every machine that the tests run on.
	runUser(t, d, "sh", "-c", "true <>/dev/fuse && true <>/dev/net/tun")
	if got := runUser(t, d, "systemctl", "--user", "is-active", "flotta-workloads.target"); got != "active" {
		t.Errorf("the target of the workloads is %s", got)
	}
	wd, err := os.Getwd()
	must(t, "find working directory", err)
	if r, err := d.Run(t.Context(), "test", "-e", wd); err == nil || r.Code != 1 {
		t.Errorf("the device sees the host's %s", wd)
	}
}

func TestShippedUnitsAreClean(t *testing.T) {
	t.Parallel()
	d := device.New(t, device.Config{})
	r, err := d.RunAs(t.Context(), device.User, "systemd-analyze", "verify", "--user", "--man=no",
		"flotta-workload@x.service", "flotta-workloads.target", "flotta.slice")
	must(t, "verify", err)
	if out := r.Stdout + r.Stderr; out != "" {
		t.Errorf("systemd-analyze says %q", out)
	}
	r, err = d.Run(t.Context(), "systemd-analyze", "verify", "--man=no",
		"flotta-workload@x.service", "flotta-workloads.target", "flotta.slice")
	must(t, "verify the system's", err)
	if out := r.Stdout + r.Stderr; out != "" {
		t.Errorf("of the system's, systemd-analyze says %q", out)
	}
}

func TestStateSurvivesThePowerCut(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	d := device.New(t, device.Config{Limits: map[string]int64{"/var/local/small": 32 << 20}})
	id := run(t, d, "cat", "/etc/machine-id")
	files := []string{"/etc/flotta/key", "/var/local/x", "/var/local/small/x", "/var/home/flotta/x", "/usr/lib/x"}
	for _, f := range files {
		must(t, "write", d.WriteFile(f, []byte(f), 0o600))
	}
	run(t, d, "logger", "mark-before-the-cut")
	run(t, d, "journalctl", "--sync")
	for _, off := range []func() error{d.PowerCut, func() error { return d.Shutdown(ctx) }} {
		must(t, "switch off", off())
		if _, err := d.Run(ctx, "true"); !errors.Is(err, device.ErrOff) {
			t.Errorf("run on a device without power: %v", err)
		}
		if raw, err := d.ReadFile("/etc/flotta/key"); err != nil || string(raw) != "/etc/flotta/key" {
			t.Errorf("read while off: %q, %v", raw, err)
		}
		must(t, "write while off", d.WriteFile("/var/local/yggdrasil/device/off", []byte("off"), 0o600))
		start := time.Now()
		must(t, "power on", d.PowerOn(ctx))
		t.Logf("booted again in %s", time.Since(start).Round(time.Millisecond))
		for _, f := range files {
			if raw, err := d.ReadFile(f); err != nil || string(raw) != f {
				t.Errorf("%s: %q, %v", f, raw, err)
			}
		}
		if raw, err := d.ReadFile("/var/local/yggdrasil/device/off"); err != nil || string(raw) != "off" {
			t.Errorf("what was written while off: %q, %v", raw, err)
		}
	}
	if got := run(t, d, "cat", "/etc/machine-id"); got != id {
		t.Errorf("machine id %s, want %s", got, id)
	}
	if log := d.Journal(ctx, 10000); !strings.Contains(log, "mark-before-the-cut") {
		t.Error("the journal of the first boot is lost")
	}
	if err := d.PowerOn(ctx); err == nil {
		t.Error("a device that is on was switched on")
	}
}

func TestDirOutlivesTheDevice(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "edge")
	var id string
	for i := range 2 {
		d, err := device.Boot(t.Context(), device.Config{Dir: dir})
		must(t, "boot", err)
		if i == 0 {
			id = d.ID()
			must(t, "write", d.WriteFile("/etc/mark", []byte("mark"), 0o600))
		}
		raw, err := d.ReadFile("/etc/mark")
		if string(raw) != "mark" || d.ID() != id || run(t, d, "cat", "/etc/machine-id") != id {
			t.Errorf("boot %d: mark %q (%v), id %s, want %s", i, raw, err, d.ID(), id)
		}
		must(t, "close", d.Close())
		must(t, "close again", d.Close())
	}
}

func TestSymlinksOfTheDeviceStayOnIt(t *testing.T) {
	t.Parallel()
	d := device.New(t, device.Config{})
	host := filepath.Join(t.TempDir(), "victim")
	must(t, "write", os.WriteFile(host, []byte("host"), 0o600))
	run(t, d, "mkdir", "-p", filepath.Dir(host))
	run(t, d, "ln", "-s", host, "/etc/trap")
	run(t, d, "ln", "-s", filepath.Dir(host), "/etc/folder")
	must(t, "write through a symlink", d.WriteFile("/etc/trap", []byte("device"), 0o600))
	must(t, "write below a symlink", d.WriteFile("/etc/folder/other", []byte("device"), 0o600))
	if raw, _ := os.ReadFile(host); string(raw) != "host" {
		t.Errorf("the host's file now holds %q", raw)
	}
	if entries, _ := os.ReadDir(filepath.Dir(host)); len(entries) != 1 {
		t.Errorf("the host's folder now holds %v", entries)
	}
	if got := run(t, d, "cat", host); got != "device" {
		t.Errorf("the device's file holds %q", got)
	}
	if _, err := d.ReadFile("/etc/nothing"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("read of a file that is not there: %v", err)
	}
	out := filepath.Join(t.TempDir(), "out")
	must(t, "copy in", d.CopyIn("/etc/passwd", "/opt/new/passwd", 0o640))
	must(t, "copy out", d.CopyOut("/opt/new/passwd", out))
	want, _ := os.ReadFile("/etc/passwd")
	if got, _ := os.ReadFile(out); string(got) != string(want) {
		t.Error("the copy differs")
	}
}

func TestCommandEndsWithItsContext(t *testing.T) {
	t.Parallel()
	d := device.New(t, device.Config{})
	for _, user := range []string{"root", device.User} {
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() {
			_, err := d.RunAs(ctx, user, "sleep", "4711")
			ended <- err
		}()
		eventually(t, "the command runs", 30*time.Second, func() bool {
			_, err := d.Run(t.Context(), "pgrep", "-f", "^sleep 4711")
			return err == nil
		})
		cancel()
		if err := <-ended; err == nil {
			t.Errorf("%s: the command did not fail", user)
		}
		eventually(t, "the command is gone", 10*time.Second, func() bool {
			_, err := d.Run(t.Context(), "pgrep", "-f", "^sleep 4711")
			return err != nil
		})
	}
	r, err := d.Run(t.Context(), "sh", "-c", "echo out; echo err >&2; exit 7")
	if err == nil || r.Code != 7 || r.Stdout != "out\n" || r.Stderr != "err\n" || !strings.Contains(err.Error(), "err") {
		t.Errorf("got %+v, %v", r, err)
	}
	r, err = d.RunInput(t.Context(), device.User, strings.NewReader("text"), "cat")
	if err != nil || r.Stdout != "text" {
		t.Errorf("got %+v, %v", r, err)
	}
	must(t, "start", func() error {
		_, err := d.Run(t.Context(), "systemd-run", "--unit=victim", "sleep", "4712")
		return err
	}())
	must(t, "kill", d.Kill(t.Context(), "KILL", "sleep 4712"))
	if err := d.Kill(t.Context(), "KILL", "nothing like this"); err == nil {
		t.Error("a kill of nothing succeeded")
	}
}

func TestFullDisk(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	const folder = "/var/local/yggdrasil/device/volumes"
	d := device.New(t, device.Config{Limits: map[string]int64{folder: 32 << 20}})
	if got := run(t, d, "stat", "-c", "%a %U", folder); got != "711 flotta" {
		t.Errorf("the folder is %q", got)
	}
	must(t, "fill", d.FillDisk(ctx, folder))
	for _, user := range []string{"root", device.User} {
		r, err := d.RunAs(ctx, user, "bash", "-c", "echo x >"+folder+"/"+user)
		if err == nil || !strings.Contains(r.Stderr, "No space left") {
			t.Errorf("%s wrote on a full disk: %+v", user, r)
		}
	}
	must(t, "free", d.FreeDisk(ctx, folder))
	runUser(t, d, "sh", "-c", "echo x >"+folder+"/after")
	if err := d.FillDisk(ctx, "/var/local"); err == nil {
		t.Error("the host's disk was filled")
	}
}

func TestBadNetwork(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	d := device.New(t, device.Config{})
	other := device.New(t, device.Config{})
	if d.Addr() == other.Addr() || d.HostAddr() == other.HostAddr() {
		t.Fatalf("two devices share an address: %s, %s", d.Addr(), other.Addr())
	}
	l, err := net.Listen("tcp", net.JoinHostPort(d.HostAddr(), "0"))
	must(t, "listen", err)
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = c.Write([]byte("hi\n"))
			_ = c.Close()
		}
	}()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	dial := func(from *device.Device, limit string) bool {
		r, err := from.Run(ctx, "timeout", limit, "bash", "-c", "cat </dev/tcp/"+d.HostAddr()+"/"+port)
		return err == nil && r.Stdout == "hi\n"
	}
	if !dial(d, "10") {
		t.Error("the device does not reach the host")
	}
	if dial(other, "1") {
		t.Error("a device reaches the cable of another one")
	}
	must(t, "cut", d.CutNetwork(ctx))
	if dial(d, "1") {
		t.Error("the device reaches the host through a cut")
	}
	must(t, "restore", d.RestoreNetwork(ctx))
	if !dial(d, "10") {
		t.Error("the device does not reach the host after the cut")
	}
	for _, oneWay := range []device.Loss{{ToHost: 100}, {ToDevice: 100}} {
		must(t, "impair", d.Impair(ctx, oneWay))
		if dial(d, "1") {
			t.Errorf("the device reaches the host through %+v", oneWay)
		}
	}
	must(t, "lose packets", d.LosePackets(ctx, 20))
	eventually(t, "with loss the device reaches the host now and then", 60*time.Second, func() bool { return dial(d, "10") })
}
