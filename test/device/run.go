package device

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/project-flotta/flotta-agent/test/image"
)

// Result is what a command printed and how it ended.
type Result struct {
	Stdout, Stderr string
	Code           int // -1 when it did not run, or a signal ended it
}

// ErrOff says that the device is off.
var ErrOff = errors.New("the device is off")

// Run runs a command on the device as root. The error says how it failed, also
// for an exit code other than 0.
func (d *Device) Run(ctx context.Context, args ...string) (Result, error) {
	return d.run(ctx, "root", nil, args)
}

// RunAs runs a command as a user, in the environment of a login.
func (d *Device) RunAs(ctx context.Context, user string, args ...string) (Result, error) {
	return d.run(ctx, user, nil, args)
}

// RunInput is RunAs with something to read on standard input.
func (d *Device) RunInput(ctx context.Context, user string, stdin io.Reader, args ...string) (Result, error) {
	return d.run(ctx, user, stdin, args)
}

func (d *Device) run(ctx context.Context, user string, stdin io.Reader, args []string) (Result, error) {
	cmd, err := d.CommandAs(ctx, user, args...)
	if err != nil {
		return Result{Code: -1}, err
	}
	var out, errout bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, &out, &errout
	err = cmd.Run()
	r := Result{Stdout: out.String(), Stderr: errout.String(), Code: cmd.ProcessState.ExitCode()}
	// What the command left running in the background has our pipes open.
	if err != nil && !errors.Is(err, exec.ErrWaitDelay) {
		said := strings.TrimSpace(r.Stderr)
		return r, fmt.Errorf("run %s: %w: %s", strings.Join(args, " "), err, said[max(0, len(said)-2000):])
	}
	return r, nil
}

// Command returns a command that will run on the device as root, for those that
// want its pipes. When ctx ends, the command is killed on the device too.
func (d *Device) Command(ctx context.Context, args ...string) (*exec.Cmd, error) {
	return d.CommandAs(ctx, "root", args...)
}

// The command joins the control group first: from outside of the device's own
// namespace of groups, systemd and Podman could not make sense of it.
// $1 and $2 are two groups in systemd's tree, the better one first, and $3 the
// groups of all other controllers.
const enter = `for f in "$1" "$2"; do { echo 0 >"$f"; } 2>/dev/null && break; done
for f in $3; do echo 0 >"$f"; done
leader=$4; shift 4
exec nsenter --target "$leader" --all -- "$@"`

// As on a login, but nothing of the caller's environment is taken over.
const login = `user=$1; shift
uid=$(id -u "$user") && home=$(getent passwd "$user" | cut -d: -f6) && cd "$home" || exit 127
exec setpriv --reuid "$user" --regid "$(id -g "$user")" --init-groups --pdeathsig KILL \
	env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 PAGER= \
	HOME="$home" USER="$user" LOGNAME="$user" XDG_RUNTIME_DIR="/run/user/$uid" \
	DBUS_SESSION_BUS_ADDRESS="unix:path=/run/user/$uid/bus" "$@"`

// CommandAs is Command for any user.
func (d *Device) CommandAs(ctx context.Context, user string, args ...string) (*exec.Cmd, error) {
	leader := d.Leader()
	if leader == 0 {
		return nil, ErrOff
	}
	// The groups of the two systemds themselves: they are always there, and a
	// command that the user's one starts elsewhere may be moved out of its own.
	top := filepath.Join(d.cgroups[0], "payload")
	system := filepath.Join(top, "init.scope/cgroup.procs")
	first := system
	if user == User {
		first = filepath.Join(top, fmt.Sprintf("user.slice/user-%d.slice/user@%[1]d.service/init.scope/cgroup.procs", d.uid))
	}
	var others []string
	for _, group := range d.cgroups[1:] {
		others = append(others, filepath.Join(group, "cgroup.procs"))
	}
	line := []string{"-c", enter, "enter", first, system, strings.Join(others, " "), strconv.Itoa(leader)}
	if user == "root" {
		line = append(line, "setpriv", "--pdeathsig", "KILL")
	} else {
		line = append(line, "/bin/sh", "-c", login, "login", user)
	}
	cmd := exec.CommandContext(ctx, "/bin/sh", append(line, args...)...)
	cmd.Env = []string{"PATH=" + searchPath, "HOME=/root", "USER=root", "LANG=C.UTF-8", "PAGER="}
	cmd.WaitDelay = time.Second
	return cmd, nil
}

// AddImage puts an image of the test program into a user's Podman.
func (d *Device) AddImage(ctx context.Context, user string, spec image.Spec) error {
	archive, err := image.Archive(ctx, spec)
	if err != nil {
		return fmt.Errorf("add image %s: %w", spec.Ref, err)
	}
	f, err := os.Open(archive)
	if err != nil {
		return fmt.Errorf("add image %s: %w", spec.Ref, err)
	}
	defer func() { _ = f.Close() }()
	if _, err := d.RunInput(ctx, user, f, "podman", "load", "--quiet"); err != nil {
		return fmt.Errorf("add image %s: %w", spec.Ref, err)
	}
	return nil
}

// Kill sends a signal to every process on the device whose command line matches
// the pattern, and fails when there is none. For the processes of a unit, run
// `systemctl kill`.
func (d *Device) Kill(ctx context.Context, signal, pattern string) error {
	_, err := d.Run(ctx, "pkill", "--signal", signal, "--full", "--", pattern)
	return err
}

// Journal returns the newest lines of the device's journal, those of the units
// of its users included, also when it is off.
func (d *Device) Journal(ctx context.Context, lines int) string {
	cmd := exec.CommandContext(ctx, "journalctl", "--no-pager", "--quiet", "--output=short-precise",
		"--lines="+strconv.Itoa(lines), "--directory", filepath.Join(d.dir, "upper/var/log/journal"))
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Sprintf("no journal: %v: %s", err, out)
	}
	return string(out)
}
