package collect

import (
	"context"
	"errors"
	"hash/fnv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/project-flotta/flotta-agent/internal/metrics/scrape"
	"github.com/project-flotta/flotta-agent/internal/metrics/series"
	"github.com/project-flotta/flotta-agent/internal/netns"
)

// errGone is why a loop stops when its target is one no more.
var errGone = errors.New("the target is gone")

// runner reads one target.
type runner struct {
	engine  *Engine
	target  target // but for its pid, it never changes
	scraper *scrape.Scraper
	stop    context.CancelCauseFunc
	done    chan struct{} // closed when its loop has ended
	process atomic.Pointer[netns.Process]
	pid     int       // of process; the engine's lock is held
	unit    *exporter // nil: it needs none
	reason  string    // of the unit's problem; of the loop

	mu     sync.Mutex
	status TargetStatus
}

func (e *Engine) newRunner(t target) (*runner, error) {
	r := &runner{engine: e, target: t, done: make(chan struct{}), status: TargetStatus{
		Name: t.name(), Kind: string(t.kind), URL: t.url, Workload: t.workload, Container: t.container, Interval: t.interval,
	}}
	if t.kind == kindSystem {
		r.unit = &exporter{units: e.cfg.Units, name: e.cfg.NodeExporterUnit}
	}
	r.move(t)
	var err error
	r.scraper, err = scrape.New(scrape.Config{Source: r.source(), Limits: e.cfg.Limits, Allow: t.allow, Labels: t.labels()})
	return r, err
}

// hasEnded reports whether the loop has come to its end.
func (r *runner) hasEnded() bool {
	select {
	case <-r.done:
		return true
	default:
		return false
	}
}

// move tells where the target is now: a pod that was started again has another
// network.
func (r *runner) move(t target) {
	if t.pid == r.pid && r.process.Load() != nil {
		return
	}
	r.pid = t.pid
	// A process that is gone already leads nowhere until a next one is known.
	process, _ := netns.Find(t.pid)
	r.process.Store(&process)
}

func (r *runner) source() scrape.Source {
	switch r.target.kind {
	case kindDataTransfer:
		return r.engine.cfg.DataTransfer
	case kindSelf:
		return r.engine.cfg.Self
	case kindSystem:
		client := newClient(nil)
		return func(ctx context.Context) (scrape.Page, error) {
			return scrape.Fetch(ctx, client, r.target.url, r.engine.cfg.Limits)
		}
	default:
		client := newClient(r.dial)
		return func(ctx context.Context) (scrape.Page, error) {
			return scrape.Fetch(ctx, client, r.target.url, r.engine.cfg.Limits)
		}
	}
}

// run reads the target until ctx ends. Where that is because the target is gone,
// its series end; all is the context of the engine.
func (r *runner) run(ctx, all context.Context) {
	next := firstSlot(time.Now(), r.target)
	for {
		wait := time.NewTimer(max(time.Until(next), time.Nanosecond))
		select {
		case <-ctx.Done():
			wait.Stop()
			if errors.Is(context.Cause(ctx), errGone) {
				r.put(all, r.scraper.End(time.Now()))
			}
			return
		case <-wait.C:
		}
		r.once(ctx, all)
		next = nextSlot(next, time.Now(), r.target.interval)
	}
}

// firstSlot returns the first instant at which a target is read: some point of
// its interval that is the same after a restart, and another one for each target
// of each device.
func firstSlot(now time.Time, t target) time.Time {
	h := fnv.New64a()
	_, _ = h.Write([]byte(t.device + " " + t.key()))
	offset := int64(h.Sum64() % uint64(t.interval)) //nolint:gosec // intervals are positive
	behind := (now.UnixNano() - offset) % int64(t.interval)
	if behind < 0 {
		behind += int64(t.interval)
	}
	return now.Add(t.interval - time.Duration(behind))
}

// nextSlot returns the next instant that is not over yet.
func nextSlot(last, now time.Time, interval time.Duration) time.Time {
	next := last.Add(interval)
	if late := now.Sub(next); late > 0 {
		next = next.Add((late/interval + 1) * interval)
	}
	return next
}

// once reads the target once and gives away what it said, also when the target
// is gone by then.
func (r *runner) once(ctx, all context.Context) {
	if r.unit != nil {
		r.unit.care(ctx)
	}
	timed, cancel := context.WithTimeout(ctx, min(r.engine.cfg.Timeout, r.target.interval))
	defer cancel()
	now := time.Now()
	result := r.scraper.Scrape(timed, now)
	if ctx.Err() != nil && len(result.Samples) == 0 {
		return // called off
	}
	r.note(now, result, r.heard(result.Err))
	r.put(all, result.Samples)
}

// heard notes whether the unit behind the target answered, and reports whether
// something else is wrong with it than before.
func (r *runner) heard(err error) bool {
	if r.unit == nil {
		return false
	}
	r.unit.answered(err)
	before := r.reason
	p, _ := r.unit.problem()
	r.reason = p.Reason
	return r.reason != before
}

// put gives samples away, and counts what is refused.
func (r *runner) put(ctx context.Context, samples []series.Sample) {
	if len(samples) == 0 {
		return
	}
	err := r.engine.cfg.Put(ctx, samples)
	if err == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.status.Dropped += int64(len(samples))
	r.status.DropError = err.Error()
}
