package datasync

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/project-flotta/flotta-agent/internal/desired"
)

const (
	// flushPause is between two looks at what is left to be sent. It is short:
	// the caller waits, and a look that finds nothing costs no request.
	flushPause = time.Second
	// maxFlushPause is between two attempts at what fails again and again.
	maxFlushPause = 8 * time.Second
)

// Follow waits until the engine works on the newest snapshot: what the one
// before asked for has ended. The error is that of ctx.
func (e *Engine) Follow(ctx context.Context) error {
	for {
		e.mu.Lock()
		followed, changed := e.followed, e.follow
		e.mu.Unlock()
		if followed == e.desired.Current() {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("follow desired state: %w", ctx.Err())
		}
	}
}

// follows says that the groups are those of snapshot.
func (e *Engine) follows(snapshot *desired.Snapshot) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.followed = snapshot
	close(e.follow)
	e.follow = make(chan struct{})
}

// Flush returns nil as soon as everything that the workloads wrote until now is
// in the bucket, files that had not settled yet included. Failures are tried
// again until ctx ends; the error then says what was still in the way.
func (e *Engine) Flush(ctx context.Context) error {
	if err := e.Follow(ctx); err != nil {
		return err
	}
	e.mu.Lock()
	var keys []groupKey
	for key := range e.groups {
		if key.dir == egress {
			keys = append(keys, key)
		}
	}
	e.mu.Unlock()
	results := make(chan error, len(keys))
	for _, key := range keys {
		go func() { results <- e.flush(ctx, key) }()
	}
	var failures []error
	for range keys {
		failures = append(failures, <-results)
	}
	return errors.Join(failures...)
}

// flush works on one workload.
func (e *Engine) flush(ctx context.Context, key groupKey) error {
	for pause := flushPause; ; {
		err := e.lastCall(ctx, key)
		if errors.Is(err, ErrNotSynced) {
			return nil // it is no longer wanted
		}
		if err == nil && !e.pending(key.workload) {
			return nil
		}
		select {
		case <-time.After(pause):
			if err != nil {
				pause = min(2*pause, maxFlushPause)
			}
		case <-ctx.Done():
			if err == nil {
				err = fmt.Errorf("sync workload %s: some files never rest: %w", key.workload, ctx.Err())
			}
			return err
		}
	}
}

// pending reports whether files of the workload wait to be sent.
func (e *Engine) pending(workload string) bool {
	all := e.Status().Workloads
	i := slices.IndexFunc(all, func(w WorkloadStatus) bool { return w.Name == workload })
	return i >= 0 && all[i].Egress.Pending > 0
}
