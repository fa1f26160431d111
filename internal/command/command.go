package command

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// ErrAbsent says that a program is not installed.
var ErrAbsent = errors.New("not installed")

// ErrTooMuch says that a program printed more than Runner.Limit. What was kept of it is returned as well.
var ErrTooMuch = errors.New("it says too much")

const (
	defaultLimit = 4 << 20
	complaints   = 16 << 10 // bytes kept of what a program says on its standard error
	defaultGrace = time.Second
)

// Runner runs programs in one way. Its zero value is of use.
type Runner struct {
	Dirs  []string      // where programs are looked for; nil: HostDirs
	Env   []string      // beside LC_ALL and PATH
	Limit int           // bytes that are kept of the standard output; 0: 4 MiB
	Grace time.Duration // to end in after an interruption; 0: a second
}

// HostDirs are where a host has its programs.
func HostDirs() []string { return []string{"/usr/sbin", "/usr/bin", "/sbin", "/bin"} }

func (r Runner) dirs() []string {
	if r.Dirs != nil {
		return r.Dirs
	}
	return HostDirs()
}

// Find returns the path of a program. The error wraps ErrAbsent.
func (r Runner) Find(name string) (string, error) {
	for _, dir := range r.dirs() {
		path := filepath.Join(dir, name)
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return path, nil
		}
	}
	return "", fmt.Errorf("%s is %w", name, ErrAbsent)
}

// Has reports whether a program is installed.
func (r Runner) Has(name string) bool {
	_, err := r.Find(name)
	return err == nil
}

// Error is how a program failed.
type Error struct {
	Line   string // the command line
	Stderr string // what it said about it, whole; up to 16 KiB of valid UTF-8
	Err    error  // of exec
}

func (e *Error) Error() string {
	text := "run " + e.Line + ": " + e.Err.Error()
	if said := strings.TrimSpace(e.Stderr); said != "" {
		text += ": " + said
	}
	return text
}

func (e *Error) Unwrap() error { return e.Err }

// Run runs a program with the text as its standard input, and returns what it
// printed, also with an error. When ctx ends, the program's process group is
// interrupted, and killed if it does not end; the error then wraps the cause of
// that. One that failed by itself is an *Error.
func (r Runner) Run(ctx context.Context, stdin, name string, args ...string) ([]byte, error) {
	path, err := r.Find(name)
	if err != nil {
		return nil, err
	}
	stdout, stderr := &bounded{limit: r.limit()}, &bounded{limit: complaints}
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = append([]string{"LC_ALL=C.UTF-8", "PATH=" + strings.Join(r.dirs(), ":")}, r.Env...)
	cmd.Dir = "/"
	cmd.Stdin = strings.NewReader(stdin)
	cmd.Stdout, cmd.Stderr = stdout, stderr
	err = r.group(cmd)
	switch line := strings.Join(append([]string{name}, args...), " "); {
	case err != nil && ctx.Err() != nil:
		return stdout.kept, fmt.Errorf("run %s: %w", line, context.Cause(ctx))
	case err != nil:
		return stdout.kept, &Error{Line: line, Stderr: strings.ToValidUTF8(string(stderr.kept), "?"), Err: err}
	case stdout.over:
		return stdout.kept, fmt.Errorf("run %s: %w: more than %d bytes", line, ErrTooMuch, stdout.limit)
	}
	return stdout.kept, nil
}

// group runs the command as a process group of its own, of which nothing is left.
func (r Runner) group(cmd *exec.Cmd) error {
	grace := r.Grace
	if grace <= 0 {
		grace = defaultGrace
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	var killer *time.Timer
	cmd.Cancel = func() error {
		group := -cmd.Process.Pid
		killer = time.AfterFunc(grace, func() { _ = syscall.Kill(group, syscall.SIGKILL) })
		return syscall.Kill(group, syscall.SIGINT)
	}
	cmd.WaitDelay = grace + time.Second
	err := cmd.Run()
	if killer != nil {
		killer.Stop()
	}
	if cmd.Process != nil {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // whatever it left behind
	}
	return err
}

func (r Runner) limit() int {
	if r.Limit > 0 {
		return r.Limit
	}
	return defaultLimit
}

// bounded keeps the first bytes that are written to it. It is nothing but a
// writer: what can read for itself would be handed the pipe, past the bound.
type bounded struct {
	kept  []byte
	limit int
	over  bool
}

// Write keeps what fits, and never fails: a program that says too much is to end
// by itself.
func (b *bounded) Write(p []byte) (int, error) {
	n := len(p)
	if room := b.limit - len(b.kept); n > room {
		p, b.over = p[:max(room, 0)], true
	}
	b.kept = append(b.kept, p...)
	return n, nil
}

// Proxies returns the variables of an environment that name proxies.
func Proxies(environ []string) []string {
	var out []string
	for _, variable := range environ {
		switch name, _, _ := strings.Cut(variable, "="); strings.ToUpper(name) {
		case "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY":
			out = append(out, variable)
		}
	}
	return out
}
