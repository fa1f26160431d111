package datasync

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/project-flotta/flotta-agent/internal/desired"
	"github.com/project-flotta/flotta-agent/internal/pulse"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// source is where the newest snapshot comes from; *desired.Store is one.
type source interface {
	Current() *desired.Snapshot
}

// Config is what an Engine works with.
type Config struct {
	// Desired gives the newest snapshot.
	Desired interface{ Current() *desired.Snapshot }
	// VolumesDir holds a folder for every workload, its /export. It is made
	// when something has to be downloaded and it is not there.
	VolumesDir string
	// IndexPath is the file of the index; its folder is made when missing.
	IndexPath string
	// Owner is who owns what is downloaded; nil: whoever the process is.
	Owner *Owner
	// Interval is the time between two cycles, give or take a tenth; 0: 15 s.
	Interval time.Duration
	// ReserveBytes stay free on the disk of the volumes; 0: a tenth of it, or
	// 1 GiB if that is less; negative: nothing stays free.
	ReserveBytes int64
	// ReserveShare is the part of the disk that stays free instead, above 0 and
	// below 1; it counts when ReserveBytes is 0. 0: not set.
	ReserveShare float64
	// Settle is how long a file has to rest before it is sent; 0: 1 s;
	// negative: not at all. A file that never rests is sent every minute.
	Settle time.Duration
	// Walk is how often whole volumes are looked at, for changes that no
	// notification told of; 0: 15 min, negative: in every cycle.
	Walk time.Duration
	// Audit is how often the bucket is listed for what vanished from it; 0: a
	// day, negative: never.
	Audit time.Duration
	// Quota bounds what a volume may hold after a download; 0: no bound.
	Quota int64
	// Rates bound the bandwidth of all transfers together, by the time of day.
	Rates Timetable
	// Transfers bounds how many files travel at once; 0: 8.
	Transfers int
	// Open connects to a bucket without any I/O; nil: to S3.
	Open func(desired.Storage) (Store, error)
	// Log receives changes of state; nil: nothing is logged.
	Log *slog.Logger
	// Event is told what happened; it may be called from any goroutine and
	// must not block; nil: nobody is.
	Event func(protocol.EventInfo)

	zone func() *time.Location // the device's, but for tests
}

const (
	defaultInterval  = 15 * time.Second
	defaultSettle    = time.Second
	defaultTransfers = 8
	defaultWalk      = 15 * time.Minute
	defaultAudit     = 24 * time.Hour
	settleAtMost     = 60 * time.Second
)

func (c Config) withDefaults() Config {
	if c.Interval == 0 {
		c.Interval = defaultInterval
	}
	if c.Settle == 0 {
		c.Settle = defaultSettle
	}
	if c.Walk == 0 {
		c.Walk = defaultWalk
	}
	if c.Audit == 0 {
		c.Audit = defaultAudit
	}
	if c.Transfers == 0 {
		c.Transfers = defaultTransfers
	}
	if c.Open == nil {
		c.Open = openS3
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.zone == nil {
		c.zone = localZone()
	}
	if c.Event == nil {
		c.Event = func(protocol.EventInfo) {}
	}
	return c
}

// Validate names the field that is missing or out of range.
func (c Config) Validate() error {
	switch {
	case c.Desired == nil:
		return errors.New("datasync config: Desired is nil")
	case !filepath.IsAbs(c.VolumesDir):
		return fmt.Errorf("datasync config: VolumesDir %q is not absolute", c.VolumesDir)
	case !filepath.IsAbs(c.IndexPath):
		return fmt.Errorf("datasync config: IndexPath %q is not absolute", c.IndexPath)
	case c.Interval < 0:
		return errors.New("datasync config: Interval is negative")
	case c.Transfers < 0:
		return errors.New("datasync config: Transfers is negative")
	}
	if err := c.Rates.validate(); err != nil {
		return fmt.Errorf("datasync config: Rates: %w", err)
	}
	return nil
}

// Engine synchronises the data paths of all workloads.
type Engine struct {
	cfg     Config
	desired source
	lanes   *lanes
	limits  *limits
	ledger  *ledger
	space   space
	watch   *watcher
	pulse   pulse.Pulse
	// recordBatch is how many transfers are recorded at once.
	recordBatch int

	mu       sync.Mutex
	groups   map[groupKey]*group // those that run
	followed *desired.Snapshot   // whose groups those are; nil: no snapshot's yet
	follow   chan struct{}       // closed when followed changes
}

// New returns an engine. It does no I/O.
func New(cfg Config) (*Engine, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults()
	return &Engine{
		cfg:     cfg,
		desired: cfg.Desired,
		lanes:   newLanes(cfg.Transfers),
		limits:  newLimits(cfg.Rates, cfg.zone),
		ledger:  newLedger(),
		space:   space{reserve: cfg.ReserveBytes, share: cfg.ReserveShare},
		watch:   newWatcher(),
		pulse:   pulse.New(),
		groups:  map[groupKey]*group{},
		follow:  make(chan struct{}),

		recordBatch: defaultRecordBatch,
	}, nil
}

// Status returns what was done and what there is to do. It never blocks for
// long and may be called at any time.
func (e *Engine) Status() Status {
	s := e.ledger.snapshot()
	e.lanes.fill(&s)
	return s
}

// Run synchronises until ctx ends and then returns nil. The only error it
// returns is that another process works with the same index.
func (e *Engine) Run(ctx context.Context) error {
	ix, err := e.openIndex(ctx)
	if ix == nil {
		return err
	}
	defer func() {
		if err := ix.close(); err != nil {
			e.cfg.Log.Error("close sync index", slog.Any("err", err))
		}
	}()
	defer e.watch.close()
	var clock sync.WaitGroup
	defer clock.Wait()
	if len(e.cfg.Rates.Windows) > 0 {
		e.limits.look()
		clock.Go(func() { e.keepTime(ctx) })
	}
	run := newRunning(e, ix)
	defer run.stopAll()
	for {
		snapshot := e.desired.Current()
		run.apply(ctx, snapshot)
		e.follows(snapshot)
		for waiting := true; waiting; {
			select {
			case <-ctx.Done():
				return nil
			case <-snapshot.Superseded():
				waiting = false
			case <-e.pulse.Beat():
			}
		}
	}
}

// Alive returns nil as soon as the loop that Run runs is where it waits for the next
// configuration, and an error when that does not happen before ctx ends.
func (e *Engine) Alive(ctx context.Context) error { return e.pulse.Feel(ctx) }

// openIndex tries until it works: a full disk is no reason to end the agent.
// It returns no index and no error when ctx ended.
func (e *Engine) openIndex(ctx context.Context) (*index, error) {
	for failures := 0; ; failures++ {
		err := os.MkdirAll(filepath.Dir(e.cfg.IndexPath), 0o700)
		var ix *index
		if err == nil {
			ix, err = openIndex(e.cfg.IndexPath, e.cfg.Log)
		}
		if err == nil {
			var uploads map[string]time.Time
			if uploads, err = ix.lastUploads(); err == nil {
				e.ledger.restore(uploads)
				e.tellIndex(failures, nil)
				return ix, nil
			}
			err = errors.Join(err, ix.close())
		}
		if errors.Is(err, ErrIndexLocked) {
			return nil, err
		}
		e.tellIndex(failures, err)
		for again := time.After(backoff(e.cfg.Interval, failures)); again != nil; {
			select {
			case <-ctx.Done():
				return nil, nil
			case <-again:
				again = nil
			case <-e.pulse.Beat():
			}
		}
	}
}

// tellIndex reports that there is no index, or again one after failures.
func (e *Engine) tellIndex(failures int, err error) {
	e.ledger.index(err)
	switch {
	case err != nil && failures == 0:
		e.cfg.Log.Error("open sync index", slog.Any("err", err))
		e.cfg.Event(protocol.EventInfo{
			Reason: reasonFailing, Type: protocol.EventWarnType, Message: fmt.Sprintf("nothing is synchronised: %v", err),
		})
	case err == nil && failures > 0:
		e.cfg.Log.Info("opened sync index")
		e.cfg.Event(protocol.EventInfo{Reason: reasonRecovered, Type: protocol.EventInfoType, Message: "the index of what was synchronised can be opened again"})
	}
}

// maxBackoff keeps a device from waiting long after its network is back.
const maxBackoff = 2 * time.Minute

// backoff returns how long to wait after so many failures in a row beyond the
// first: twice as long each time, give or take a quarter, so that devices which
// lost the same store do not come back to it at the same moment.
func backoff(interval time.Duration, failures int) time.Duration {
	d := min(interval<<min(failures, 10), max(maxBackoff, interval))
	return d*3/4 + rand.N(d/2+1)
}

// jitter returns interval, give or take a tenth.
func jitter(interval time.Duration) time.Duration {
	return interval*9/10 + rand.N(interval/5+1)
}
