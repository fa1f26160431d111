package datasync

import (
	"context"
	"errors"
	"time"
)

const (
	// drainPause is between two looks at files that changed while they were sent.
	drainPause = 200 * time.Millisecond
	// drainRounds bounds those looks: a log that is written all the time must not
	// use up the whole time that a stop may take.
	drainRounds = 3
)

// Drain sends what the workloads wrote last, files that have not settled
// included, and returns when that is done, when it does not work, or when ctx
// ends. It is for the moments before Run is ended, and may be cut off at any
// instruction: what did not arrive is sent after the next start, an upload in
// parts from where it was. A workload whose last cycle failed is left out, so that
// a device without a network stops at once, and so is one that pauses: the end of
// the process is no order to send.
func (e *Engine) Drain(ctx context.Context) error {
	if e.limits.paused() != "" {
		return nil
	}
	e.mu.Lock()
	var keys []groupKey
	for key, g := range e.groups {
		if key.dir == egress && g.works.Load() {
			keys = append(keys, key)
		}
	}
	e.mu.Unlock()
	results := make(chan error, len(keys))
	for _, key := range keys {
		go func() { results <- e.drain(ctx, key) }()
	}
	var failures []error
	for range keys {
		if err := <-results; err != nil && !errors.Is(err, ErrNotSynced) {
			failures = append(failures, err)
		}
	}
	return errors.Join(failures...)
}

// drain works on one workload. Unlike flush it does not try again what failed.
func (e *Engine) drain(ctx context.Context, key groupKey) error {
	for range drainRounds {
		err := e.ask(ctx, key, ask{hurry: true, eager: true})
		if err != nil || !e.pending(key.workload) {
			return err
		}
		select {
		case <-time.After(drainPause):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}
