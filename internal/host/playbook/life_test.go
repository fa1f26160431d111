package playbook

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/project-flotta/flotta-agent/internal/desired"
	"github.com/project-flotta/flotta-agent/internal/systemd"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// lifeEnv makes the test binary a life of the agent: with everything that is
// real, and a list that is read from a file at each look.
const lifeEnv = "FLOTTA_TEST_LIFE"

// life is what one is to do.
type life struct {
	List   string // file
	Report string // file: what is reported, a line at each change
	Clear  bool   // instead of running
}

// reported is a line of that file.
type reported struct {
	Statuses []protocol.PlaybookExecutionStatus
	Problems []string
}

func live(text string) error {
	var l life
	if err := json.Unmarshal([]byte(text), &l); err != nil {
		return err
	}
	units, err := systemd.New(systemd.Config{Socket: systemd.SystemSocket})
	if err != nil {
		return err
	}
	defer units.Close()
	report, err := os.OpenFile(l.Report, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer report.Close()
	lines := json.NewEncoder(report)
	r, err := New(Config{
		Ask: func(context.Context) (list []protocol.PlaybookExecution, err error) {
			data, err := os.ReadFile(l.List)
			if errors.Is(err, fs.ErrNotExist) {
				return nil, nil
			} else if err == nil {
				err = json.Unmarshal(data, &list)
			}
			return list, err
		},
		Desired: told{desired.NewSnapshot(desired.State{Ansible: &protocol.AnsibleManager{PeriodSeconds: 1}}, "digest")},
		Dir:     DefaultDir, Units: units, Log: slog.New(slog.NewTextHandler(os.Stderr, nil)),
		Jitter: func(d time.Duration) time.Duration { return min(d, time.Second) },
	})
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	if l.Clear {
		return r.Clear(ctx)
	}
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()
	for {
		changed := r.Changed()
		if err := lines.Encode(reported{r.Statuses(), r.Problems()}); err != nil {
			return err
		}
		select {
		case <-changed:
		case err := <-ended:
			return err
		}
	}
}

// told is a desired state that does not change.
type told struct{ snapshot *desired.Snapshot }

func (t told) Current() *desired.Snapshot { return t.snapshot }
