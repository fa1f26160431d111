package device

import (
	"context"
	_ "embed" // the script.
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

//go:embed boot.sh
var bootScript string

// bootTime is how long a boot may take on a machine under load; it takes half a
// second on an idle one.
const bootTime = 90 * time.Second

// PowerOn boots the device, the first time or again. It fails when it is on.
func (d *Device) PowerOn(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, bootTime)
	defer cancel()
	err := d.start()
	if err == nil {
		err = d.waitBooted(ctx)
	}
	if d.console != nil {
		_, _ = d.console.Write(d.consoleLog())
	}
	if err != nil {
		return fmt.Errorf("boot device %s: %w", d.name, err)
	}
	return nil
}

// consoleLog returns what the device printed since it was switched on.
func (d *Device) consoleLog() []byte {
	raw, _ := os.ReadFile(filepath.Join(d.dir, "console.log"))
	return raw
}

// start starts systemd-nspawn.
func (d *Device) start() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.nspawn != nil {
		return errors.New("it is on")
	}
	args := []string{
		"-c", bootScript, "boot",
		"--machine=" + d.name,
		"--network-namespace-path=/run/netns/" + d.network.namespace,
	}
	for _, node := range deviceNodes() {
		own := d.nodePath(node)
		if _, err := os.Stat(own); err == nil {
			args = append(args, "--bind="+own+":"+node)
		}
	}
	for path, sub := range disks() {
		args = append(args, "--bind="+filepath.Join(d.dir, sub)+":"+path)
	}
	for i, path := range d.limits {
		args = append(args, "--bind="+strings.TrimSuffix(d.limitImage(i), ".img")+":"+path)
	}
	if d.nameless {
		args = append(args, "--bind-ro="+filepath.Join(d.dir, "no-machine-id")+":/etc/machine-id")
	}
	cmd := exec.Command("/bin/sh", args...)
	cmd.Dir = "/"
	cmd.Env = []string{
		"PATH=" + searchPath, "DIR=" + d.dir, "HIERARCHY=" + d.hierarchy,
		"CGROUPS=" + strings.Join(d.cgroups, " "),
		"PROVISION=" + d.provision,
		"OSTREE=" + strconv.FormatBool(d.ostree),
	}
	// A file, not a pipe: a detached device outlives whoever reads from it.
	console, err := os.Create(filepath.Join(d.dir, "console.log"))
	if err != nil {
		return err
	}
	defer func() { _ = console.Close() }()
	cmd.Stdout, cmd.Stderr = console, console
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Unshareflags: syscall.CLONE_NEWNS}
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := make(chan struct{})
	go func() { _ = cmd.Wait(); close(ended) }()
	d.nspawn, d.gone, d.leader = cmd, ended, 0
	return nil
}

// waitBooted waits for the device's systemd, for the end of its boot, and for
// the user's Podman.
func (d *Device) waitBooted(ctx context.Context) error {
	if err := d.poll(ctx, d.findLeader); err != nil {
		return err
	}
	if err := d.poll(ctx, func() error {
		r, err := d.Run(ctx, "systemctl", "is-system-running", "--wait")
		if state := strings.TrimSpace(r.Stdout); err != nil && state != "degraded" {
			return fmt.Errorf("system is %q: %w", state, err)
		}
		return nil
	}); err != nil {
		return err
	}
	if d.provision == "nothing" {
		return nil
	}
	return d.FindUser(ctx)
}

// FindUser waits until User's service manager listens for Podman calls. Boot and
// PowerOn do it, but for a device that is Bare: it is called when there is such a
// user.
func (d *Device) FindUser(ctx context.Context) error {
	if d.uid == 0 {
		r, err := d.Run(ctx, "id", "-u", User)
		if err != nil {
			return err
		}
		if d.uid, err = strconv.Atoi(strings.TrimSpace(r.Stdout)); err != nil {
			return fmt.Errorf("read user id: %w", err)
		}
	}
	return d.poll(ctx, func() error {
		_, err := os.Stat(d.Path(fmt.Sprintf("/run/user/%d/podman/podman.sock", d.uid)))
		return err
	})
}

// findLeader looks for the device's systemd: the child of systemd-nspawn that is
// process 1 in a namespace of its own (another child is there for a moment, and
// sees the host's files). It listens when it is ready to be talked to.
func (d *Device) findLeader() error {
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", d.nspawn.Process.Pid))
	if err != nil {
		return fmt.Errorf("look for systemd: %w", err)
	}
	for field := range strings.FieldsSeq(string(children)) {
		pid, err := strconv.Atoi(field)
		if err != nil {
			continue
		}
		if _, err := os.Stat(fmt.Sprintf("/proc/%d/root/run/systemd/private", pid)); err != nil || !first(pid) {
			continue
		}
		d.mu.Lock()
		defer d.mu.Unlock()
		d.leader = pid
		return nil
	}
	return errors.New("no systemd yet")
}

// first says whether a process is the first one of a namespace below ours.
func first(pid int) bool {
	status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	for line := range strings.Lines(string(status)) {
		if numbers, ok := strings.CutPrefix(line, "NSpid:"); ok {
			fields := strings.Fields(numbers)
			return len(fields) > 1 && fields[len(fields)-1] == "1"
		}
	}
	return false
}

// poll calls f until it succeeds, the device dies or ctx ends.
func (d *Device) poll(ctx context.Context, f func() error) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		err := f()
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-d.gone:
			return fmt.Errorf("the device died: %w\n%s", err, d.consoleLog())
		case <-ctx.Done():
			return fmt.Errorf("%w: %w\n%s", ctx.Err(), err, d.consoleLog())
		}
	}
}

// PowerCut kills everything on the device at once. Its state stays. It does
// nothing to a device that is off.
func (d *Device) PowerCut() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.nspawn == nil {
		return nil
	}
	killCgroup(d.cgroups[0])
	if d.leader != 0 {
		_ = syscall.Kill(d.leader, syscall.SIGKILL)
	}
	_ = d.nspawn.Process.Kill()
	return d.off()
}

// Shutdown lets the device shut down by itself, as a person would.
func (d *Device) Shutdown(ctx context.Context) error {
	if _, err := d.Run(ctx, "systemctl", "poweroff", "--no-block"); err != nil {
		return fmt.Errorf("shut down device %s: %w", d.name, err)
	}
	select {
	case <-d.gone:
		d.mu.Lock()
		defer d.mu.Unlock()
		return d.off()
	case <-ctx.Done():
		return fmt.Errorf("shut down device %s: %w", d.name, ctx.Err())
	}
}

// nspawnReboots is the exit status of systemd-nspawn, without a unit of its own,
// when what runs in it asked the kernel for a reboot.
const nspawnReboots = 133

// AwaitReboot waits until the device goes down for a reboot that was asked for on
// it. It is off then, and PowerOn does what its firmware would. To end in any
// other way is an error.
func (d *Device) AwaitReboot(ctx context.Context) error {
	d.mu.Lock()
	nspawn, ended := d.nspawn, d.gone
	d.mu.Unlock()
	if nspawn == nil {
		return fmt.Errorf("await reboot of %s: %w", d.name, ErrOff)
	}
	select {
	case <-ended:
	case <-ctx.Done():
		return fmt.Errorf("await reboot of %s: %w", d.name, ctx.Err())
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.off(); err != nil {
		return err
	}
	if code := nspawn.ProcessState.ExitCode(); code != nspawnReboots {
		return fmt.Errorf("await reboot of %s: it ended with status %d instead\n%s", d.name, code, d.consoleLog())
	}
	return nil
}

// off waits until nothing of a dying device is left but its state.
func (d *Device) off() error {
	const limit = 30 * time.Second
	select {
	case <-d.gone:
	case <-time.After(limit):
		return fmt.Errorf("switch off %s: it does not die", d.name)
	}
	if d.leader != 0 && !gone(d.leader, limit) {
		return fmt.Errorf("switch off %s: process %d does not die", d.name, d.leader)
	}
	for _, group := range d.cgroups {
		emptyCgroup(group)
	}
	d.nspawn, d.leader = nil, 0
	return nil
}
