package datasync

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/project-flotta/flotta-agent/internal/datasync/s3"
	"github.com/project-flotta/flotta-agent/internal/desired"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

func TestConfigIsValidated(t *testing.T) {
	t.Parallel()
	good := Config{Desired: &desired.Store{}, VolumesDir: "/v", IndexPath: "/i"}
	if _, err := New(good); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(*Config){
		"Desired":    func(c *Config) { c.Desired = nil },
		"VolumesDir": func(c *Config) { c.VolumesDir = "relative" },
		"IndexPath":  func(c *Config) { c.IndexPath = "" },
		"Interval":   func(c *Config) { c.Interval = -1 },
		"Transfers":  func(c *Config) { c.Transfers = -1 },
	} {
		bad := good
		spoil(&bad)
		if _, err := New(bad); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestNothingToldNothingDone(t *testing.T) {
	t.Parallel()
	store := newMemStore()
	told := paths(up(), down())
	told.storage = protocol.S3StorageConfiguration{}
	b := newIdleBench(t, store, told)
	if s := b.engine.Status(); len(s.Workloads) != 0 {
		t.Errorf("status: %+v", s)
	}
	if err := b.engine.SyncNow(t.Context(), testWorkload); !errors.Is(err, ErrNotSynced) {
		t.Errorf("sync: %v", err)
	}
	told = paths(up(), down())
	b.tell(told)
	b.write("out/f", "x")
	b.mustSync(egress)
	// And away with the bucket again.
	told.storage = protocol.S3StorageConfiguration{}
	b.tell(told)
	eventually(t, "the status is empty", func() bool { return len(b.engine.Status().Workloads) == 0 })
	store.taken()
	if err := b.engine.SyncNow(t.Context(), testWorkload); !errors.Is(err, ErrNotSynced) || len(store.taken()) != 0 {
		t.Errorf("sync: %v", err)
	}
}

// newIdleBench is newBench for a configuration that starts nothing.
func newIdleBench(t *testing.T, store Store, told configuration) *bench {
	t.Helper()
	workloads := told.workloads
	told.workloads = nil
	b := newBench(t, store, told, nil)
	told.workloads = workloads
	b.tell(told)
	return b
}

func TestSupersededSnapshotEndsACycle(t *testing.T) {
	t.Parallel()
	slow, quick := newMemStore(), newMemStore()
	entered := make(chan struct{}, 100)
	b := newBench(t, nil, paths(up(), nil), func(c *Config) {
		c.Open = func(s desired.Storage) (Store, error) {
			if s.SecretAccessKey.Reveal() == "secret" {
				return stalled{slow, entered}, nil
			}
			return quick, nil
		}
	})
	for i := range 50 {
		b.write(fmt.Sprintf("out/f%d", i), "x")
	}
	result := make(chan error, 1)
	go func() { result <- b.sync(egress) }()
	<-entered
	// Something that is no business of ours does not disturb the cycle.
	told := paths(up(), nil)
	told.interval = 77
	b.tell(told)
	select {
	case err := <-result:
		t.Fatalf("the cycle ended: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	told.storage.AWSSecretAccessKey = encoded("another")
	b.tell(told)
	if err := <-result; !errors.Is(err, context.Canceled) {
		t.Errorf("the cycle: %v", err)
	}
	eventually(t, "all arrives with the new secret", func() bool { return len(quick.contents()) == 50 })
}

// stalled is a store whose uploads never end.
type stalled struct {
	*memStore

	entered chan<- struct{}
}

func (s stalled) Put(ctx context.Context, u s3.Upload) (string, error) {
	s.entered <- struct{}{}
	<-ctx.Done()
	return "", fmt.Errorf("put %q: %w", u.Key, ctx.Err())
}

func TestWorkloadsAndDirectionsAreIndependent(t *testing.T) {
	t.Parallel()
	store := newMemStore()
	told := paths(up(), down())
	told.workloads = append(told.workloads, workloadOf("other", []protocol.DataPath{{Source: "o", Target: "other"}}, nil))
	b := newBench(t, store, told, nil)
	store.setFault(func(_, key string) error {
		if strings.HasPrefix(key, "other") || strings.HasPrefix(key, "down") {
			return fmt.Errorf("request: %w", s3.ErrUnavailable)
		}
		return nil
	})
	b.write("out/f", "x")
	other := filepath.Join(b.volumes, "other", "o")
	if err := os.MkdirAll(other, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(other, "f"), []byte("y"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := b.engine.SyncNow(t.Context(), "other"); err == nil {
		t.Error("the other workload works")
	}
	if err := b.sync(ingress); err == nil {
		t.Error("the other direction works")
	}
	b.mustSync(egress)
	if got := store.contents()["up/f"]; got != "x" {
		t.Errorf("object %q", got)
	}
}

func TestPathsThatLeaveTheirRootsAreRefused(t *testing.T) {
	t.Parallel()
	store := newMemStore()
	b := newBench(t, store, paths(
		[]protocol.DataPath{{Source: "../../..", Target: "up"}, {Source: "/etc", Target: "up"}, {Source: "loop/a", Target: "loop"}, {Source: "out", Target: "up"}},
		[]protocol.DataPath{{Source: "down", Target: "../x"}, {Source: "loop", Target: "loop"}, {Source: "down", Target: "in"}},
	), nil)
	b.write("out/f", "x")
	b.write("loop/a/f", "x")
	store.set("down/g", []byte("y"), s3.Upload{})
	b.mustSync(egress)
	b.mustSync(ingress)
	if got := store.contents(); len(got) != 2 || got["up/f"] != "x" || b.read("in/g") != "y" {
		t.Errorf("objects %v", got)
	}
	if b.reported(reasonPathRefused, "") != 3 || b.reported(reasonPathLoop, "") != 1 {
		t.Errorf("events: %+v", b.events)
	}
}

func TestIndexOfAnotherProcessIsAnError(t *testing.T) {
	t.Parallel()
	b := newBench(t, newMemStore(), paths(up(), nil), nil)
	second, err := New(b.engine.cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := second.Run(t.Context()); !errors.Is(err, ErrIndexLocked) || !strings.Contains(err.Error(), "datasync.db") {
		t.Errorf("run: %v", err)
	}
}

// TestIndexThatCannotBeOpenedIsTold: nothing travels then, for all workloads.
func TestIndexThatCannotBeOpenedIsTold(t *testing.T) {
	t.Parallel()
	b := newBench(t, newMemStore(), paths(up(), nil), nil)
	b.stop()
	cfg := b.engine.cfg
	cfg.Interval = 20 * time.Millisecond
	inTheWay := filepath.Join(b.dir, "state")
	cfg.IndexPath = filepath.Join(inTheWay, "datasync.db")
	b.must(os.WriteFile(inTheWay, nil, 0o600))
	b.start(cfg)
	eventually(t, "it is told", func() bool { return strings.Contains(b.engine.Status().IndexError, inTheWay) })
	b.must(os.Remove(inTheWay))
	eventually(t, "it is over, and reported", func() bool {
		return b.engine.Status().IndexError == "" && b.reported(reasonRecovered, "") > 0
	})
	if failing, again := b.reported(reasonFailing, ""), b.reported(reasonRecovered, ""); failing != 1 || again != 1 {
		t.Errorf("%d failures and %d recoveries were reported", failing, again)
	}
}

func TestFilesSettleBeforeTheyAreSent(t *testing.T) {
	t.Parallel()
	store := newMemStore()
	b := newBench(t, store, paths(up(), nil), func(c *Config) { c.Settle = 3 * time.Second })
	b.write("out/f", "x")
	b.mustSync(egress)
	if got := store.contents(); len(got) != 0 {
		t.Errorf("sent at once: %v", got)
	}
	if s := b.status(egress); s.Pending != 1 {
		t.Errorf("pending %d", s.Pending)
	}
	// Nobody asks for the next cycle: it comes early for the sake of the file.
	eventually(t, "the file has settled and is sent", func() bool { return len(store.contents()) == 1 })
}

func TestLastUploadSurvivesARestart(t *testing.T) {
	t.Parallel()
	b := newBench(t, newMemStore(), paths(up(), nil), nil)
	b.write("out/f", "x")
	b.mustSync(egress)
	want := b.engine.Status().LastUpload(testWorkload)
	b.restart()
	eventually(t, "the status is there", func() bool { return len(b.engine.Status().Workloads) == 1 })
	if got := b.engine.Status().LastUpload(testWorkload); want.IsZero() || got.UnixMilli() != want.UnixMilli() {
		t.Errorf("last upload %v, want %v", got, want)
	}
}

func TestTheIndexForgetsWhatIsGone(t *testing.T) {
	t.Parallel()
	store := newMemStore()
	b := newBench(t, store, paths(up(), nil), nil)
	for i := range 3000 {
		b.write(fmt.Sprintf("out/%d/f%d", i%3, i), "")
	}
	b.mustSync(egress)
	if err := os.RemoveAll(b.path("out/1")); err != nil {
		t.Fatal(err)
	}
	b.write("out/new", "")
	b.mustSync(egress)
	b.stop()
	ix, err := tryIndex(filepath.Join(b.dir, "datasync.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer ix.close() //nolint:errcheck // read only.
	for id, n := range ix.counts {
		if n != 2001 {
			t.Errorf("%q has %d records, want 2001", id, n)
		}
	}
	if len(store.contents()) != 3001 {
		t.Errorf("%d objects", len(store.contents()))
	}
}

func BenchmarkIdleEgress(b *testing.B) {
	store := newMemStore()
	store.page = 1000
	s := newBench(b, store, paths(up(), nil), nil)
	for i := range 10_000 {
		s.write(fmt.Sprintf("out/%d/f%d", i/1000, i), "x")
	}
	s.mustSync(egress)
	s.mustSync(egress)
	store.taken()
	b.ReportAllocs()
	b.ResetTimer()
	for range b.N {
		s.mustSync(egress)
	}
	b.StopTimer()
	if r := store.taken(); len(r) != 0 {
		b.Errorf("%d requests", len(r))
	}
}
