package collect

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/project-flotta/flotta-agent/internal/containers"
	"github.com/project-flotta/flotta-agent/internal/desired"
	"github.com/project-flotta/flotta-agent/internal/metrics/series"
)

// board is a Desired and a Containers that change, and a Put that keeps what it
// was given.
type board struct {
	mu       sync.Mutex
	snapshot *desired.Snapshot
	list     []containers.Container
	changed  chan struct{}
	puts     []put
	refuse   error
}

type put struct {
	at      time.Time
	samples []series.Sample
}

func newBoard(state desired.State) *board {
	return &board{snapshot: desired.NewSnapshot(state, "x"), changed: make(chan struct{})}
}

func (b *board) Current() *desired.Snapshot {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.snapshot
}

// boardContainers is the side of a board that shows containers.
type boardContainers struct{ *board }

func (b boardContainers) Current() ([]containers.Container, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.list), true
}

func (b boardContainers) Changed() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.changed
}

// show changes the containers.
func (b *board) show(list ...containers.Container) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.list = list
	close(b.changed)
	b.changed = make(chan struct{})
}

func (b *board) put(_ context.Context, samples []series.Sample) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.refuse != nil {
		return b.refuse
	}
	b.puts = append(b.puts, put{time.Now(), samples})
	return nil
}

// taken returns what was put, and forgets it.
func (b *board) taken() []put {
	b.mu.Lock()
	defer b.mu.Unlock()
	taken := b.puts
	b.puts = nil
	return taken
}

func start(t *testing.T, b *board, more func(*Config)) (e *Engine, stop func()) {
	t.Helper()
	cfg := Config{Desired: b, Containers: boardContainers{b}, DeviceID: "dev", Put: b.put}
	if more != nil {
		more(&cfg)
	}
	e, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan error, 1)
	go func() { ended <- e.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	t.Cleanup(stop)
	return e, stop
}

// text shows samples by the name of their metric and their value.
func text(samples []series.Sample) string {
	var out []string
	for _, s := range samples {
		value := fmt.Sprint(s.Value)
		if series.IsStale(s.Value) {
			value = "end"
		}
		for _, l := range s.Labels {
			if l.Name == series.MetricName && !strings.HasPrefix(l.Value, "scrape_") {
				out = append(out, l.Value+" "+value)
			}
		}
	}
	slices.Sort(out)
	return strings.Join(out, ", ")
}
