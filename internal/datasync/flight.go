package datasync

import (
	"cmp"
	"context"
	"slices"
	"sync/atomic"
	"time"
)

// launched is one transfer.
type launched struct {
	path    string
	size    int64     // bytes
	changed time.Time // recent ones go first among those of like size
	// do transfers, and tells moved how many more bytes travelled; a negative
	// number takes back those of an attempt that is repeated.
	do func(ctx context.Context, moved func(bytes int64)) error
	// settle is called once with the context and the outcome of do, unless do
	// was never called.
	settle func(context.Context, error)
}

// progress counts the bytes of a flight, without a lock.
type progress struct{ done atomic.Int64 }

func (p *progress) moved(bytes int64) { p.done.Add(bytes) }

// launch has a transfer made when its turn comes. It waits while there are too
// many others before it. What is on its way already, by this cycle or one before,
// is not launched again; neither is anything once ctx ended.
func (c *cycle) launch(ctx context.Context, t launched) {
	f := &flight{launched: t, cycle: c, lease: c.lease}
	f.lease.take()
	for ctx.Err() == nil {
		added, full := c.engine.lanes.add(f)
		if added {
			return
		}
		if full == nil {
			c.again = true // it has to be looked at again when that is settled
			break
		}
		select {
		case <-full:
		case <-ctx.Done():
		}
	}
	f.lease.leave()
}

// fly makes the transfer. A small one ends with what its cycle was told; a large
// one that took off ends only with its group, or with a pause.
func (f *flight) fly() {
	ctx := f.cycle.flights
	if ctx.Err() != nil {
		return
	}
	if f.isLarge() {
		ctx = f.cycle.airspace
	}
	err := f.do(ctx, f.moved)
	f.settle(ctx, err)
	if err == nil {
		f.cycle.spent(time.Since(f.since))
	}
	if f.cycle.late(err) {
		f.lease.write() // whoever finds that it has landed relies on it
	}
}

// spent publishes how long a transfer took.
func (c *cycle) spent(d time.Duration) {
	c.engine.ledger.change(c.key.workload, c.key.dir, func(s *DirectionStatus) { s.Spent += d })
}

// lease keeps what the transfers of one run over a route work with from being
// closed under them.
type lease struct {
	holders atomic.Int64
	write   func() // records what was transferred until now
	end     func() // called when the last one left
}

func (l *lease) take() { l.holders.Add(1) }

func (l *lease) leave() {
	if l.holders.Add(-1) == 0 {
		l.end()
	}
}

// hold makes the volume and the recorder of a run last until all that it launches
// has ended. The caller calls leave at the end of the run.
func (c *cycle) hold(v volume, rec *recorder) (leave func()) {
	c.lease = &lease{write: rec.write, end: func() {
		rec.close()
		v.close()
	}}
	c.lease.take()
	return c.lease.leave
}

// join waits for the small files that this cycle launched, but no longer than
// until the next one is due: those that are under way then are not waited for, and
// large ones never are. What was transferred until then is recorded.
func (c *cycle) join(ctx context.Context, rec *recorder) {
	l := c.engine.lanes
	var until <-chan time.Time
	if c.ask.done == nil {
		timer := time.NewTimer(max(time.Nanosecond, c.engine.cfg.Interval-time.Since(c.now)))
		defer timer.Stop()
		until = timer.C
	}
	l.wait(ctx, &c.queue, until, func() bool { return c.small > 0 })
	if ctx.Err() != nil {
		l.drop(c.group)
		// Those that fly end at once.
		l.wait(context.WithoutCancel(ctx), &c.queue, nil, func() bool { return c.small > 0 })
	}
	rec.write()
}

// write records what was added so far.
func (r *recorder) write() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.closed {
		r.flush()
	}
}

// quiet reports whether nothing is left to be done of what the cycle saw.
func (c *cycle) quiet() bool {
	c.engine.lanes.mu.Lock()
	open := len(c.queue.open)
	c.engine.lanes.mu.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	return open == 0 && !c.again && c.failed == 0 && len(c.waiting) == 0
}

// maxFlying bounds the transfers of a direction that a status lists.
const maxFlying = 8

// fill adds what is on its way to the status.
func (l *lanes) fill(s *Status) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range s.Workloads {
		w := &s.Workloads[i]
		if g := l.groups[groupKey{w.Name, egress}]; g != nil {
			g.queue.fill(&w.Egress)
		}
		if g := l.groups[groupKey{w.Name, ingress}]; g != nil {
			g.queue.fill(&w.Ingress)
		}
	}
}

func (q *queue) fill(s *DirectionStatus) {
	s.Pending += int64(len(q.open))
	s.PendingBytes += q.bytes
	s.Flying = nil
	for f := range q.flying {
		done := min(max(0, f.done.Load()), f.size)
		s.PendingBytes -= done
		s.Flying = append(s.Flying, Transfer{Path: f.path, Size: f.size, Done: done, Since: f.since})
	}
	slices.SortFunc(s.Flying, func(a, b Transfer) int {
		return cmp.Or(cmp.Compare(b.Size-b.Done, a.Size-a.Done), cmp.Compare(a.Path, b.Path))
	})
	s.Flying = s.Flying[:min(len(s.Flying), maxFlying)]
}
