package collect

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/project-flotta/flotta-agent/internal/containers"
	"github.com/project-flotta/flotta-agent/internal/desired"
	"github.com/project-flotta/flotta-agent/internal/metrics/scrape"
	"github.com/project-flotta/flotta-agent/internal/metrics/series"
)

// ErrNoUnit is what Units answers for a unit that is not installed.
var ErrNoUnit = errors.New("there is no such unit")

// Units enables and starts a unit of the system. One that runs already is left
// alone.
type Units interface {
	EnableAndStart(ctx context.Context, name string) error
}

// Config is what an Engine works with. Desired, Containers, DeviceID and Put are
// required.
type Config struct {
	// Desired gives the newest snapshot.
	Desired interface{ Current() *desired.Snapshot }
	// Containers are those of the workloads; *containers.Watcher is one.
	Containers interface {
		Current() (list []containers.Container, known bool)
		Changed() <-chan struct{}
	}
	DeviceID string
	// Put takes what one scrape gave, or the markers of a target's end. What it
	// refuses is counted as dropped. It is called from several goroutines.
	Put func(ctx context.Context, samples []series.Sample) error

	// NodeExporter is the address of the node exporter's metrics; empty:
	// http://localhost:9100/metrics.
	NodeExporter string
	// NodeExporterUnit is enabled and started when system metrics are wanted, and
	// never stopped: others may read it too. Empty: none is.
	NodeExporterUnit string
	Units            Units // nil: no unit is started

	// DataTransfer is the page about the synchronisation of data, and Self the
	// one about the agent; nil: there is none.
	DataTransfer scrape.Source
	Self         scrape.Source

	// WithoutReceiver measures also while the configuration names no receiver.
	WithoutReceiver bool
	Limits          scrape.Limits // of each target
	Timeout         time.Duration // of one scrape, which also ends with its interval; 0: 10 s
	Log             *slog.Logger  // changes of state; nil: nothing is logged
}

const (
	defaultTimeout      = 10 * time.Second
	defaultInterval     = time.Minute
	defaultNodeExporter = "http://localhost:9100/metrics"
)

// Validate names the field that is missing or wrong.
func (c Config) Validate() error {
	switch {
	case c.Desired == nil:
		return errors.New("collect config: Desired is nil")
	case c.Containers == nil:
		return errors.New("collect config: Containers is nil")
	case c.DeviceID == "":
		return errors.New("collect config: DeviceID is empty")
	case c.Put == nil:
		return errors.New("collect config: Put is nil")
	case c.Timeout < 0:
		return errors.New("collect config: Timeout is negative")
	}
	u, err := url.Parse(c.NodeExporter)
	if err != nil || c.NodeExporter != "" && (u.Scheme != "http" && u.Scheme != "https" || u.Host == "") {
		return fmt.Errorf("collect config: NodeExporter %.100q is no http address", c.NodeExporter)
	}
	return nil
}

func (c Config) withDefaults() Config {
	if c.NodeExporter == "" {
		c.NodeExporter = defaultNodeExporter
	}
	if c.Timeout == 0 {
		c.Timeout = defaultTimeout
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c
}

// Engine reads all targets. Its zero value is not usable.
type Engine struct {
	cfg Config

	mu       sync.Mutex
	runners  map[string]*runner // by key of the target
	ending   map[string]*runner // those that were stopped last
	problems []Problem          // of the configuration
	changed  chan struct{}
}

// New returns an engine that reads nothing yet.
func New(cfg Config) (*Engine, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	return &Engine{cfg: cfg.withDefaults(), runners: map[string]*runner{}, ending: map[string]*runner{}, changed: make(chan struct{})}, nil
}

// Run reads targets until ctx ends, and returns nil then.
func (e *Engine) Run(ctx context.Context) error {
	var group sync.WaitGroup
	defer group.Wait()
	for {
		snapshot := e.cfg.Desired.Current()
		moved := e.cfg.Containers.Changed()
		list, _ := e.cfg.Containers.Current() // one that may be outdated is better than none
		e.apply(ctx, &group, e.plan(snapshot, list))
		select {
		case <-ctx.Done():
			return nil
		case <-snapshot.Superseded():
		case <-moved:
		}
	}
}

// apply starts and stops loops so that they are those of the plan.
func (e *Engine) apply(ctx context.Context, group *sync.WaitGroup, p plan) {
	e.mu.Lock()
	defer e.mu.Unlock()
	news := !slices.Equal(e.problems, p.problems)
	e.problems = p.problems
	for key, r := range e.runners {
		if next, there := p.targets[key]; there && next.like(r.target) {
			r.move(next)
			continue
		}
		r.stop(errGone)
		delete(e.runners, key)
		e.ending[key] = r
		news = true
	}
	for key, t := range p.targets {
		if e.runners[key] != nil {
			continue
		}
		news = true
		r, err := e.newRunner(t)
		if err != nil { // the plan gives none that is refused
			e.cfg.Log.Error("metrics target is not read", "target", t.name(), "error", err)
			continue
		}
		runCtx, stop := context.WithCancelCause(ctx)
		r.stop = stop
		e.runners[key] = r
		before := e.ending[key]
		group.Go(func() {
			defer close(r.done)
			defer stop(nil)
			if before != nil {
				<-before.done // it ends the series that this one goes on with
			}
			r.run(runCtx, ctx)
		})
	}
	maps.DeleteFunc(e.ending, func(_ string, r *runner) bool { return r.hasEnded() })
	if news {
		e.announce()
	}
}

// announce wakes who waits for a change. The lock is held.
func (e *Engine) announce() {
	close(e.changed)
	e.changed = make(chan struct{})
}
