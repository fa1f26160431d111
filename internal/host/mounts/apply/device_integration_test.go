//go:build integration

package apply

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/project-flotta/flotta-agent/internal/host/mounts"
	"github.com/project-flotta/flotta-agent/internal/systemd"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
	"github.com/project-flotta/flotta-agent/test/device"
)

// lifeEnv makes the test binary a life of the agent: on the device, it
// reconciles with everything that is real.
const lifeEnv = "FLOTTA_TEST_LIFE"

const lifePath = "/usr/bin/flotta-life"

// life is what one is to do.
type life struct {
	Mounts []protocol.Mount
	Kill   int  // step at which it kills itself
	Clear  bool // instead of a round
	Stay   bool // run, and tell of every change, until it is told to end
	Resync time.Duration
}

// last is what a life says at its end.
type last struct {
	Status Status
	Err    string
}

func TestMain(m *testing.M) {
	if text := os.Getenv(lifeEnv); text != "" {
		if err := live(text); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

func live(text string) error {
	var l life
	if err := json.Unmarshal([]byte(text), &l); err != nil {
		return err
	}
	manager, err := systemd.New(systemd.Config{Socket: systemd.SystemSocket})
	if err != nil {
		return err
	}
	source := configured(l.Mounts...)
	r, err := New(Config{
		Desired: source, Manager: manager, Log: slog.New(slog.NewTextHandler(os.Stderr, nil)),
		Before: "test-workloads.service", DeviceTimeout: 5 * time.Second, Resync: l.Resync,
	})
	if err != nil {
		return err
	}
	steps := 0
	r.step = func(string) {
		if steps++; steps == l.Kill {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	out := json.NewEncoder(os.Stdout)
	switch {
	case l.Clear:
		var end last
		if err := r.Clear(ctx); err != nil {
			end.Err = err.Error()
		}
		return out.Encode(end)
	case !l.Stay:
		r.round(ctx, source.Current(), true)
		return out.Encode(last{Status: r.Status()})
	}
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()
	for {
		changed := r.Changed()
		if err := out.Encode(last{Status: r.Status()}); err != nil {
			return err
		}
		select {
		case <-changed:
		case err := <-ended:
			return err
		}
	}
}

// booted is a world that is a booted device.
type booted struct {
	t     *testing.T
	d     *device.Device
	loops map[string]string // number of the loop device, by name of the disk
	in    map[string]bool   // plugged
}

// plugScript stands in for udevd, which cannot run on a device of the harness:
// it makes nodes, links and the entries of udev's database for the disks that
// are listed, and has systemd read them. All that follows from it (units of
// devices, their waiting, the end of mounts whose device goes) is systemd's own.
const plugScript = `#!/bin/sh
mkdir -p /dev/disk/by-label /run/udev/data /run/udev/tags/systemd
rm -f /dev/disk/by-label/* /run/udev/data/b7:* /run/udev/tags/systemd/b7:*
while read -r number name; do
	[ -e /dev/loop$number ] || mknod /dev/loop$number b 7 $number
	ln -sf ../../loop$number /dev/disk/by-label/$name
	printf 'S:disk/by-label/%s\nI:1\nG:systemd\nQ:systemd\nV:1\n' "$name" >/run/udev/data/b7:$number
	touch /run/udev/tags/systemd/b7:$number
done </etc/test-disks
systemctl daemon-reload
`

const plugUnit = `[Unit]
DefaultDependencies=no
Conflicts=shutdown.target
Before=sysinit.target shutdown.target
RequiresMountsFor=/run /dev

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/bin/test-plug
`

// workloadsUnit stands for the workloads: it keeps what they see when they
// start.
const workloadsUnit = `[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh -c 'findmnt -rno TARGET >/run/seen-at-boot'
`

func newBooted(t *testing.T) *booted {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	b := &booted{t: t, loops: map[string]string{}, in: map[string]bool{}}
	for _, name := range []string{"ext4", "xfs", "other"} {
		b.loops[name], b.in[name] = loop(t, strings.ReplaceAll(name, "other", "ext4")), true
	}
	b.d = device.New(t, device.Config{Files: map[string]device.File{
		lifePath:                           {Source: self, Mode: 0o755},
		"/usr/bin/test-plug":               {Content: []byte(plugScript), Mode: 0o755},
		"/etc/systemd/system/plug.service": {Content: []byte(plugUnit)},
		"/etc/systemd/system/sysinit.target.wants/plug.service":              {Link: "../plug.service"},
		"/etc/systemd/system/test-workloads.service":                         {Content: []byte(workloadsUnit)},
		"/etc/systemd/system/multi-user.target.wants/test-workloads.service": {Link: "../test-workloads.service"},
		"/etc/test-disks": {Content: []byte(b.list())},
	}})
	return b
}

// loop returns the number of a loop device with a fresh file system. It vanishes
// when the test ends, also when that is killed.
func loop(t *testing.T, kind string) string {
	t.Helper()
	image := filepath.Join(t.TempDir(), "disk.img")
	size := map[string]string{"ext4": "16M", "xfs": "320M"}[kind] // mkfs.xfs takes no less than 300
	host(t, "truncate", "-s", size, image)
	host(t, "mkfs."+kind, "-q", image)
	path := host(t, "losetup", "--find", "--show", image)
	// It is detached as soon as nobody has it open, which is this process and
	// whoever mounts it.
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	host(t, "losetup", "--detach", path)
	return strings.TrimPrefix(path, "/dev/loop")
}

func host(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), args[0], args[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// run runs a command on the device that has to succeed.
func (b *booted) run(args ...string) string {
	b.t.Helper()
	r, err := b.d.Run(b.t.Context(), args...)
	if err != nil {
		b.t.Fatal(err)
	}
	return strings.TrimSpace(r.Stdout)
}

func (b *booted) list() string {
	var out strings.Builder
	for name := range b.in {
		fmt.Fprintln(&out, b.loops[name], name)
	}
	return out.String()
}

func (b *booted) replug() {
	b.t.Helper()
	b.write("/etc/test-disks", b.list())
	b.run("/usr/bin/test-plug")
}

func (b *booted) write(path, text string) {
	b.t.Helper()
	if _, err := b.d.RunInput(b.t.Context(), "root", strings.NewReader(text), "tee", path); err != nil {
		b.t.Fatal(err)
	}
}

func (b *booted) disk(name string) string   { return "/dev/disk/by-label/" + name }
func (b *booted) folder(name string) string { return path.Join("/mnt", name) }

func (b *booted) plug(name string) {
	b.in[name] = true
	b.replug()
}

func (b *booted) unplug(name string) {
	delete(b.in, name)
	b.replug()
	b.until("systemd has done what follows", func() bool { return strings.Contains(b.run("systemctl", "list-jobs"), "No jobs") })
}

func (b *booted) hold(dir string) func() {
	b.t.Helper()
	cmd, err := b.d.Command(b.t.Context(), "sh", "-c", `cd "$1" && echo in && exec sleep 100000`, "hold", dir)
	if err != nil {
		b.t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		b.t.Fatal(err)
	}
	if n, err := io.ReadFull(out, make([]byte, 3)); err != nil {
		b.t.Fatalf("hold %s: %d %v", dir, n, err)
	}
	release := func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		b.until("it lets go", func() bool {
			r, _ := b.d.Run(b.t.Context(), "pgrep", "-f", "sleep 100000")
			return r.Stdout == ""
		})
	}
	b.t.Cleanup(func() { _ = cmd.Process.Kill() })
	return release
}

func (b *booted) until(what string, ok func() bool) {
	b.t.Helper()
	for end := time.Now().Add(60 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if ok() {
			return
		}
	}
	b.t.Fatalf("not within a minute: %s", what)
}

func (b *booted) byHand(disk, dir string) {
	b.t.Helper()
	b.run("mkdir", "-p", dir)
	b.run("mount", b.disk(disk), dir)
}

func (b *booted) byUnit(disk, dir string) {
	b.t.Helper()
	b.write("/etc/systemd/system/"+unitName(dir), "# by somebody\n[Mount]\nWhat="+b.disk(disk)+"\nWhere="+dir+"\n")
	b.run("systemctl", "daemon-reload")
	b.run("systemctl", "start", unitName(dir))
}

func (b *booted) fstab(dir string) {
	b.t.Helper()
	b.run("sh", "-c", `echo "/dev/sdz1 $1 ext4 defaults,nofail 0 0" >>/etc/fstab`, "fstab", dir)
}

func (b *booted) unmount(dir string) {
	b.t.Helper()
	b.run("umount", dir)
}

func (b *booted) edit(dir, old, text string) {
	b.t.Helper()
	if !strings.Contains(b.unit(dir), old) {
		b.t.Fatalf("the unit does not hold %s", old)
	}
	b.write("/etc/systemd/system/"+unitName(dir), strings.ReplaceAll(b.unit(dir), old, text))
	b.run("systemctl", "daemon-reload")
}

func (b *booted) reboot() {
	b.t.Helper()
	if err := b.d.PowerCut(); err != nil {
		b.t.Fatal(err)
	}
	if err := b.d.PowerOn(b.t.Context()); err != nil {
		b.t.Fatal(err)
	}
}

func (b *booted) command(l life) *exec.Cmd {
	b.t.Helper()
	text, err := json.Marshal(l)
	if err != nil {
		b.t.Fatal(err)
	}
	// With the race detector, a process that ends would wait for a second.
	cmd, err := b.d.Command(b.t.Context(), "env", "GORACE=atexit_sleep_ms=0", lifeEnv+"="+string(text), lifePath)
	if err != nil {
		b.t.Fatal(err)
	}
	return cmd
}

func (b *booted) live(l life) (end last, died bool) {
	b.t.Helper()
	cmd := b.command(l)
	var out, errout bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errout
	err := cmd.Run()
	if err == nil {
		err = json.Unmarshal(out.Bytes(), &end)
	} else if state, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && l.Kill > 0 && state.Signaled() && state.Signal() == syscall.SIGKILL {
		return end, true
	}
	if err != nil && !errors.Is(err, exec.ErrWaitDelay) {
		b.t.Fatalf("a life of the agent: %v\n%s%s", err, out.String(), errout.String())
	}
	return end, false
}

func (b *booted) apply(kill int, list ...protocol.Mount) (Status, bool) {
	b.t.Helper()
	end, died := b.live(life{Mounts: list, Kill: kill})
	return end.Status, died
}

func (b *booted) clear(kill int) (bool, error) {
	b.t.Helper()
	end, died := b.live(life{Clear: true, Kill: kill})
	if end.Err != "" {
		return died, errors.New(end.Err)
	}
	return died, nil
}

func (b *booted) mounted(dir string) string {
	b.t.Helper()
	table, err := mounts.New(fmt.Sprintf("/proc/%d/mountinfo", b.d.Leader())).Mounts()
	if err != nil {
		b.t.Fatal(err)
	}
	top, n := at(table, dir)
	if n == 0 {
		return ""
	}
	since := b.run("systemctl", "show", "--property=ActiveEnterTimestampMonotonic", "--value", unitName(dir))
	return fmt.Sprintf("%s %s #%s", top.Type, top.Options, since)
}

func (b *booted) unit(dir string) string {
	r, _ := b.d.Run(b.t.Context(), "cat", "/etc/systemd/system/"+unitName(dir))
	return r.Stdout
}

func (b *booted) remains() string {
	b.t.Helper()
	return b.run("sh", "-c", `findmnt -rno TARGET | grep /mnt/; ls -A /etc/systemd/system | grep -E 'mount$|flotta-tmp'; ls -A /etc/systemd/system/local-fs.target.wants 2>/dev/null; :`)
}

// TestScenarios takes a booted device through everything that the world in
// memory was taken through.
func TestScenarios(t *testing.T) {
	all := scenarios()
	names := make([]string, 0, len(all))
	for name := range all {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		t.Run(name, func(t *testing.T) {
			began := time.Now()
			all[name](check{t, newBooted(t)})
			t.Logf("took %s", strconv.FormatFloat(time.Since(began).Seconds(), 'f', 1, 64)+"s")
		})
	}
}
