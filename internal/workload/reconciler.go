package workload

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	"github.com/project-flotta/flotta-agent/internal/desired"
	"github.com/project-flotta/flotta-agent/internal/pulse"
	"github.com/project-flotta/flotta-agent/internal/workload/manifest"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// snapshots is where the desired state is read.
type snapshots interface {
	Current() *desired.Snapshot
}

// Config is what a Reconciler needs. Desired, Runtime, Units, StateDir and Log
// are required; zero durations and numbers are the defaults named here.
type Config struct {
	Desired snapshots
	Runtime PodRuntime
	Units   UnitControl
	Host    HostTable // nil: no mounts are waited for and no ports are checked
	Log     *slog.Logger
	Event   func(protocol.EventInfo) // may be nil; called from any goroutine, must not block
	// Predecessor hands over what ran before the agent; nil: there was nothing.
	Predecessor Predecessor

	StateDir string // absolute; workloads/ and volumes/ are below it
	UID, GID int    // of the user who runs the pods: owner of the volumes, reader of the manifests

	HideContainerPorts bool // see manifest.Options

	// MaintenanceDirs are where an administrator's markers are looked for.
	MaintenanceDirs []string

	Resync       time.Duration // between two looks when nothing happens; 60 s
	Settle       time.Duration // how long a change has to run before it counts; 5 s
	ReadyTimeout time.Duration // how long a change may take to run; 60 s
	StartTimeout time.Duration // of one start, restart or stop of a unit; 10 min
	PullTimeout  time.Duration // of one image; 60 min
	RetryMin     time.Duration // pause after the first failure; 5 s
	RetryMax     time.Duration // longest pause; 5 min
	// Trying an update that failed takes down what was put back: the pauses
	// between those tries are longer.
	UpdateRetryMin time.Duration // 1 min
	UpdateRetryMax time.Duration // 1 h
	MaxPulls       int           // at once; 3
	MaxStarts      int           // at once; 4

	Images ImageConfig

	// Step is called between any two changes, with the name of the point; nil
	// but in tests of crashes.
	Step func(point string)
}

func (c Config) withDefaults() Config {
	for d, fallback := range map[*time.Duration]time.Duration{
		&c.Resync: time.Minute, &c.Settle: 5 * time.Second, &c.ReadyTimeout: time.Minute,
		&c.StartTimeout: 10 * time.Minute, &c.PullTimeout: time.Hour,
		&c.RetryMin: 5 * time.Second, &c.RetryMax: 5 * time.Minute,
		&c.UpdateRetryMin: time.Minute, &c.UpdateRetryMax: time.Hour,
	} {
		if *d == 0 {
			*d = fallback
		}
	}
	c.Images = c.Images.withDefaults()
	if c.MaxPulls == 0 {
		c.MaxPulls = 3
	}
	if c.MaxStarts == 0 {
		c.MaxStarts = 4
	}
	return c
}

// Validate names the first setting that cannot be.
func (c Config) Validate() error {
	switch {
	case c.Desired == nil, c.Runtime == nil, c.Units == nil, c.Log == nil:
		return errors.New("workload config: Desired, Runtime, Units and Log are required")
	case !filepath.IsAbs(c.StateDir):
		return fmt.Errorf("workload config: StateDir %q is not an absolute path", c.StateDir)
	case min(c.Resync, c.Settle, c.ReadyTimeout, c.StartTimeout, c.PullTimeout, c.RetryMin, c.RetryMax, c.UpdateRetryMin) < 0:
		return errors.New("workload config: a duration is negative")
	case c.UpdateRetryMin > c.UpdateRetryMax:
		return fmt.Errorf("workload config: UpdateRetryMin %s is longer than UpdateRetryMax %s", c.UpdateRetryMin, c.UpdateRetryMax)
	case c.RetryMin > c.RetryMax:
		return fmt.Errorf("workload config: RetryMin %s is longer than RetryMax %s", c.RetryMin, c.RetryMax)
	case c.MaxPulls < 0, c.MaxStarts < 0:
		return errors.New("workload config: MaxPulls or MaxStarts is negative")
	}
	return c.Images.Validate()
}

// Reconciler makes the device run what is desired.
type Reconciler struct {
	cfg        Config
	volumesDir string
	store      store
	secrets    manifest.SecretNames
	board      *board
	images     *images
	pulls      limit
	starts     limit
	wake       chan struct{}
	pulse      pulse.Pulse
}

// New returns a Reconciler; it touches nothing.
func New(cfg Config) (*Reconciler, error) {
	cfg = cfg.withDefaults()
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if cfg.Predecessor == nil {
		cfg.Predecessor = nobody{}
	}
	store := store{root: filepath.Join(cfg.StateDir, "workloads"), uid: -1, gid: cfg.GID}
	return &Reconciler{
		cfg:        cfg,
		volumesDir: filepath.Join(cfg.StateDir, "volumes"),
		store:      store,
		images:     newImages(cfg, store),
		secrets:    manifest.NewSecretNames(),
		board:      newBoard(),
		pulls:      make(limit, cfg.MaxPulls),
		starts:     make(limit, cfg.MaxStarts),
		wake:       make(chan struct{}, 1),
		pulse:      pulse.New(),
	}, nil
}

// Status returns the state of all workloads. It may be called at any time.
func (r *Reconciler) Status() Status { return r.board.status() }

// Changed returns a channel that is closed as soon as Status returns something
// else than it does now. Take it before Status, and no change is missed.
func (r *Reconciler) Changed() <-chan struct{} { return r.board.wait() }

// Alive returns nil as soon as the loop that Run runs is where it decides what to do
// next, and an error when that does not happen before ctx ends.
func (r *Reconciler) Alive(ctx context.Context) error { return r.pulse.Feel(ctx) }

// VolumeDir returns the folder on the host that is /export in the containers
// of the workload, whose name must be one that is in the status or the desired
// state as valid.
func (r *Reconciler) VolumeDir(name string) string { return manifest.VolumeDir(r.volumesDir, name) }

// Run reconciles until ctx ends, and then returns nil. It leaves everything as
// it is at that moment: systemd goes on to run what runs.
func (r *Reconciler) Run(ctx context.Context) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	var watchers sync.WaitGroup
	streams := map[string]func(context.Context, func()) error{"pods": r.cfg.Runtime.Watch, "units": r.cfg.Units.Watch}
	if r.cfg.Host != nil {
		streams["mounts"] = r.cfg.Host.Watch
	}
	for name, watch := range streams {
		watchers.Go(func() { r.watch(ctx, name, watch) })
	}
	watchers.Go(func() { r.images.gc.run(ctx) })
	newLoop(r).run(ctx)
	stop()
	watchers.Wait()
	return nil
}

// poke makes the loop look again.
func (r *Reconciler) poke() {
	select {
	case r.wake <- struct{}{}:
	default: // it will look anyway
	}
}

// watchPause bounds how often a broken stream is opened anew. What happened
// meanwhile is seen when it is open again, or at the next resync.
const (
	shortWatchPause = time.Second
	longWatchPause  = 30 * time.Second
)

// watch keeps one stream of wake-ups open.
func (r *Reconciler) watch(ctx context.Context, name string, open func(context.Context, func()) error) {
	pause := shortWatchPause
	for ctx.Err() == nil {
		began := time.Now()
		err := open(ctx, r.poke)
		if ctx.Err() != nil {
			return
		}
		if time.Since(began) > longWatchPause {
			pause = shortWatchPause
		}
		r.cfg.Log.Warn("watching ended, will try again", "stream", name, "pause", pause, "err", err)
		sleep(ctx, jitter(pause))
		pause = min(2*pause, longWatchPause)
	}
}

func (r *Reconciler) emit(kind, reason, message string) {
	if r.cfg.Event != nil {
		r.cfg.Event(protocol.EventInfo{Type: kind, Reason: reason, Message: message})
	}
}
