package agent

import (
	"context"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/project-flotta/flotta-agent/internal/desired"
	"github.com/project-flotta/flotta-agent/internal/durable"
	"github.com/project-flotta/flotta-agent/internal/workload"
)

const (
	appliedKind    = "applied"
	appliedVersion = 1
)

// applied remembers when a configuration was first seen to be applied, for the
// person at the device. It is worth a file, because agents are restarted; a file
// that cannot be read or written costs nothing but the time.
type applied struct {
	path string
	log  *slog.Logger

	mu   sync.Mutex
	mark appliedMark
}

// appliedMark is the document on disk.
type appliedMark struct {
	Digest string    `json:"digest"` // of the configuration
	At     time.Time `json:"at"`
}

// at returns when the configuration of that digest was applied; zero: not known.
func (a *applied) at(digest string) time.Time {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.mark.Digest != digest {
		return time.Time{}
	}
	return a.mark.At
}

// progress is how far the workloads are; *workload.Reconciler.
type progress interface {
	Status() workload.Status
	Changed() <-chan struct{}
}

// run watches until ctx ends.
func (a *applied) run(ctx context.Context, source progress, wanted func() *desired.Snapshot) error {
	var known appliedMark
	if err := durable.LoadDocument(a.path, appliedKind, appliedVersion, &known); err != nil && !os.IsNotExist(err) {
		a.log.Debug("time of the last change not known", "err", err)
	}
	a.mu.Lock()
	a.mark = known
	a.mu.Unlock()
	for {
		changed := source.Changed()
		now, snapshot := source.Status(), wanted()
		if now.Settled && now.ConfigDigest != "" && now.ConfigDigest == snapshot.Digest() && snapshot.State().Managed() {
			a.settled(now.ConfigDigest)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil
		}
	}
}

// settled notes that the configuration is applied, when that is news.
func (a *applied) settled(digest string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.mark.Digest == digest {
		return
	}
	a.mark = appliedMark{Digest: digest, At: time.Now().UTC().Truncate(time.Second)}
	if err := durable.SaveDocument(a.path, appliedKind, appliedVersion, a.mark, 0o600); err != nil {
		a.log.Debug("time of the change not kept", "err", err)
	}
}
