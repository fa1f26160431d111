package datasync

import (
	"context"
	"errors"
	"os"
	"testing"
	"time"

	"github.com/project-flotta/flotta-agent/internal/datasync/s3"
)

// settling makes an engine that waits for files to rest, as in real life.
func settling(c *Config) { c.Settle = 200 * time.Millisecond }

func TestFlushSendsWhatHasNotSettled(t *testing.T) {
	t.Parallel()
	store := newMemStore()
	b := newBench(t, store, paths(up(), down()), settling)
	b.write("out/a", "1")
	b.write("out/b", "2")
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := b.engine.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	if got := store.contents(); got["up/a"] != "1" || got["up/b"] != "2" {
		t.Errorf("in the bucket: %v", got)
	}
}

func TestFlushTriesAgainUntilItsEnd(t *testing.T) {
	t.Parallel()
	store := newMemStore()
	b := newBench(t, store, paths(up(), nil), settling)
	b.write("out/a", "1")
	store.setFault(func(string, string) error { return s3.ErrUnavailable })
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if err := b.engine.Flush(ctx); err == nil {
		t.Fatal("nothing was delivered, and that was no error")
	}
	done := make(chan error, 1)
	long, stop := context.WithTimeout(t.Context(), time.Minute)
	defer stop()
	go func() { done <- b.engine.Flush(long) }()
	store.setFault(nil)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if got := store.contents(); got["up/a"] != "1" {
		t.Errorf("in the bucket: %v", got)
	}
}

// A device that shuts down will not be there when the pause of a file is over.
func TestLastSyncTriesWhatFailedBefore(t *testing.T) {
	t.Parallel()
	for name, last := range map[string]func(*Engine, context.Context) error{"flush": (*Engine).Flush, "drain": (*Engine).Drain} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			store := newMemStore()
			b := newBench(t, store, paths(up(), nil), nil)
			b.write("out/good", "1")
			b.write("out/bad", "2")
			store.setFault(func(_, key string) error {
				if key == "up/bad" {
					return s3.ErrRefused
				}
				return nil
			})
			for range 4 { // the next attempt is half a minute away
				if err := b.sync(egress); err == nil {
					t.Fatal("a file was refused, and that was no error")
				}
			}
			store.setFault(nil)
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			if err := last(b.engine, ctx); err != nil {
				t.Error(err)
			}
			if got := store.contents(); got["up/bad"] != "2" {
				t.Errorf("in the bucket: %v", got)
			}
		})
	}
}

func TestLeavingOnlySendsAndThenForgets(t *testing.T) {
	t.Parallel()
	store := newMemStore()
	b := newBench(t, store, paths(up(), down()), nil)
	b.write("out/a", "1")
	b.mustSync(egress)
	if _, err := b.desired.Leave(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := b.engine.Follow(ctx); err != nil {
		t.Fatal(err)
	}
	if err := b.engine.syncNow(ctx, groupKey{testWorkload, ingress}); !errors.Is(err, ErrNotSynced) {
		t.Errorf("ingress of a device that leaves: %v, want ErrNotSynced", err)
	}
	b.write("out/b", "2")
	if err := b.engine.Flush(ctx); err != nil || store.contents()["up/b"] != "2" {
		t.Errorf("flush: %v, in the bucket: %v", err, store.contents())
	}
	if err := b.desired.Withdraw(); err != nil {
		t.Fatal(err)
	}
	b.write("out/c", "3") // while it was ended
	if _, err := b.engine.Deliver(ctx, testWorkload); err != nil || store.contents()["up/c"] != "3" {
		t.Errorf("deliver: %v, in the bucket: %v", err, store.contents())
	}
	if _, err := b.desired.Relinquish(); err != nil {
		t.Fatal(err)
	}
	if err := b.engine.Follow(ctx); err != nil {
		t.Fatal(err)
	}
	if err := b.engine.Flush(ctx); err != nil || len(b.engine.Status().Workloads) != 0 {
		t.Errorf("flush with nothing to do: %v, status %+v", err, b.engine.Status())
	}
	b.stop()
	ix, err := openIndex(b.engine.cfg.IndexPath, b.engine.cfg.Log)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ix.close() }()
	if uploads, err := ix.lastUploads(); err != nil || len(uploads) != 0 || len(ix.counts) != 0 {
		t.Errorf("the index still knows %v, %v, %v", uploads, ix.counts, err)
	}
	if _, err := os.Stat(b.path("out/a")); err != nil {
		t.Errorf("the volume: %v", err)
	}
}

func TestFollowEndsWithItsContext(t *testing.T) {
	t.Parallel()
	b := newBench(t, newMemStore(), paths(up(), nil), nil)
	b.stop()
	if err := b.desired.Withdraw(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := b.engine.Follow(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Follow = %v", err)
	}
	if err := b.engine.Flush(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Flush = %v", err)
	}
}
