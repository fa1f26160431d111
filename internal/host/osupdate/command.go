package osupdate

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

const (
	// maxOutput is far more than a listing of all the deployments that fit onto
	// a disk takes, with the packages that were layered onto each.
	maxOutput = 4 << 20
	maxError  = 500 // characters of a complaint
	// defaultGrace is how long a command may take to end after it was
	// interrupted: rpm-ostree then cancels its transaction in the daemon.
	defaultGrace = 10 * time.Second
)

// errAbsent says that a program is not installed.
var errAbsent = errors.New("not installed")

// runner runs the programs of the host.
type runner struct {
	dirs  []string // where they are looked for
	env   []string // beside LC_ALL and PATH
	grace time.Duration
}

// find returns the path of a program. It does not depend on the environment of
// whoever started the agent.
func (r runner) find(name string) (string, error) {
	for _, dir := range r.dirs {
		path := filepath.Join(dir, name)
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return path, nil
		}
	}
	return "", fmt.Errorf("%s is %w", name, errAbsent)
}

// has reports whether the program is installed.
func (r runner) has(name string) bool {
	_, err := r.find(name)
	return err == nil
}

// run runs a program in a process group of its own, which is gone when run
// returns, and returns what it printed. When ctx ends or the time is over, the
// group is interrupted, and killed if it does not end.
func (r runner) run(ctx context.Context, timeout time.Duration, name string, args ...string) ([]byte, error) {
	path, err := r.find(name)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, fmt.Errorf("it took longer than %s", timeout))
	defer cancel()
	stdout, stderr := &bounded{limit: maxOutput}, &bounded{limit: 16 << 10}
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = append([]string{"LC_ALL=C", "PATH=" + strings.Join(r.dirs, ":")}, r.env...)
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = stdout, stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	var killer *time.Timer
	cmd.Cancel = func() error {
		group := -cmd.Process.Pid
		killer = time.AfterFunc(r.grace, func() { _ = syscall.Kill(group, syscall.SIGKILL) })
		return syscall.Kill(group, syscall.SIGINT)
	}
	cmd.WaitDelay = r.grace + time.Second
	err = cmd.Run()
	if killer != nil {
		killer.Stop()
	}
	if cmd.Process != nil {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // whatever it left behind
	}
	switch said := strings.Join(append([]string{name}, args...), " "); {
	case err != nil && ctx.Err() != nil:
		return nil, fmt.Errorf("run %s: %w", said, context.Cause(ctx))
	case err != nil:
		if text := complaint(stderr.kept); text != "" {
			err = fmt.Errorf("%w: %s", err, text)
		}
		return nil, fmt.Errorf("run %s: %w", said, err)
	case stdout.over:
		return nil, fmt.Errorf("run %s: it says more than %d bytes", said, maxOutput)
	}
	return stdout.kept, nil
}

// complaint returns the line of what a program said that names the fault: the
// last one that begins with "error:", as ostree, rpm-ostree and bootc put it,
// or else the last.
func complaint(raw []byte) string {
	found := ""
	for line := range strings.Lines(strings.ToValidUTF8(string(raw), "?")) {
		line = strings.TrimSpace(line)
		if line == "" || !fault(line) && fault(found) {
			continue
		}
		found = line
	}
	return clip(found, maxError)
}

func fault(line string) bool {
	return len(line) >= 6 && strings.EqualFold(line[:6], "error:")
}

// clip shortens a text for a person, and keeps control characters out of it.
func clip(text string, limit int) string {
	text = strings.Map(func(c rune) rune {
		if c < ' ' || c == 0x7f {
			return ' '
		}
		return c
	}, strings.ToValidUTF8(text, "?"))
	if len(text) > limit {
		text = strings.ToValidUTF8(text[:limit], "") + "…"
	}
	return text
}

// bounded keeps the first bytes that are written to it. It is nothing but a
// writer: what can read for itself would be handed the pipe, past the bound.
type bounded struct {
	kept  []byte
	limit int
	over  bool
}

// Write keeps what fits, and never fails: a command that says too much is to end
// by itself.
func (b *bounded) Write(p []byte) (int, error) {
	n := len(p)
	if room := b.limit - len(b.kept); n > room {
		p, b.over = p[:max(room, 0)], true
	}
	b.kept = append(b.kept, p...)
	return n, nil
}
