package logs

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/project-flotta/flotta-agent/internal/containers"
	"github.com/project-flotta/flotta-agent/internal/desired"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// TestSpoolCannotBeOpened tries again by itself, and reads on then.
func TestSpoolCannotBeOpened(t *testing.T) {
	t.Parallel()
	s := newSink(t)
	c := fileContainer(t.TempDir(), "shop", "c1")
	write(t, c.LogPath, 0, 3)
	cfg := testConfig(t, newTold(collects(tcpTarget(s.Addr().String()), "shop")), newInventory(c))
	inTheWay := filepath.Join(cfg.Dir, spoolsDir, folderOf("main"))
	if err := os.MkdirAll(filepath.Dir(inTheWay), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(inTheWay, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	e, _ := start(t, cfg)
	eventually(t, "a problem says so", func() bool {
		p := e.Status().Problems
		return len(p) == 1 && p[0].Reason == reasonInvalid
	})
	if err := os.Remove(inTheWay); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the lines arrive, and no problem is left", func() bool { return s.count() == 3 && len(e.Status().Problems) == 0 })
}

// TestNoJournal runs on a device that has no journalctl, and whose containers need
// none.
func TestNoJournal(t *testing.T) {
	t.Parallel()
	s := newSink(t)
	c := fileContainer(t.TempDir(), "shop", "c1")
	write(t, c.LogPath, 0, 3)
	silent := containers.Container{ID: "c2", Name: "shop-helper", Workload: "shop", Container: "helper", LogDriver: "passthrough"}
	cfg := testConfig(t, newTold(collects(tcpTarget(s.Addr().String()), "shop")), newInventory(c, silent))
	var ran atomic.Int32
	cfg.Journalctl = func(ctx context.Context, _ ...string) *exec.Cmd {
		ran.Add(1)
		return exec.CommandContext(ctx, "/nonexistent/journalctl")
	}
	e, _ := start(t, cfg)
	eventually(t, "the lines arrive", func() bool { return s.count() == 3 })
	if p := e.Status().Problems; len(p) != 1 || p[0].Reason != reasonDriver || !strings.Contains(p[0].Message, "passthrough") {
		t.Errorf("problems: %+v", p)
	}
	if n := ran.Load(); n > 0 {
		t.Errorf("journalctl was run %d times", n)
	}
}

// TestProblemThatFlaps is told once in ten minutes.
func TestProblemThatFlaps(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		cfg := testConfig(t, newTold(desired.State{}), newInventory())
		events := 0
		cfg.Event = func(protocol.EventInfo) { events++ }
		e, err := New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		for range 100 {
			e.problem(reasonJournal, "away")
			if p := e.Status().Problems; len(p) != 1 {
				t.Fatalf("problems: %+v", p)
			}
			e.problem(reasonJournal, "")
			time.Sleep(10 * time.Second)
		}
		if events != 2 {
			t.Errorf("in 1000 s it was told %d times, want 2", events)
		}
		e.problem(reasonSpool, "full")
		if events != 3 {
			t.Error("another reason was not told")
		}
	})
}

// TestPlacesDamaged is told, and no problem that stays.
func TestPlacesDamaged(t *testing.T) {
	t.Parallel()
	s := newSink(t)
	c := fileContainer(t.TempDir(), "shop", "c1")
	write(t, c.LogPath, 0, 3)
	cfg := testConfig(t, newTold(collects(tcpTarget(s.Addr().String()), "shop")), newInventory(c))
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(placesPath(cfg.Dir), []byte("rubbish"), 0o600); err != nil {
		t.Fatal(err)
	}
	var told atomic.Int32
	cfg.Event = func(e protocol.EventInfo) {
		if e.Reason == reasonPlaces {
			told.Add(1)
		}
	}
	e, _ := start(t, cfg)
	eventually(t, "the lines arrive", func() bool { return s.count() == 3 })
	if p := e.Status().Problems; len(p) != 0 || told.Load() != 1 {
		t.Errorf("it was told %d times; problems: %+v", told.Load(), p)
	}
}

// TestInvalidTarget takes lines into the spool until the target is corrected.
func TestInvalidTarget(t *testing.T) {
	t.Parallel()
	s := newSink(t)
	c := fileContainer(t.TempDir(), "shop", "c1")
	write(t, c.LogPath, 0, 3)
	d := newTold(collects(tcpTarget("nowhere:none"), "shop"))
	i := newInventory(c)
	e, _ := start(t, testConfig(t, d, i))
	eventually(t, "a problem says so, and the lines wait", func() bool {
		st := e.Status()
		return len(st.Targets) == 1 && st.Targets[0].Queue.Entries == 3 && len(st.Problems) == 1 && st.Problems[0].Reason == reasonInvalid
	})
	d.mu.Lock()
	d.now = desired.NewSnapshot(collects(tcpTarget(s.Addr().String()), "shop"), "2")
	d.mu.Unlock()
	i.set(c) // makes it look at the state, too
	eventually(t, "they arrive, and no problem is left", func() bool { return s.count() == 3 && len(e.Status().Problems) == 0 })
}
