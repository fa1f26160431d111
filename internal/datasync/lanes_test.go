package datasync

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/project-flotta/flotta-agent/internal/datasync/s3"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// gated is a store whose uploads wait for what the test says, and which keeps
// nothing of large files.
type gated struct {
	*memStore

	mu    sync.Mutex
	gates map[string]chan error // by key: what the upload comes to
	begun []string              // keys, in the order of their beginnings
}

func newGated() *gated { return &gated{memStore: newMemStore(), gates: map[string]chan error{}} }

// gate makes the uploads of a key wait.
func (g *gated) gate(key string) chan<- error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.gates[key] = make(chan error, 1)
	return g.gates[key]
}

func (g *gated) order() []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.begun)
}

func (g *gated) Put(ctx context.Context, u s3.Upload) (string, error) {
	g.mu.Lock()
	g.begun = append(g.begun, u.Key)
	gate := g.gates[u.Key]
	g.mu.Unlock()
	if gate != nil {
		select {
		case err := <-gate:
			if err != nil {
				return "", err
			}
		case <-ctx.Done():
			return "", fmt.Errorf("put %q: %w", u.Key, ctx.Err())
		}
	}
	if u.Size > largeBytes {
		if u.Moved != nil {
			u.Moved(u.Size)
		}
		g.set(u.Key, []byte("large"), u)
		return "etag", nil
	}
	return g.memStore.Put(ctx, u)
}

// large makes a file that has its lane.
func (b *bench) large(name string) {
	b.t.Helper()
	b.write(name, "")
	if err := os.Truncate(b.path(name), largeBytes+1); err != nil {
		b.t.Fatal(err)
	}
}

func (g *gated) has(key string) bool {
	_, ok := g.contents()[key]
	return ok
}

func TestLargeFilesDoNotKeepOthersWaiting(t *testing.T) {
	t.Parallel()
	store := newGated()
	b := newBench(t, store, paths(up(), nil), func(c *Config) { c.Transfers = 4 })
	var gates []chan<- error
	for i := range 6 {
		gates = append(gates, store.gate(fmt.Sprintf("up/large%d", i)))
		b.large(fmt.Sprintf("out/large%d", i))
	}
	for i := range 50 {
		b.write(fmt.Sprintf("out/small%d", i), "x")
	}
	done := make(chan error, 1)
	go func() { done <- b.sync(egress) }()
	eventually(t, "the small files are there", func() bool { return len(store.contents()) == 50 })
	eventually(t, "half of the slots are full", func() bool { return len(b.status(egress).Flying) == 2 })
	s := b.status(egress)
	if s.Pending != 6 || s.PendingBytes != 6*(largeBytes+1) || len(s.Flying) != 2 {
		t.Errorf("status: %+v", s)
	}
	// A file that is written now does not wait for them either.
	b.write("out/later", "y")
	again := make(chan error, 1)
	go func() { again <- b.sync(egress) }()
	eventually(t, "the later file is there", func() bool { return store.has("up/later") })
	select {
	case err := <-done:
		t.Fatalf("the sync ended before the large files had arrived: %v", err)
	default:
	}
	for _, gate := range gates {
		gate <- nil
	}
	if err := errors.Join(<-done, <-again); err != nil {
		t.Fatal(err)
	}
	if s := b.status(egress); s.Pending != 0 || s.PendingBytes != 0 || len(s.Flying) != 0 || s.Files != 57 || s.Spent == 0 {
		t.Errorf("status: %+v", s)
	}
	// All of that was recorded, by runs that had ended before.
	before := len(store.order())
	b.mustSync(egress)
	if now := store.order(); len(now) != before {
		t.Errorf("sent again: %q", now[before:])
	}
}

func TestSmallFilesGoFirst(t *testing.T) {
	t.Parallel()
	store := newGated()
	b := newBench(t, store, paths(up(), nil), func(c *Config) { c.Transfers = 1 })
	sizes := map[string]int64{}
	var gates []chan<- error
	for i, size := range []int64{largeBytes * 4, largeBytes + 1, 1 << 20, 100_000, 5000, 300, 20, 3, 0} {
		name := fmt.Sprintf("f%d", i)
		sizes["up/"+name] = size
		gates = append(gates, store.gate("up/"+name))
		b.write("out/"+name, "")
		if err := os.Truncate(b.path("out/"+name), size); err != nil {
			t.Fatal(err)
		}
	}
	done := make(chan error, 1)
	go func() { done <- b.sync(egress) }()
	eventually(t, "all are found", func() bool { return b.status(egress).Pending == int64(len(sizes)) })
	for _, gate := range gates {
		gate <- nil
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	// Which one is found first is up to the file system.
	got := store.order()[1:]
	if !slices.IsSortedFunc(got, func(a, b string) int { return int(sizes[a] - sizes[b]) }) || len(got) != len(sizes)-1 {
		t.Errorf("order %q", got)
	}
}

func TestFlightsHaveAnOrder(t *testing.T) {
	t.Parallel()
	now := time.Now()
	of := func(size int64, age time.Duration, number uint64) *flight {
		return &flight{launched: launched{size: size, changed: now.Add(-age)}, number: number}
	}
	sorted := []*flight{
		of(0, time.Hour, 9), of(1, 0, 8), of(3, 0, 7), of(2, time.Second, 1), of(2, time.Second, 2),
		of(5, time.Hour, 3), of(1<<20, 0, 4), of(1<<40, 0, 5),
	}
	for i, a := range sorted {
		for j, b := range sorted {
			if a.before(b) != (i < j) {
				t.Errorf("%d before %d is %v", i, j, a.before(b))
			}
		}
	}
}

func TestWhatWaitsLongHasItsTurn(t *testing.T) {
	t.Parallel()
	l := newLanes(2)
	q := newQueue()
	push := func(size int64) {
		l.launched++
		f := &flight{launched: launched{size: size}, number: l.launched}
		*q.of(f) = append(*q.of(f), f)
		f.place = len(*q.of(f)) - 1
	}
	push(largeBytes * 2)
	for range 100 {
		push(1)
	}
	for range oldestEach {
		if f := q.pop(true); f.isLarge() {
			return
		}
	}
	t.Errorf("the large file had no turn in %d", oldestEach)
}

func TestWorkloadsTakeTurns(t *testing.T) {
	t.Parallel()
	store := newGated()
	told := paths(up(), nil)
	told.workloads = append(told.workloads, workloadOf("other", []protocol.DataPath{{Source: "o", Target: "other"}}, nil))
	b := newBench(t, store, told, func(c *Config) { c.Transfers = 1 })
	hold := store.gate("up/f0")
	b.large("out/f0") // has the only slot, and keeps no cycle waiting
	done := make(chan error, 3)
	go func() { done <- b.sync(egress) }()
	eventually(t, "the slot is taken", func() bool { return len(b.status(egress).Flying) == 1 })
	for i := range 1000 {
		b.write(fmt.Sprintf("out/f%d", i+1), "")
	}
	go func() { done <- b.sync(egress) }()
	eventually(t, "many wait", func() bool { return b.status(egress).Pending == 1001 })
	dir := filepath.Join(b.volumes, "other", "o")
	if err := errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(filepath.Join(dir, "f"), []byte("a larger one"), 0o644)); err != nil {
		t.Fatal(err)
	}
	go func() { done <- b.engine.SyncNow(t.Context(), "other") }()
	eventually(t, "so does the other's", func() bool {
		all := b.engine.Status().Workloads
		i := slices.IndexFunc(all, func(w WorkloadStatus) bool { return w.Name == "other" })
		return i >= 0 && all[i].Egress.Pending == 1
	})
	hold <- nil
	if err := errors.Join(<-done, <-done, <-done); err != nil {
		t.Fatal(err)
	}
	if i := slices.Index(store.order(), "other/f"); i < 0 || i > 4 {
		t.Errorf("the other workload's file was number %d of %d", i, len(store.order()))
	}
}

func TestStopEndsLargeFilesAtOnce(t *testing.T) {
	t.Parallel()
	store := newGated()
	store.gate("up/large")
	b := newBench(t, store, paths(up(), nil), nil)
	b.large("out/large")
	done := make(chan error, 1)
	go func() { done <- b.sync(egress) }()
	eventually(t, "it is under way", func() bool { return len(b.status(egress).Flying) == 1 })
	start := time.Now()
	b.stop()
	if err := <-done; !errors.Is(err, ErrNotSynced) && !errors.Is(err, context.Canceled) {
		t.Errorf("the sync: %v", err)
	}
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("the stop took %v", took)
	}
}

func TestLateFailuresCount(t *testing.T) {
	t.Parallel()
	store := newGated()
	b := newBench(t, store, paths(up(), nil), nil)
	gate := store.gate("up/large")
	b.large("out/large")
	before := b.status(egress).LastSuccess
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- b.engine.SyncNow(ctx, testWorkload) }()
	eventually(t, "it is under way", func() bool { return len(b.status(egress).Flying) == 1 })
	eventually(t, "the cycle is over", func() bool { return !b.status(egress).LastSuccess.Equal(before) })
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("sync: %v", err)
	}
	gate <- fmt.Errorf("put: %w", s3.ErrUnavailable)
	eventually(t, "the failure shows", func() bool {
		s := b.status(egress)
		return s.Failed == 1 && strings.Contains(s.LastError, "large")
	})
	gate <- nil // the first retry is made at once
	b.mustSync(egress)
	if s := b.status(egress); s.Failed != 0 || s.LastError != "" || !store.has("up/large") {
		t.Errorf("status: %+v", s)
	}
	if failing, again := b.reported(reasonFailing, ""), b.reported(reasonRecovered, ""); failing != again {
		t.Errorf("%d failures and %d recoveries were reported", failing, again)
	}
}

func TestWindowBoundsWhatWaits(t *testing.T) {
	t.Parallel()
	store := newGated()
	b := newBench(t, store, paths(up(), nil), func(c *Config) { c.Transfers = 1 })
	for i := range waitingSmall + 1000 {
		b.write(fmt.Sprintf("out/%d/f%d", i%7, i), "")
	}
	var gates []chan<- error
	for i := range waitingSmall + 1000 {
		gates = append(gates, store.gate(fmt.Sprintf("up/%d/f%d", i%7, i)))
	}
	done := make(chan error, 1)
	go func() { done <- b.sync(egress) }()
	eventually(t, "the window is full", func() bool { return b.status(egress).Pending == waitingSmall+1 })
	for _, gate := range gates {
		gate <- nil
	}
	if err := <-done; err != nil || len(store.contents()) != waitingSmall+1000 {
		t.Errorf("%d objects, %v", len(store.contents()), err)
	}
}
