package datasync

import (
	"context"
	"errors"
	"log/slog"
	"time"
)

// late takes over what came of a transfer if its cycle has ended before it.
func (c *cycle) late(err error) bool {
	c.telling.Lock()
	defer c.telling.Unlock()
	c.mu.Lock()
	taken := c.taken
	c.mu.Unlock()
	if !taken {
		return false
	}
	g, o := c.group, c.take()
	g.lateMu.Lock()
	if err == nil {
		g.lateOnes.strikes, g.lateOnes.served = 0, true
	} else if o.strikes > 0 {
		g.lateOnes.strikes += o.strikes
		g.lateOnes.firstErr = o.firstErr
	}
	g.lateMu.Unlock()
	g.failedAll(o.suspects)
	if o.failed+o.pending+o.skipped+o.refused == 0 && o.firstErr == nil && o.blocked == "" {
		return true
	}
	g.engine.ledger.change(g.key.workload, g.key.dir, func(s *DirectionStatus) {
		s.Pending += o.pending
		s.Failed += o.failed
		s.Skipped += o.skipped
		s.Refused += o.refused
		if o.firstErr != nil {
			s.LastError = o.firstErr.Error()
		}
		if o.blocked != "" {
			s.Blocked = o.blocked
		}
	})
	return true
}

// takeLate returns what transfers of earlier cycles showed of the store since it
// was last called.
func (g *group) takeLate() outcome {
	g.lateMu.Lock()
	defer g.lateMu.Unlock()
	o := g.lateOnes
	g.lateOnes = outcome{}
	return o
}

// failedAll notes that items failed while the store worked for others.
func (g *group) failedAll(items map[string]error) {
	for path, err := range items {
		g.retries.failed(path, time.Now(), err)
	}
}

// errPaused ends what the timetable does not let travel.
var errPaused = errors.New("data sync is paused")

// paused says until when the group has to rest; empty: it has not to, or somebody
// waits for it.
func (g *group) paused() string {
	why := g.engine.limits.paused()
	if why == "" || g.engine.lanes.ordered(g) {
		return ""
	}
	return why
}

// pausing publishes that a cycle was not made, or not to its end.
func (g *group) pausing(c *cycle, why string) {
	o := c.take()
	g.failedAll(o.suspects)
	before := ""
	g.engine.ledger.change(g.key.workload, g.key.dir, func(s *DirectionStatus) {
		before, s.Paused = s.Paused, why
		s.Pending = max(s.Pending, o.pending)
	})
	if before == "" {
		g.log.Info("data sync pauses", slog.String("why", why))
	}
}

// airspace returns the context of the group's transfers, a new one when a pause
// ended the one before.
func (l *lanes) airspace(ctx context.Context, g *group) context.Context {
	l.mu.Lock()
	defer l.mu.Unlock()
	if g.air == nil || g.air.Err() != nil {
		g.air, g.endAir = context.WithCancelCause(ctx)
	}
	return g.air
}

// order says that somebody waits for the group, until the returned function is
// called: its transfers are made in spite of a pause.
func (l *lanes) order(g *group) (done func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	g.orders++
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		g.orders--
	}
}

func (l *lanes) ordered(g *group) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return g.orders > 0
}

// ended reports whether the transfers of a group were ended.
func (l *lanes) ended(g *group) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return g.air == nil || g.air.Err() != nil
}

// open reports whether any transfer of the queue is not settled.
func (l *lanes) open(q *queue) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(q.open) > 0
}

// trying returns why a transfer of the queue failed that is tried again now; nil:
// none did.
func (l *lanes) trying(q *queue, r *retries) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for path := range q.open {
		if r.failures(path) == 0 {
			continue
		}
		if err := r.lastErr(path); !errors.Is(err, errChanged) {
			return err
		}
	}
	return nil
}

// ground ends the transfers of all groups that nobody waits for. They go on when
// the group makes its next cycle.
func (l *lanes) ground() {
	l.mu.Lock()
	var grounded []*group
	for _, g := range l.groups {
		if g.orders == 0 && g.air != nil && g.air.Err() == nil {
			g.endAir(errPaused)
			grounded = append(grounded, g)
		}
	}
	l.mu.Unlock()
	for _, g := range grounded {
		l.drop(g)
	}
}

// enter makes the transfers of a group known.
func (l *lanes) enter(g *group) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.groups[g.key] = g
}

// exit returns when the last transfer of a group has ended whose context has.
func (l *lanes) exit(g *group) {
	l.drop(g)
	l.wait(context.Background(), &g.queue, nil, func() bool { return len(g.queue.open) > 0 })
	l.mu.Lock()
	defer l.mu.Unlock()
	if g.endAir != nil {
		g.endAir(nil)
	}
	if l.groups[g.key] == g {
		delete(l.groups, g.key)
	}
}
