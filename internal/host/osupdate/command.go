package osupdate

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/project-flotta/flotta-agent/internal/command"
)

const (
	maxError = 500 // characters of a complaint
	// defaultGrace is how long a command may take to end after it was
	// interrupted: rpm-ostree then cancels its transaction in the daemon.
	defaultGrace = 10 * time.Second
)

// runner runs the tools of the host. The bound on what they print is far more than
// a listing of all the deployments that fit onto a disk takes, with the packages
// that were layered onto each.
type runner struct{ command.Runner }

// run runs a tool, and returns what it printed.
func (r runner) run(ctx context.Context, timeout time.Duration, name string, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, fmt.Errorf("it took longer than %s", timeout))
	defer cancel()
	out, err := r.Run(ctx, "", name, args...)
	if failed, ok := errors.AsType[*command.Error](err); ok {
		failed.Stderr = complaint(failed.Stderr)
	}
	if err != nil {
		return nil, err
	}
	return out, nil
}

// complaint returns the line of what a program said that names the fault: the
// last one that begins with "error:", as ostree, rpm-ostree and bootc put it,
// or else the last.
func complaint(said string) string {
	found := ""
	for line := range strings.Lines(said) {
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
