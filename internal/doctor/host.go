package doctor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Host is how the doctor looks at a machine. All fields are required; paths given
// to functions are absolute.
type Host struct {
	// Files are those of the machine, from its root on.
	Files fs.FS
	// Lookup returns the addresses of a name.
	Lookup func(ctx context.Context, name string) ([]string, error)
	// Dial connects to an address of the network "tcp", "udp" or "unix".
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Command returns what a program writes to its standard output. The error of
	// one that ends badly has the last line of its standard error, and the output
	// is returned all the same; it is exec.ErrNotFound when there is no such
	// program.
	Command func(ctx context.Context, name string, args ...string) (string, error)
	// Room returns how much room is on the disk of a path.
	Room func(path string) (Room, error)
	// Label returns the security context of a path.
	Label func(path string) (string, error)
	// Clock returns the clock of this moment.
	Clock func() (Clock, error)
}

// Room is how much room a disk has.
type Room struct {
	Total, Free        uint64 // bytes; Free is what anybody may use
	Inodes, FreeInodes uint64 // both 0: the file system does not count them
}

// Clock is the wall clock, and how far it can be trusted.
type Clock struct {
	Now          time.Time
	Synchronised bool
	Error        time.Duration // at most, when it is synchronised
}

// ThisHost is the machine that the program runs on.
func ThisHost() Host {
	var dialer net.Dialer
	return Host{
		Files:   os.DirFS("/"),
		Lookup:  net.DefaultResolver.LookupHost,
		Dial:    dialer.DialContext,
		Command: command,
		Room:    room,
		Label:   label,
		Clock:   clock,
	}
}

// maxOutput bounds what is kept of a command's output.
const maxOutput = 1 << 20

// command runs a program with a language that is the same everywhere.
func command(ctx context.Context, name string, args ...string) (string, error) {
	path, err := find(name)
	if err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	cmd.WaitDelay = time.Second
	var out, errs bounded
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		lines := strings.Split(strings.TrimSpace(errs.String()), "\n")
		return out.String(), fmt.Errorf("run %s: %w: %s", name, err, lines[len(lines)-1])
	}
	return out.String(), nil
}

// find looks for a program also where a user's PATH does not.
func find(name string) (string, error) {
	if path, err := exec.LookPath(name); err == nil {
		return path, nil
	}
	for _, dir := range []string{"/usr/sbin", "/sbin", "/usr/bin"} {
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("find %s: %w", name, exec.ErrNotFound)
}

// bounded is a buffer that forgets what comes after maxOutput.
type bounded struct{ buffer bytes.Buffer }

func (b *bounded) Write(p []byte) (int, error) {
	if left := maxOutput - b.buffer.Len(); left > 0 {
		b.buffer.Write(p[:min(left, len(p))])
	}
	return len(p), nil
}

func (b *bounded) String() string { return b.buffer.String() }

func room(path string) (Room, error) {
	var s unix.Statfs_t
	if err := unix.Statfs(path, &s); err != nil {
		return Room{}, err
	}
	unit := uint64(s.Bsize) //nolint:gosec // a block's size is above zero
	return Room{Total: s.Blocks * unit, Free: s.Bavail * unit, Inodes: s.Files, FreeInodes: s.Ffree}, nil
}

func label(path string) (string, error) {
	text := make([]byte, 1024)
	n, err := unix.Lgetxattr(path, "security.selinux", text)
	if err != nil {
		return "", err
	}
	return strings.TrimRight(string(text[:n]), "\x00"), nil
}

func clock() (Clock, error) {
	now := Clock{Now: time.Now()}
	var t unix.Timex
	state, err := unix.Adjtimex(&t)
	if err != nil {
		return now, fmt.Errorf("ask the kernel for the clock: %w", err)
	}
	const unsynchronised = 0x40 // STA_UNSYNC
	now.Synchronised = state != unix.TIME_ERROR && t.Status&unsynchronised == 0
	now.Error = time.Duration(t.Maxerror) * time.Microsecond
	return now, nil
}

// text returns what a small file of the host holds, without the space around it.
func (h Host) text(path string) (string, error) {
	raw, err := fs.ReadFile(h.Files, strings.TrimPrefix(path, "/"))
	return strings.TrimSpace(string(raw)), err
}

// exists reports whether there is a file. One that cannot be looked at is there.
func (h Host) exists(path string) bool {
	_, err := fs.Stat(h.Files, strings.TrimPrefix(path, "/"))
	return err == nil || !errors.Is(err, fs.ErrNotExist)
}
