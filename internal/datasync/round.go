package datasync

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/project-flotta/flotta-agent/internal/datasync/s3"
)

// cycle looks at all routes once. The error says what did not work; a cycle that
// ctx ended has no outcome.
func (g *group) cycle(ctx context.Context, asked ask) error {
	c, inner := g.begin(ctx, asked)
	defer c.end()
	if why := g.paused(); why != "" {
		g.pausing(c, why)
		return errPaused
	}
	g.lookAtClashes()
	for i := range g.routes {
		if inner.Err() != nil {
			break
		}
		r := g.routes[(g.first+i)%len(g.routes)]
		var err error
		if g.key.dir == egress {
			err = c.egress(inner, r)
		} else {
			err = c.ingress(inner, r)
		}
		if err != nil && inner.Err() == nil {
			c.fail(r.local, err)
		}
	}
	g.cleaned = true
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if c.airspace.Err() != nil {
		g.pausing(c, cmp.Or(g.engine.limits.paused(), "paused"))
		return errPaused
	}
	// What lands from now on is not in the status that this cycle leaves.
	open := g.engine.lanes.open(&g.queue)
	if err := g.finish(c); err != nil || !c.again && !open {
		return err
	}
	return errAgain
}

// begin returns a new cycle and the context of its look at the routes.
func (g *group) begin(ctx context.Context, asked ask) (*cycle, context.Context) {
	c := &cycle{
		group: g, ask: asked, now: time.Now(), waiting: map[string]time.Time{},
		airspace: g.engine.lanes.airspace(ctx, g),
	}
	inner, cancel := context.WithCancelCause(c.airspace)
	c.flights, c.endFlights = context.WithCancelCause(c.airspace)
	c.giveUp = func(cause error) {
		cancel(cause)
		c.endFlights(cause)
	}
	c.endLook = func() { cancel(nil) }
	return c, inner
}

// end releases what only the look at the routes needed; what flies goes on.
func (c *cycle) end() {
	c.endLook()
	l := c.engine.lanes
	l.mu.Lock()
	defer l.mu.Unlock()
	if c.over = true; c.inAir == 0 {
		c.endFlights(nil)
	}
}

// finish publishes the outcome of a cycle.
func (g *group) finish(c *cycle) error {
	g.telling.Lock()
	o := c.take()
	late := g.takeLate()
	whole, before := !o.gaveUp, g.failures > 0
	trying := g.engine.lanes.trying(&g.queue, &g.retries)
	shown := o.served || late.served
	if late.strikes > 0 && !shown && whole && c.ask.done == nil {
		// All that was tried are transfers of cycles before, and none worked.
		// Whoever asks waits for those that this one makes.
		o.gaveUp, o.firstErr = true, late.firstErr
	}
	switch {
	case o.gaveUp:
		g.failures++
	case before && !shown && g.engine.lanes.open(&g.queue):
		// Whether the store works again is still to be seen.
	default:
		g.failures = 0
	}
	if whole {
		g.waiting = c.waiting
		g.failedAll(o.suspects)
	} else {
		// What is denied may be so for good, and must not keep others waiting.
		g.failedAll(denied(o.suspects))
		g.first++
	}
	g.engine.ledger.change(g.key.workload, g.key.dir, func(s *DirectionStatus) {
		if whole {
			s.Skipped, s.Refused = o.skipped, o.refused
		}
		s.Pending, s.Failed, s.Blocked, s.Paused = o.pending, o.failed, o.blocked, ""
		s.LastError = ""
		if o.firstErr != nil {
			s.LastError = o.firstErr.Error()
		} else if trying != nil {
			s.LastError = trying.Error()
		} else if o.blocked == "" {
			s.LastSuccess = time.Now()
		}
	})
	g.telling.Unlock()
	g.works.Store(g.failures == 0)
	g.tell(o, before)
	if o.firstErr != nil {
		return fmt.Errorf("sync workload %s: %w", g.key.workload, o.firstErr)
	}
	if o.blocked != "" {
		return fmt.Errorf("sync workload %s: %s", g.key.workload, o.blocked)
	}
	return nil
}

// denied returns the items that the store denied.
func denied(items map[string]error) map[string]error {
	maps.DeleteFunc(items, func(_ string, err error) bool { return !errors.Is(err, s3.ErrDenied) })
	return items
}

// cycle is one look at all routes of a group, and what came of it.
type cycle struct {
	*group

	ask ask
	now time.Time

	airspace   context.Context         //nolint:containedctx // of all transfers of the group.
	flights    context.Context         //nolint:containedctx // of the transfers that the cycle launched.
	endFlights context.CancelCauseFunc // of those
	endLook    func()                  // at the routes
	giveUp     context.CancelCauseFunc // all of it
	lease      *lease                  // of the run over the current route

	// Only the scanning goroutine touches these two.

	waiting map[string]time.Time
	again   bool // not everything that was found could be launched

	// The lanes' mutex guards these.

	inAir, small int  // transfers that are open, and the small ones among them
	over         bool // none are launched any more

	mu sync.Mutex
	outcome
	taken bool // what comes is late
}

// settling returns how long files have to rest in this cycle.
func (c *cycle) settling() settle {
	if c.ask.hurry {
		return settle{}
	}
	return settle{rest: c.engine.cfg.Settle, atMost: settleAtMost}
}
