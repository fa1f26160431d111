package datasync

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/project-flotta/flotta-agent/internal/datasync/s3"
	"github.com/project-flotta/flotta-agent/internal/desired"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// retire takes the test's workload out of the configuration.
func (b *bench) retire(told configuration) desired.Retired {
	b.t.Helper()
	told.workloads = nil
	b.tell(told)
	retired := b.desired.Current().State().Retired
	if len(retired) != 1 {
		b.t.Fatalf("retired %+v", retired)
	}
	return retired[0]
}

func (b *bench) deliver() (string, error) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), 30*time.Second)
	defer cancel()
	return b.engine.Deliver(ctx, testWorkload)
}

func TestDeliverSendsWhatWasWrittenLast(t *testing.T) {
	t.Parallel()
	store := newMemStore()
	told := paths(up(), down())
	b := newBench(t, store, told, settling)
	b.write("out/a", "1")
	b.write("elsewhere/b", "2")
	retired := b.retire(told)
	b.write("out/last", "3") // has not settled
	stamp, err := b.deliver()
	if err != nil {
		t.Fatal(err)
	}
	if got := store.contents(); got["up/a"] != "1" || got["up/last"] != "3" || len(got) != 2 {
		t.Errorf("in the bucket: %v", got)
	}
	if err := b.engine.syncNow(t.Context(), groupKey{testWorkload, ingress}); !errors.Is(err, ErrNotSynced) {
		t.Errorf("a retired workload downloads: %v", err)
	}
	// The stamp is that of what arrived, and of nothing else.
	same := func(want bool, what string) {
		t.Helper()
		now, err := b.engine.Stamp(t.Context(), retired)
		if err != nil || (now == stamp) != want {
			t.Errorf("%s: stamp %q, %v; was %q", what, now, err, stamp)
		}
	}
	same(true, "nothing happened")
	b.write("elsewhere/c", "x")
	same(true, "something that egress does not cover")
	b.write("out/last", "4")
	same(false, "other content of the same size")
	if stamp, err = b.deliver(); err != nil || store.contents()["up/last"] != "4" {
		t.Errorf("deliver: %v", err)
	}
	if err := os.Remove(b.path("out/a")); err != nil {
		t.Fatal(err)
	}
	same(false, "a file less")

	if err := b.desired.Delivered(retired, stamp); err != nil {
		t.Fatal(err)
	}
	if err := b.engine.Follow(t.Context()); err != nil || len(b.engine.Status().Workloads) != 0 {
		t.Errorf("a delivered workload is still looked after: %v", err)
	}
	if err := b.desired.Dispose(retired, func() error { return os.RemoveAll(b.path("")) }); err != nil {
		t.Fatal(err)
	}
	if err := b.engine.Follow(t.Context()); err != nil {
		t.Fatal(err)
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
}

func TestDeliverSaysWhatIsInTheWay(t *testing.T) {
	t.Parallel()
	store := newMemStore()
	told := paths(up(), nil)
	b := newBench(t, store, told, nil)
	b.write("out/a", "1")
	b.write("out/b", "1")
	if _, err := b.deliver(); err == nil || !strings.Contains(err.Error(), "not retired") {
		t.Errorf("deliver what is desired: %v", err)
	}
	store.setFault(func(op, _ string) error {
		if op == "Put" {
			return s3.ErrUnavailable
		}
		return nil
	})
	b.retire(told)
	if _, err := b.deliver(); err == nil || !strings.Contains(err.Error(), "files not delivered") {
		t.Errorf("storage away: %v", err)
	}
	none := told
	none.storage, none.workloads = protocol.S3StorageConfiguration{}, nil
	b.tell(none)
	if _, err := b.deliver(); err == nil || !strings.Contains(err.Error(), "no storage") {
		t.Errorf("no storage: %v", err)
	}
	told.workloads = nil
	b.tell(told)
	store.setFault(nil)
	b.write("out/bad\x01name", "x")
	if _, err := b.deliver(); err == nil || !strings.Contains(err.Error(), "names") {
		t.Errorf("a name that no object has: %v", err)
	}
	if got := store.contents(); len(got) != 2 {
		t.Errorf("in the bucket: %v", got)
	}
	if err := os.Remove(b.path("out/bad\x01name")); err != nil {
		t.Fatal(err)
	}
	b.restart()
	if _, err := b.deliver(); err != nil {
		t.Errorf("nothing is in the way: %v", err)
	}
}

func TestDeliverRefusedPaths(t *testing.T) {
	t.Parallel()
	for name, told := range map[string]configuration{
		"leads out": paths(append(up(), protocol.DataPath{Source: "../x", Target: "x"}), nil),
		"loops":     paths(append(up(), protocol.DataPath{Source: "loop", Target: "loop"}), []protocol.DataPath{{Source: "loop", Target: "loop"}}),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			store := newMemStore()
			b := newIdleBench(t, store, told)
			b.write("out/a", "1")
			b.write("loop/b", "1")
			b.retire(told)
			if _, err := b.deliver(); err == nil || !strings.Contains(err.Error(), "refused") {
				t.Errorf("deliver: %v", err)
			}
			b.mustSync(egress)
			if got := store.contents(); got["up/a"] != "1" || len(got) != 1 {
				t.Errorf("in the bucket: %v", got)
			}
		})
	}
}

func TestDeliverNothing(t *testing.T) {
	t.Parallel()
	told := paths(up(), nil)
	b := newBench(t, newMemStore(), told, nil)
	b.retire(told)
	if stamp, err := b.deliver(); err != nil || stamp != stampAbsent {
		t.Errorf("no volume: %q, %v", stamp, err)
	}
	if err := os.MkdirAll(b.volumes, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc", b.path("")); err != nil {
		t.Fatal(err)
	}
	if stamp, err := b.deliver(); err == nil {
		t.Errorf("a link in the place of the volume: %q", stamp)
	}
}

func TestStampDoesNotDependOnTheOrder(t *testing.T) {
	t.Parallel()
	var a, b stampSum
	for i := range 100 {
		a.add("file", "x", fingerprint{Size: int64(i)})
		b.add("file", "x", fingerprint{Size: int64(99 - i)})
	}
	if a != b || a == (stampSum{}) {
		t.Errorf("%x and %x", a, b)
	}
	b.add("file", "x", fingerprint{Size: 100})
	if a == b {
		t.Error("one file more is the same")
	}
}
