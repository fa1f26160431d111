package datasync

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/project-flotta/flotta-agent/internal/datasync/s3"
	"github.com/project-flotta/flotta-agent/internal/desired"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

func (b *bench) drain(most time.Duration) error {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), most)
	defer cancel()
	return b.engine.Drain(ctx)
}

func TestDrainSendsWhatHasNotSettled(t *testing.T) {
	t.Parallel()
	store := newMemStore()
	b := newBench(t, store, paths(up(), down()), func(c *Config) { c.Settle = time.Hour })
	b.write("out/a", "1")
	if err := b.drain(30 * time.Second); err != nil {
		t.Fatal(err)
	}
	if got := store.contents(); got["up/a"] != "1" {
		t.Errorf("in the bucket: %v", got)
	}
	store.taken()
	if err := b.drain(30 * time.Second); err != nil || len(store.taken()) != 0 {
		t.Errorf("a drain with nothing to do: %v, %v", err, store.taken())
	}
}

func TestDrainLeavesOutWhatDoesNotWork(t *testing.T) {
	t.Parallel()
	store := newMemStore()
	b := newBench(t, store, paths(up(), nil), nil)
	b.write("out/a", "1")
	store.setFault(func(string, string) error { return s3.ErrUnavailable })
	if err := b.sync(egress); err == nil {
		t.Fatal("it works")
	}
	store.taken()
	start := time.Now()
	if err := b.drain(30 * time.Second); err != nil || len(store.taken()) != 0 || time.Since(start) > 5*time.Second {
		t.Errorf("drain: %v after %v, requests %v", err, time.Since(start), store.taken())
	}
	// A network that went away since is tried once.
	store.setFault(nil)
	b.mustSync(egress)
	b.write("out/b", "2")
	store.setFault(func(string, string) error { return s3.ErrUnavailable })
	store.taken()
	if err := b.drain(30 * time.Second); !errors.Is(err, s3.ErrUnavailable) || len(store.taken()) > maxStrikes {
		t.Errorf("drain: %v, requests %v", err, store.taken())
	}
}

func TestDrainEndsInTime(t *testing.T) {
	t.Parallel()
	store := newGated()
	b := newBench(t, store, paths(up(), nil), nil)
	store.gate("up/large")
	b.large("out/large")
	b.write("out/small", "x")
	start := time.Now()
	if err := b.drain(300 * time.Millisecond); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("drain: %v", err)
	}
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("took %v", took)
	}
	eventually(t, "the small one is there", func() bool { return store.has("up/small") })
}

func TestDrainRespectsAPause(t *testing.T) {
	t.Parallel()
	store := newMemStore()
	var on *atomic.Bool
	b := newBench(t, store, paths(up(), nil), func(c *Config) { on = pauses(t, c) })
	on.Store(true)
	b.engine.limits.look()
	b.write("out/a", "1")
	if err := b.drain(30 * time.Second); err != nil || len(store.contents()) != 0 {
		t.Errorf("drain: %v, %v", err, store.contents())
	}
}

// A change of the credentials, or of anything else about the bucket, reaches large
// transfers under way and what waits for a retry.
func TestNewSettingsOfTheBucketCountAtOnce(t *testing.T) {
	t.Parallel()
	slow, quick := newGated(), newGated()
	told := paths(up(), nil)
	b := newBench(t, nil, told, func(c *Config) {
		c.Open = func(s desired.Storage) (Store, error) {
			if s.SecretAccessKey.Reveal() == "secret" {
				return slow, nil
			}
			return quick, nil
		}
	})
	slow.gate("up/large")
	slow.setFault(func(string, string) error { return fmt.Errorf("put: %w", s3.ErrCredentials) })
	b.large("out/large")
	b.write("out/small", "x")
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if err := b.engine.SyncNow(ctx, testWorkload); err == nil {
		t.Fatal("it works")
	}
	told.storage.AWSSecretAccessKey = encoded("another")
	b.tell(told) // the next cycle would be in a day
	eventually(t, "all arrives with the new secret", func() bool { return quick.has("up/large") && quick.has("up/small") })
	if slow.has("up/large") || slow.has("up/small") {
		t.Error("something arrived with the old one")
	}
}

func TestClashesAreProblems(t *testing.T) {
	t.Parallel()
	told := paths([]protocol.DataPath{{Source: "out", Target: "up"}, {Source: "out/sub", Target: "up/sub"}}, nil)
	told.workloads = append(told.workloads,
		workloadOf("twin", []protocol.DataPath{{Source: "x", Target: "up"}}, nil),
		workloadOf("below", []protocol.DataPath{{Source: "y", Target: "up/deep/er"}}, nil),
		workloadOf("beside", []protocol.DataPath{{Source: "z", Target: "up2"}}, nil),
		workloadOf("loop", []protocol.DataPath{{Source: "d", Target: "loop"}}, []protocol.DataPath{{Source: "loop", Target: "d"}, {Source: "/x", Target: "y"}}),
	)
	b := newBench(t, newMemStore(), told, nil)
	problems := func(workload, reason string) (n int) {
		for _, w := range b.engine.Status().Workloads {
			for _, p := range append(w.Egress.Problems, w.Ingress.Problems...) {
				if w.Name == workload && p.Reason == reason {
					n++
				}
			}
		}
		return n
	}
	cycle := func() {
		for _, name := range []string{testWorkload, "twin", "below", "beside"} {
			if err := b.engine.SyncNow(t.Context(), name); err != nil {
				t.Fatal(err)
			}
		}
	}
	cycle()
	for name, want := range map[string]int{testWorkload: 1, "twin": 1, "below": 0, "beside": 0} {
		if got := problems(name, reasonPathOverlap); got != want {
			t.Errorf("%s has %d problems, want %d", name, got, want)
		}
	}
	if problems("loop", reasonPathLoop) != 2 || problems("loop", reasonPathRefused) != 1 {
		t.Errorf("of the loop: %+v", b.engine.Status())
	}
	// Now the outer ones have a folder that leads to the inner one's place.
	b.write("out/deep/er/f", "")
	cycle()
	if problems(testWorkload, reasonPathOverlap) != 2 || problems("below", reasonPathOverlap) != 1 {
		t.Errorf("with the folder: %+v", b.engine.Status())
	}
	if err := os.RemoveAll(b.path("out/deep")); err != nil {
		t.Fatal(err)
	}
	told.workloads[0] = workloadOf(testWorkload, []protocol.DataPath{{Source: "out", Target: "mine"}}, nil)
	b.tell(told)
	eventually(t, "the problems are over", func() bool {
		return b.engine.SyncNow(t.Context(), testWorkload) == nil && problems(testWorkload, reasonPathOverlap) == 0
	})
	if b.reported(reasonPathOverlap, "up/deep/er") != 2 || b.reported(reasonPathLoop, "") != 1 {
		t.Errorf("events: %+v", b.events)
	}
}

func TestUnusableStorageIsAProblem(t *testing.T) {
	t.Parallel()
	bad := errors.New("no certificate in it")
	told := paths(up(), nil)
	b := newBench(t, nil, configuration{}, func(c *Config) {
		c.Open = func(s desired.Storage) (Store, error) {
			if s.Bucket == "bad" {
				return nil, bad
			}
			return newMemStore(), nil
		}
	})
	told.storage.BucketName = "bad"
	b.tell(told)
	eventually(t, "it is a problem", func() bool {
		p := b.status(egress).Problems
		return len(p) == 1 && p[0].Reason == reasonStorage
	})
	told.storage.BucketName = "good"
	b.tell(told)
	eventually(t, "it is none any more", func() bool {
		return len(b.engine.Status().Workloads) == 1 && len(b.status(egress).Problems) == 0
	})
}

// A device that is offline does not ask much, and does not grow with what is
// written meanwhile. It is not parallel: it looks at the heap of the process.
func TestOfflineForLong(t *testing.T) {
	const files, rounds = 8000, 8
	synctest.Test(t, func(t *testing.T) {
		store := newMemStore()
		b := newBench(t, store, paths(up(), down()), func(c *Config) { c.Interval, c.Walk = defaultInterval, -1 })
		defer b.stop()
		store.setFault(func(string, string) error { return fmt.Errorf("request: %w", s3.ErrUnavailable) })
		requests := 0
		var first int64
		for round := range rounds {
			for i := range files / rounds {
				b.write(fmt.Sprintf("out/%d/f%d", round, i), "x")
			}
			time.Sleep(2 * time.Hour)
			requests += len(store.taken())
			switch now := heapInUse(); {
			case round == 0:
				first = now
			case now-first > 8<<20:
				t.Errorf("round %d: %d bytes more than in the first", round, now-first)
			}
		}
		// Both directions, every 90 s at most, and a few at a time.
		if most := rounds * 2 * 40 * (maxStrikes + defaultTransfers) * 2; requests > most {
			t.Errorf("%d requests, more than %d", requests, most)
		}
		if s := b.status(egress); s.LastError == "" {
			t.Errorf("status: %+v", s)
		}
	})
}

// heapInUse returns what is in use after a collection.
func heapInUse() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
