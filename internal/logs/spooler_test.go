package logs

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/project-flotta/flotta-agent/internal/diskq"
	"github.com/project-flotta/flotta-agent/internal/logs/follow"
)

// spoolRig is a spooler with one target, whose places are checked when they are
// saved.
type spoolRig struct {
	t *testing.T
	*spooler
	target *target

	mu     sync.Mutex
	fail   error
	saved  int64 // the offset of file "c1"
	errors []error
}

func newSpoolRig(t *testing.T, buffer int) *spoolRig {
	t.Helper()
	queue, err := diskq.Open(diskq.Config{Dir: filepath.Join(t.TempDir(), "q"), SyncEvery: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = queue.Close() })
	r := &spoolRig{t: t, target: &target{name: "main", queue: queue, bound: buffer, cfg: Config{}.withDefaults()}}
	r.spooler = newSpooler(Config{SyncEvery: 10 * time.Millisecond}.withDefaults(), places{Files: map[string]follow.FileMark{}}, func(err error) {
		r.mu.Lock()
		defer r.mu.Unlock()
		if err != nil {
			r.errors = append(r.errors, err)
		}
	}, func(string) {})
	r.save = func(p places) error {
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.fail != nil {
			return r.fail
		}
		// The lines of this test are numbered by the mark behind them.
		r.saved = p.Files["c1"].Offset
		if entries := int64(queue.Stats().Entries); entries < r.saved {
			t.Errorf("the place %d was saved with %d lines in the spool", r.saved, entries)
		}
		return nil
	}
	r.use(map[string]*target{"main": r.target}, routing{routes: map[string]string{"shop": "main"}})
	return r
}

func (r *spoolRig) start() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.run(ctx)
	}()
	stop = func() {
		cancel()
		<-done
	}
	r.t.Cleanup(stop)
	return stop
}

func (r *spoolRig) take(ctx context.Context, n int) error {
	return r.Take(ctx, follow.Line{Workload: "shop", Container: "app", Text: fmt.Appendf(nil, "line %d", n)},
		follow.Mark{File: &follow.FileMark{ID: "c1", Offset: int64(n)}})
}

// TestPlaceBehindLines takes lines as fast as it goes.
func TestPlaceBehindLines(t *testing.T) {
	t.Parallel()
	r := newSpoolRig(t, 1000)
	stop := r.start()
	const lines = 5000
	for n := 1; n <= lines; n++ {
		if err := r.take(t.Context(), n); err != nil {
			t.Fatal(err)
		}
		if waits, _ := r.waiting(); waits > 100 {
			t.Fatalf("%d lines are in memory", waits)
		}
	}
	stop()
	if r.saved != lines || r.target.queue.Stats().Entries != lines || r.target.buffered != 0 {
		t.Errorf("saved %d, %d lines in the spool, %d bytes in memory", r.saved, r.target.queue.Stats().Entries, r.target.buffered)
	}
}

// TestBufferSize stops reading when a buffer is full and the disk takes nothing.
func TestBufferSize(t *testing.T) {
	t.Parallel()
	r := newSpoolRig(t, 100)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	n := 1
	for r.take(ctx, n) == nil {
		n++
	}
	if n < 3 || n > 10 || ctx.Err() == nil {
		t.Errorf("%d lines of about 20 bytes were taken into 100", n)
	}
	// A line beyond the bound is taken alone: it must not wait for ever.
	alone := newSpoolRig(t, 10)
	if err := alone.take(t.Context(), 1); err != nil {
		t.Error(err)
	}
}

// TestNoTarget refuses a line that has no target, also one that waits for room
// when its target goes; no place stands behind it.
func TestNoTarget(t *testing.T) {
	t.Parallel()
	r := newSpoolRig(t, 10)
	if err := r.take(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	blocked := make(chan error, 1)
	go func() { blocked <- r.take(t.Context(), 2) }()
	select {
	case err := <-blocked:
		t.Fatalf("a line was taken beyond the bound: %v", err)
	case <-r.full: // it waits
	}
	r.use(map[string]*target{"main": r.target}, routing{routes: map[string]string{"shop": "other"}})
	if err := <-blocked; !errors.Is(err, follow.ErrRefused) {
		t.Errorf("a line that waited is answered with %v", err)
	}
	if err := r.take(t.Context(), 3); !errors.Is(err, follow.ErrRefused) {
		t.Errorf("a line is answered with %v", err)
	}
	if at := r.places.Files["c1"].Offset; at != 1 {
		t.Errorf("the place is %d, behind lines that nobody has", at)
	}
}

// TestPlacesCannotBeSaved tries again, and loses nothing.
func TestPlacesCannotBeSaved(t *testing.T) {
	t.Parallel()
	r := newSpoolRig(t, 1000)
	r.fail = errors.New("disk on fire")
	stop := r.start()
	if err := r.take(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	locked := func(f func() bool) func() bool {
		return func() bool {
			r.mu.Lock()
			defer r.mu.Unlock()
			return f()
		}
	}
	eventually(t, "the error is told", locked(func() bool { return len(r.errors) > 0 }))
	r.mu.Lock()
	r.fail = nil
	r.mu.Unlock()
	eventually(t, "the place is saved", locked(func() bool { return r.saved == 1 }))
	stop()
	if n := r.target.queue.Stats().Entries; n != 1 {
		t.Errorf("%d lines in the spool", n)
	}
}

// TestSpoolThatFails holds up no line of another target, and no place passes its own.
func TestSpoolThatFails(t *testing.T) {
	t.Parallel()
	r := newSpoolRig(t, 1000)
	targets, routes := map[string]*target{"main": r.target}, map[string]string{"shop": "main"}
	for i := range 5 { // whichever comes first
		name := fmt.Sprint("broken ", i)
		queue, err := diskq.Open(diskq.Config{Dir: filepath.Join(t.TempDir(), "q")})
		if err != nil {
			t.Fatal(err)
		}
		if err := queue.Close(); err != nil {
			t.Fatal(err)
		}
		targets[name] = &target{name: name, queue: queue, bound: 1000, cfg: Config{}.withDefaults()}
		routes[name] = name
	}
	r.use(targets, routing{routes: routes})
	for name := range routes {
		mark := follow.Mark{File: &follow.FileMark{ID: name, Offset: 1}}
		if err := r.Take(t.Context(), follow.Line{Workload: name, Text: []byte("text")}, mark); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := r.commit(true); !errors.Is(err, diskq.ErrClosed) {
		t.Errorf("writing ended with %v", err)
	}
	if n := r.target.queue.Stats().Entries; n != 1 || r.target.buffered != 0 {
		t.Errorf("%d lines in the good spool, %d bytes in memory", n, r.target.buffered)
	}
	for name, broken := range targets {
		if broken != r.target && (broken.buffered == 0 || len(broken.buffer) != 1) {
			t.Errorf("the line of %s is gone", name)
		}
	}
	if !r.synced.IsZero() {
		t.Error("places were saved")
	}
}

func TestBackoff(t *testing.T) {
	t.Parallel()
	for failures, want := range []time.Duration{1, 2, 4, 8, 16, 32, 60, 60, 60} {
		want *= time.Second
		if got := backoff(time.Second, failures); got < want*3/4 || got > want*5/4 {
			t.Errorf("after %d failures: %s", failures, got)
		}
	}
	if got := backoff(time.Second, 1000); got > 75*time.Second {
		t.Errorf("after many failures: %s", got)
	}
}
