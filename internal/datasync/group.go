package datasync

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
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

	kick    chan ask
	stopped chan struct{} // closed when run returned

	// What follows belongs to the goroutine of run, between cycles.

	outs     map[route]*outflow   // of egress: what is to be looked at again
	waiting  map[string]time.Time // files that did not settle, and since when
	swept    map[string]int       // by route: surplus of the index when last swept
	tidied   map[string]time.Time // by route: when unfinished uploads were last looked for
	first    int                  // the route that a cycle begins with
	cleaned  bool                 // temporary files of dead runs are gone
	failures int                  // cycles given up in a row
	early    bool                 // the last pause was cut short for a settling file
	holding  bool                 // the last cycle held files back
	lastErr  string               // of the last cycle
	clashing []string             // what was published of the clashes
	looked   bool                 // it was published

	inflow  inflow // of ingress
	retries retries
	works   atomic.Bool             // the last cycle that came to its end
	clashes atomic.Pointer[[]clash] // of the newest snapshot

	queue queue // what was launched

	// The lanes' mutex guards these.

	orders int                     // how many wait for the group
	air    context.Context         //nolint:containedctx // of all transfers.
	endAir context.CancelCauseFunc // of those

	telling  sync.Mutex // held from when an outcome is taken until it is published
	lateMu   sync.Mutex
	lateOnes outcome // transfers that outlived their cycles, since the last one
}

func newGroup(e *Engine, key groupKey, routes []route) *group {
	return &group{
		engine: e, key: key, routes: routes,
		log: e.cfg.Log.With(slog.String("workload", key.workload), slog.String("direction", string(key.dir))),
		report: &reporter{
			workload: key.workload, dir: key.dir, event: e.cfg.Event, seen: map[string]map[string]bool{},
		},
		kick:    make(chan ask),
		stopped: make(chan struct{}),
		waiting: map[string]time.Time{},
		swept:   map[string]int{},
		tidied:  map[string]time.Time{},
		retries: retries{items: map[string]retry{}},
		queue:   newQueue(),
	}
}

// run makes cycles until ctx ends.
func (g *group) run(ctx context.Context) {
	defer close(g.stopped)
	defer g.unwatch()
	g.engine.lanes.enter(g)
	defer g.engine.lanes.exit(g)
	timer := time.NewTimer(1) // at once; see CONTRIBUTING about timers that are due already
	defer timer.Stop()
	for {
		var asked ask
		select {
		case <-ctx.Done():
			return
		case asked = <-g.kick:
		case <-timer.C:
		}
		err := g.cycle(ctx, asked)
		if asked.done != nil {
			asked.done <- err
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
