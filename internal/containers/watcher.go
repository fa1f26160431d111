package containers

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/project-flotta/flotta-agent/internal/podman"
)

const (
	// calm is how long events are collected before the state is read: a pod
	// that starts brings a dozen of them.
	calm = 100 * time.Millisecond

	// resync bounds how long an event that Podman lost goes unnoticed.
	resync = 2 * time.Minute

	firstPause = time.Second
	maxPause   = 30 * time.Second
)

// Config says what to watch. Podman, Label and Log are required.
type Config struct {
	Podman *podman.Client
	// Label is what containers of workloads carry, with the workload's name as
	// its value, which is also the name of their pod.
	Label string
	// Init reports whether a container of a workload is an init container:
	// Podman does not tell. Nil: none is.
	Init func(workload, container string) bool
	Log  *slog.Logger
}

// Watcher keeps the list. Its zero value is not usable.
type Watcher struct {
	cfg    Config
	resync time.Duration
	lives  map[string]life // by container ID; of Run alone

	mu      sync.Mutex
	list    []Container
	known   bool
	changed chan struct{}
}

// life is what an inspection told about one life of a container. It holds for as
// long as the list shows the same one.
type life struct {
	state   string
	pid     int
	started time.Time // to the second, as in the list
	seen    Container
}

// New returns a watcher that has seen nothing yet.
func New(cfg Config) (*Watcher, error) {
	switch {
	case cfg.Podman == nil:
		return nil, errors.New("containers config: no podman client")
	case cfg.Label == "":
		return nil, errors.New("containers config: no label")
	case cfg.Log == nil:
		return nil, errors.New("containers config: no logger")
	}
	if cfg.Init == nil {
		cfg.Init = func(string, string) bool { return false }
	}
	return &Watcher{cfg: cfg, resync: resync, lives: map[string]life{}, changed: make(chan struct{})}, nil
}

// Current returns the containers of all workloads by workload, container and
// age, and whether that is known: false until Podman answered, and while it does
// not. What was seen last is returned then. The list belongs to the caller.
func (w *Watcher) Current() (list []Container, known bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.list), w.known
}

// Changed returns a channel that is closed when Current has something else to
// say than now.
func (w *Watcher) Changed() <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.changed
}

// Run keeps the list current until ctx ends, and returns nil then. While Podman
// is away it tries again with growing pauses.
func (w *Watcher) Run(ctx context.Context) error {
	pause := firstPause
	for ctx.Err() == nil {
		began := time.Now()
		err := w.follow(ctx)
		if ctx.Err() != nil {
			break
		}
		if time.Since(began) > maxPause {
			pause = firstPause // it worked for a while
		}
		w.cfg.Log.Debug("containers are not watched", "error", err, "pause", pause)
		wait := time.NewTimer(pause/2 + rand.N(pause))
		select {
		case <-ctx.Done():
			wait.Stop()
		case <-wait.C:
		}
		pause = min(2*pause, maxPause)
	}
	return nil
}

// follow opens the stream of events, reads the state, and again after whatever
// happens, until the stream ends. The stream is opened first, so that nothing
// falls between.
func (w *Watcher) follow(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := w.cfg.Podman.Events(ctx, podman.EventFilter{
		Types:   []string{"container"},
		Actions: []string{"create", "start", "died", "remove", "pause", "unpause", "rename"},
	})
	if err != nil {
		w.lost()
		return err
	}
	defer func() { _ = stream.Close() }()
	if err := w.refresh(ctx); err != nil {
		w.lost()
		return err
	}
	events := make(chan struct{}, 1)
	var ended error // read once done is closed
	done := make(chan struct{})
	go func() {
		defer close(done)
		ended = drain(stream, events)
	}()
	defer func() {
		cancel()
		<-done
	}()
	again := time.NewTimer(w.resync)
	defer again.Stop()
	for {
		select {
		case <-done:
			return ended
		case <-events:
			again.Reset(calm)
			select {
			case <-again.C:
			case <-done:
				return ended
			}
		case <-again.C:
		}
		if err := w.refresh(ctx); err != nil {
			w.lost()
			return err
		}
		again.Reset(w.resync)
	}
}

// drain reads the stream to its end and leaves a note for whatever came. Infra
// containers have no label, and their events matter too.
func drain(stream *podman.EventStream, events chan<- struct{}) error {
	for {
		if _, err := stream.Next(); err != nil {
			return fmt.Errorf("watch containers: %w", err)
		}
		select {
		case events <- struct{}{}:
		default: // one is waiting already
		}
	}
}

// lost notes that Podman does not answer.
func (w *Watcher) lost() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.known {
		w.known = false
		w.announce()
	}
}

// publish puts a new list into force.
func (w *Watcher) publish(list []Container) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.known && slices.Equal(w.list, list) {
		return
	}
	w.list, w.known = list, true
	w.announce()
}

// announce wakes who waits. The lock is held.
func (w *Watcher) announce() {
	close(w.changed)
	w.changed = make(chan struct{})
}
