package datasync

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/project-flotta/flotta-agent/internal/datasync/s3"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// group works on all data paths of one workload in one direction.
type group struct {
	engine  *Engine
	key     groupKey
	routes  []route
	index   *index
	store   Store
	storeID string
	log     *slog.Logger
	report  *reporter

	kick    chan chan<- error
	stopped chan struct{} // closed when run returned

	// What follows belongs to the goroutine of run, between cycles.

	waiting  map[string]time.Time // files that did not settle, and since when
	swept    map[string]int       // by route: surplus of the index when last swept
	cleaned  bool                 // temporary files of dead runs are gone
	failures int                  // cycles given up in a row
	early    bool                 // the last pause was cut short for a settling file
	blocked  bool                 // the last cycle held files back
	lastErr  string               // of the last cycle

	retries retries
}

func newGroup(e *Engine, key groupKey, routes []route) *group {
	return &group{
		engine: e, key: key, routes: routes,
		log: e.cfg.Log.With(slog.String("workload", key.workload), slog.String("direction", string(key.dir))),
		report: &reporter{
			workload: key.workload, dir: key.dir, event: e.cfg.Event, seen: map[string]map[string]bool{},
		},
		kick:    make(chan chan<- error),
		stopped: make(chan struct{}),
		waiting: map[string]time.Time{},
		swept:   map[string]int{},
		retries: retries{items: map[string]retry{}},
	}
}

// run makes cycles until ctx ends.
func (g *group) run(ctx context.Context) {
	defer close(g.stopped)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		var reply chan<- error
		select {
		case <-ctx.Done():
			return
		case reply = <-g.kick:
		case <-timer.C:
		}
		err := g.cycle(ctx)
		if reply != nil {
			reply <- err
		}
		timer.Reset(g.pause())
	}
}

// pause returns the time until the next cycle.
func (g *group) pause() time.Duration {
	interval := g.engine.cfg.Interval
	if g.failures > 0 {
		return backoff(interval, g.failures-1)
	}
	// A file that was written just before a cycle need not wait for a whole
	// one, but a file that is always written must not make cycles more frequent.
	settle := g.engine.cfg.Settle + g.engine.cfg.Settle/2
	if len(g.waiting) > 0 && !g.early && settle < interval {
		g.early = true
		return settle
	}
	g.early = false
	return jitter(interval)
}

// errGaveUp ends a cycle in which nothing works.
var errGaveUp = errors.New("gave up this cycle")

// cycle looks at all routes once. The error says what did not work; a cycle that
// ctx ended has no outcome.
func (g *group) cycle(ctx context.Context) error {
	inner, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	c := &cycle{group: g, now: time.Now(), giveUp: cancel, waiting: map[string]time.Time{}}
	for _, r := range g.routes {
		if inner.Err() != nil {
			break
		}
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
	return g.finish(c)
}

// finish publishes the outcome of a cycle.
func (g *group) finish(c *cycle) error {
	before := g.failures > 0
	if c.gaveUp {
		g.failures++
	} else {
		g.failures = 0
		g.waiting = c.waiting
		for path, err := range c.suspects {
			g.retries.failed(path, c.now, err)
		}
	}
	g.engine.ledger.change(g.key.workload, g.key.dir, func(s *DirectionStatus) {
		if !c.gaveUp {
			s.Skipped, s.Refused = c.skipped, c.refused
		}
		s.Pending, s.Failed, s.Blocked = c.pending, c.failed, c.blocked
		s.LastError = ""
		if c.firstErr != nil {
			s.LastError = c.firstErr.Error()
		} else if c.blocked == "" {
			s.LastSuccess = time.Now()
		}
	})
	g.tell(c, before)
	if c.firstErr != nil {
		return fmt.Errorf("sync workload %s: %w", g.key.workload, c.firstErr)
	}
	if c.blocked != "" {
		return fmt.Errorf("sync workload %s: %s", g.key.workload, c.blocked)
	}
	return nil
}

// tell reports what changed since the last cycle; failing says that it was given
// up.
func (g *group) tell(c *cycle, failing bool) {
	lastErr := ""
	if c.firstErr != nil {
		lastErr = c.firstErr.Error()
	}
	switch {
	case c.gaveUp && !failing:
		g.log.Warn("data sync fails", slog.Any("err", c.firstErr))
		g.report.send(reasonFailing, protocol.EventWarnType, c.firstErr.Error())
	case !c.gaveUp && failing:
		g.log.Info("data sync works again")
		g.report.send(reasonRecovered, protocol.EventInfoType, "works again")
	case !c.gaveUp && lastErr != "" && g.lastErr == "":
		g.log.Warn("some files fail to be synchronised", slog.Any("err", c.firstErr))
	}
	switch {
	case c.blocked != "" && !g.blocked:
		g.log.Warn("downloads wait for free space", slog.String("err", c.blocked))
		g.report.send(reasonDiskFull, protocol.EventWarnType, c.blocked)
	case c.blocked == "" && g.blocked && !c.gaveUp:
		g.log.Info("downloads go on")
		g.report.send(reasonDiskFreed, protocol.EventInfoType, "downloads go on")
	}
	g.blocked = c.blocked != "" || g.blocked && c.gaveUp
	g.lastErr = lastErr
}

// cycle is one look at all routes of a group, and what came of it.
type cycle struct {
	*group

	now    time.Time
	giveUp context.CancelCauseFunc

	waiting map[string]time.Time // only the scanning goroutine touches it

	mu       sync.Mutex
	pending  int64
	failed   int64
	skipped  int64
	refused  int64
	blocked  string
	firstErr error
	strikes  int // failures of the store since its last success
	gaveUp   bool
	suspects map[string]error // items that failed, or whose store did
}

// maxStrikes failures of the store in a row end a cycle: a store that is down is
// not asked for every file.
const maxStrikes = 3

// count adds to one of the cycle's counters.
func (c *cycle) count(n *int64, by int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	*n += by
}

// fail notes the failure of one item.
func (c *cycle) fail(path string, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.failed++
	if c.firstErr == nil {
		c.firstErr = fmt.Errorf("%q: %w", path, err)
	}
	// Without a bucket or its credentials no item can work; whether a denial
	// or a silence is about one item shows by the next ones.
	switch {
	case errors.Is(err, s3.ErrNoBucket), errors.Is(err, s3.ErrCredentials):
		c.strikes = maxStrikes
	case errors.Is(err, s3.ErrUnavailable), errors.Is(err, s3.ErrDenied):
		c.strikes++
	}
	if c.strikes >= maxStrikes && !c.gaveUp {
		c.gaveUp = true
		c.giveUp(errGaveUp)
	}
}

// suspect remembers an item until it is clear whether the store works.
func (c *cycle) suspect(path string, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.suspects == nil {
		c.suspects = map[string]error{}
	}
	if len(c.suspects) < maxRetryItems {
		c.suspects[path] = err
	}
}

// worked notes that the store served a request.
func (c *cycle) worked() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.strikes = 0
}

// block notes why files are held back.
func (c *cycle) block(why string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.blocked = why
	c.pending++
}

// expect publishes that n more files are to be transferred; negative: fewer.
func (c *cycle) expect(n int64) {
	c.engine.ledger.change(c.key.workload, c.key.dir, func(s *DirectionStatus) { s.Pending += n })
}

// transferred publishes one transferred file.
func (c *cycle) transferred(bytes int64) {
	c.engine.ledger.change(c.key.workload, c.key.dir, func(s *DirectionStatus) {
		s.Files++
		s.Bytes += bytes
	})
}

// slot waits for one of the transfers that all groups share.
func (c *cycle) slot(ctx context.Context) (release func(), err error) {
	select {
	case c.engine.slots <- struct{}{}:
		return func() { <-c.engine.slots }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}
