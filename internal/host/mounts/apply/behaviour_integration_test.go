//go:build integration

package apply

import (
	"bufio"
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// TestUnitNamesAreSystemds: a unit of another name than systemd's would mount
// nothing.
func TestUnitNamesAreSystemds(t *testing.T) {
	for _, where := range []string{
		"/mnt/data", "/mnt/a-b", "/mnt/my disk", "/mnt/.hidden", "/mnt/a.b", "/mnt/ä ö", "/mnt/日本", "/mnt/a@b:c+d=e,f~g_h", "/mnt/-x", "/var/mnt/a/b/c",
		"/mnt/" + strings.Repeat("long", 40),
	} {
		if err := checkPath(where); err != nil {
			t.Errorf("%s: %v", where, err)
		}
		want := host(t, "systemd-escape", "--path", "--suffix=mount", where)
		if got := unitName(where); got != want {
			t.Errorf("unit of %s: %s, systemd says %s", where, got, want)
		}
		if got := whereOf(want); got != where {
			t.Errorf("folder of %s: %s, want %s", want, got, where)
		}
	}
}

// TestUnitIsClean: systemd understands every line of a unit.
func TestUnitIsClean(t *testing.T) {
	b := newBooted(t)
	c := check{t, b}
	a := c.folder("a b-ä")
	c.good(c.ext4(a, "noatime"))
	r, err := b.d.Run(t.Context(), "systemd-analyze", "verify", "--man=no", "/etc/systemd/system/"+unitName(a))
	if out := r.Stdout + r.Stderr; err != nil || out != "" {
		t.Errorf("systemd-analyze: %v %q", err, out)
	}
	if got := b.run("systemctl", "show", "--property=Where", "--value", unitName(a)); got != a {
		t.Errorf("systemd mounts it at %q", got)
	}
}

// TestWorkloadsComeAfter: what waits for the mounts sees them when it starts; a
// device that is not there holds it up for its time, and the boot goes on.
func TestWorkloadsComeAfter(t *testing.T) {
	b := newBooted(t)
	c := check{t, b}
	a, x := c.folder("a"), c.folder("x")
	c.good(c.ext4(a, ""), c.xfs(x, ""))
	for range 3 {
		b.reboot()
		if seen := b.run("cat", "/run/seen-at-boot"); !strings.Contains(seen, a) || !strings.Contains(seen, x) {
			t.Errorf("the workloads started before their mounts:\n%s", seen)
		}
	}
	c.unplug("ext4")
	b.reboot()
	if seen := b.run("cat", "/run/seen-at-boot"); strings.Contains(seen, a) || !strings.Contains(seen, x) {
		t.Errorf("without one disk, the workloads saw\n%s", seen)
	}
	for unit, want := range map[string]string{"emergency.target": "inactive", "local-fs.target": "active", "multi-user.target": "active", "test-workloads.service": "active"} {
		if r, _ := b.d.Run(t.Context(), "systemctl", "is-active", unit); strings.TrimSpace(r.Stdout) != want {
			t.Errorf("%s is %s", unit, r.Stdout)
		}
	}
	// Nothing but the workloads waited, and these no longer than they were to.
	since := func(unit string) time.Duration {
		micros, err := strconv.ParseInt(b.run("systemctl", "show", "--property=ActiveEnterTimestampMonotonic", "--value", unit), 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		return time.Duration(micros) * time.Microsecond
	}
	waited := since("test-workloads.service") - since("local-fs.target")
	t.Logf("the workloads waited %s for a disk that is not there", waited)
	if waited < 3*time.Second || waited > 15*time.Second {
		t.Errorf("the workloads waited %s, want 5 s", waited)
	}
}

// staying is a life of the agent that goes on.
type staying struct {
	b      *booted
	cmd    *exec.Cmd
	states chan Status
}

func (b *booted) stay(resync time.Duration, list ...protocol.Mount) *staying {
	b.t.Helper()
	s := &staying{b: b, cmd: b.command(life{Mounts: list, Stay: true, Resync: resync}), states: make(chan Status, 1000)}
	out, err := s.cmd.StdoutPipe()
	if err == nil {
		s.cmd.Stderr = b.t.Output()
		err = s.cmd.Start()
	}
	if err != nil {
		b.t.Fatal(err)
	}
	go func() {
		defer close(s.states)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			var l last
			if json.Unmarshal(lines.Bytes(), &l) == nil {
				s.states <- l.Status
			}
		}
		_, _ = io.Copy(io.Discard, out)
	}()
	return s
}

// shows waits until the only mount has that reason.
func (s *staying) shows(reason string) Mount {
	s.b.t.Helper()
	limit := time.After(time.Minute)
	for {
		select {
		case status, on := <-s.states:
			if !on {
				s.b.t.Fatal("the agent ended")
			}
			if len(status.Mounts) == 1 && status.Mounts[0].Reason == reason {
				return status.Mounts[0]
			}
		case <-limit:
			s.b.t.Fatalf("the reason did not become %q within a minute", reason)
		}
	}
}

func (s *staying) end() {
	s.b.t.Helper()
	if _, err := s.b.d.Run(s.b.t.Context(), "pkill", "-TERM", "-f", "^"+lifePath); err != nil {
		s.b.t.Error(err)
	}
	for range s.states {
	}
	if err := s.cmd.Wait(); err != nil && !errors.Is(err, exec.ErrWaitDelay) {
		s.b.t.Errorf("the agent ended with %v", err)
	}
}

// TestAgentNotices: a disk that comes and goes, and what is done by hand, while
// the agent runs and is not told.
func TestAgentNotices(t *testing.T) {
	b := newBooted(t)
	c := check{t, b}
	a := c.folder("a")
	c.unplug("ext4")
	s := b.stay(time.Hour, c.ext4(a, ""))
	s.shows(ReasonNoDevice)
	for range 2 {
		began := time.Now()
		c.plug("ext4")
		s.shows("")
		t.Logf("mounted %s after its disk came", time.Since(began).Round(100*time.Millisecond))
		c.is(a, "ext4")
		began = time.Now()
		c.unplug("ext4")
		s.shows(ReasonNoDevice)
		t.Logf("noticed %s after its disk went", time.Since(began).Round(100*time.Millisecond))
		c.nothing(a)
	}
	c.plug("ext4")
	s.shows("")
	before := b.mounted(a)
	b.run("umount", a)
	b.until("it is mounted again", func() bool { now := b.mounted(a); return now != "" && now != before })
	s.end()
	c.is(a, "ext4")
}

// TestWhoHoldsIt: a process, and one that has the file system in a mount
// namespace of its own, as containers do, are named and keep it.
func TestWhoHoldsIt(t *testing.T) {
	b := newBooted(t)
	c := check{t, b}
	a := c.folder("a")
	c.good(c.ext4(a, ""))
	for name, command := range map[string]string{
		"process":   "systemd-run --quiet --unit=holder sh -c 'cd " + a + " && exec sleep 1000'",
		"container": "systemd-run --quiet --unit=holder unshare --mount --propagation private sh -c 'mkdir -p /srv/data; mount --move " + a + " /srv/data 2>/dev/null || mount --bind " + a + " /srv/data; umount " + a + " 2>/dev/null; exec sleep 1000'",
	} {
		b.run("sh", "-c", command)
		b.until("it holds the mount", func() bool {
			r, _ := b.d.Run(t.Context(), "pgrep", "-fx", "sleep 1000")
			return r.Stdout != ""
		})
		before := b.mounted(a)
		status := c.all()
		if len(status.Mounts) != 1 || status.Mounts[0].Reason != ReasonBusy || !strings.Contains(status.Mounts[0].Message, "of holder.service)") {
			t.Errorf("%s: status %+v", name, status.Mounts)
		}
		if now := b.mounted(a); now != before {
			t.Errorf("%s: mounted is %q, before %q", name, now, before)
		}
		b.run("systemctl", "stop", "holder.service")
		c.good()
		c.clean()
		c.good(c.ext4(a, ""))
	}
	// Services of systemd with a namespace of their own see the mount go.
	b.run("systemd-run", "--quiet", "--unit=private", "--property=PrivateTmp=yes", "sleep", "1000")
	c.good()
	c.clean()
	// A unit that needs the mount would be stopped together with it.
	c.good(c.ext4(a, ""))
	b.run("systemd-run", "--quiet", "--unit=needs", "--property=RequiresMountsFor="+a, "sleep", "1000")
	c.bad(a, ReasonBusy, []string{"the unit needs.service"})
	if got := b.run("systemctl", "is-active", "needs.service"); got != "active" {
		t.Errorf("the unit that needs it is %s", got)
	}
}

// TestErrorsOnDisk: a file system that the kernel made read-only.
func TestErrorsOnDisk(t *testing.T) {
	b := newBooted(t)
	c := check{t, b}
	a := c.folder("a")
	mount := c.ext4(a, "errors=remount-ro") // of the file system, and not of the mount
	if m := c.all(mount).Mounts[0]; !m.Mounted || m.Reason != "" {
		t.Fatalf("status %+v", m)
	}
	b.run("sh", "-c", "echo made by a test >/sys/fs/ext4/loop"+b.loops["ext4"]+"/trigger_fs_error")
	status := c.all(mount)
	if m := status.Mounts[0]; m.Reason != ReasonReadOnly || !m.Mounted {
		t.Errorf("status %+v", m)
	}
	c.good()
	c.clean()
	// It is mounted as it is: nothing here checks disks.
	status = c.all(mount)
	if m := status.Mounts[0]; !m.Mounted {
		t.Errorf("status %+v", m)
	}
}

// TestLinksInTheWay: none leads a mount astray.
func TestLinksInTheWay(t *testing.T) {
	b := newBooted(t)
	c := check{t, b}
	b.run("sh", "-c", "ln -s /etc /mnt/etc; ln -s /mnt/real /mnt/link; mkdir -p /mnt/real /mnt/theirs; chown flotta /mnt/theirs; mkdir /mnt/open; chmod 1777 /mnt/open; ln -s /srv/fine /mnt/other")
	for dir, words := range map[string]string{
		"/mnt/etc": "leads to /etc", "/mnt/etc/systemd": "leads to /etc", "/mnt/theirs/x": "belongs to user", "/mnt/open/x": "may be written by others",
	} {
		c.bad(dir, ReasonRefused, []string{words}, c.ext4(dir, ""))
		c.clean()
	}
	for dir, real := range map[string]string{"/mnt/link/x": "/mnt/real/x", "/mnt/other": "/srv/fine"} {
		status := c.all(c.ext4(dir, ""))
		if m := status.Mounts[0]; !m.Mounted || m.Directory != dir {
			t.Errorf("%s: status %+v", dir, m)
		}
		c.is(real, "ext4")
		c.good()
	}
	// Names of devices that are none.
	b.run("sh", "-c", "ln -s /etc/passwd /dev/passwd; truncate -s 16M /dev/shm/disk; mkfs.ext4 -q /dev/shm/disk; ln -s /dev/shm/disk /dev/disk/by-label/shm; truncate -s 16M /dev/file; mkfs.ext4 -q /dev/file")
	for _, device := range []string{"/dev/passwd", "/dev/shm/disk", "/dev/disk/by-label/shm", "/dev/file", "/dev/null"} {
		c.bad("/mnt/x", ReasonRefused, nil, protocol.Mount{Device: device, Directory: "/mnt/x", Type: "ext4"})
		c.clean()
	}
}

// TestKilledWhileItWaits: systemd goes on with what it was told.
func TestKilledWhileItWaits(t *testing.T) {
	b := newBooted(t)
	c := check{t, b}
	a := c.folder("a")
	s := b.stay(time.Hour, c.ext4(a, ""))
	s.shows("")
	if err := b.d.Kill(t.Context(), "KILL", "^"+lifePath); err != nil {
		t.Fatal(err)
	}
	for range s.states {
	}
	if err := s.cmd.Wait(); err == nil {
		t.Error("it was not killed")
	}
	c.is(a, "ext4")
	before := b.mounted(a)
	c.good(c.ext4(a, ""))
	if now := b.mounted(a); now != before {
		t.Errorf("it was mounted anew: %q, before %q", now, before)
	}
}
