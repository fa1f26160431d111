package datasync

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
)

// ErrNotSynced says that a workload has no data path to synchronise now.
var ErrNotSynced = errors.New("workload has nothing to synchronise")

// SyncNow runs one cycle of the workload's egress and waits for its end: what
// had settled by then is in the bucket when it returns nil.
func (e *Engine) SyncNow(ctx context.Context, workload string) error {
	return e.syncNow(ctx, groupKey{workload, egress})
}

// syncNow makes a cycle that looks at everything, whatever was notified.
func (e *Engine) syncNow(ctx context.Context, key groupKey) error {
	return e.ask(ctx, key, ask{full: true})
}

// lastCall is syncNow for who may not come back: what failed before is tried,
// whatever the pause that it was given.
func (e *Engine) lastCall(ctx context.Context, key groupKey) error {
	return e.ask(ctx, key, ask{full: true, eager: true})
}

// ask is what somebody wants of the next cycle.
type ask struct {
	full  bool          // look at everything
	hurry bool          // do not wait for files to rest
	eager bool          // try what failed though its time has not come
	audit bool          // list the bucket before
	found *atomic.Int64 // by the audit; nil: nobody wants to know
	done  chan<- error  // gets the outcome; nil: nobody waits
}

// ask makes cycles until one finds that all that was launched until then has
// arrived.
func (e *Engine) ask(ctx context.Context, key groupKey, a ask) error {
	e.mu.Lock()
	g := e.groups[key]
	e.mu.Unlock()
	if g == nil {
		return fmt.Errorf("sync workload %s: %w", key.workload, ErrNotSynced)
	}
	defer e.lanes.order(g)()
	for {
		err := g.ask(ctx, a)
		if err != nil && !errors.Is(err, errAgain) {
			return err
		}
		if err == nil {
			if e.lanes.ended(g) { // and with it what it had launched
				return fmt.Errorf("sync workload %s: %w", key.workload, ErrNotSynced)
			}
			return nil
		}
		if !e.lanes.landed(ctx, g) {
			return fmt.Errorf("sync workload %s: %w", key.workload, ctx.Err())
		}
		a.audit, a.found, a.eager = false, nil, false // that was done
	}
}

// errAgain says that a cycle did not fail and has not done everything.
var errAgain = errors.New("not everything could be looked at")

// ask has the group make a cycle and returns its outcome.
func (g *group) ask(ctx context.Context, a ask) error {
	done := make(chan error, 1)
	a.done = done
	select {
	case g.kick <- a:
	case <-g.stopped:
		return fmt.Errorf("sync workload %s: %w", g.key.workload, ErrNotSynced)
	case <-ctx.Done():
		return fmt.Errorf("sync workload %s: %w", g.key.workload, ctx.Err())
	}
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("sync workload %s: %w", g.key.workload, ctx.Err())
	}
}

// landed returns when all that a group has launched until now is settled; false:
// ctx ended before.
func (l *lanes) landed(ctx context.Context, g *group) bool {
	l.mu.Lock()
	last := l.launched
	l.mu.Unlock()
	return l.wait(ctx, &g.queue, nil, func() bool {
		for _, f := range g.queue.open {
			if f.number <= last {
				return true
			}
		}
		return false
	})
}
