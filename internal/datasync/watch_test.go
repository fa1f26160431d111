package datasync

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/project-flotta/flotta-agent/internal/datasync/s3"
)

// look makes a cycle of egress that looks at what was notified and no more.
func (b *bench) look() {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	if err := b.engine.ask(ctx, groupKey{testWorkload, egress}, ask{}); err != nil {
		b.t.Fatal(err)
	}
}

// watching starts an engine that has looked at everything once and will not do
// so again by itself. No cycle is made that the test does not ask for.
func watching(t testing.TB, store Store, change func(*Config)) *bench {
	t.Helper()
	b := newBench(t, store, paths(up(), nil), func(c *Config) {
		c.Walk, c.Audit = 24*time.Hour, -1
		if change != nil {
			change(c)
		}
	})
	b.write("out/first", "first")
	b.mustSync(egress)
	b.mustSync(egress) // records without doubt what was written just before
	return b
}

// out returns what the engine knows of the route.
func (b *bench) out() *outflow {
	b.t.Helper()
	b.engine.mu.Lock()
	defer b.engine.mu.Unlock()
	for _, o := range b.engine.groups[groupKey{testWorkload, egress}].outs {
		return o
	}
	b.t.Fatal("there is no route")
	return nil
}

func (b *bench) must(err error) {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
}

// recorded returns the paths in the index.
func (b *bench) recorded() []string {
	b.t.Helper()
	b.engine.mu.Lock()
	g := b.engine.groups[groupKey{testWorkload, egress}]
	b.engine.mu.Unlock()
	names, err := g.index.paths(routeID(testWorkload, egress, g.storeID, g.routes[0]), "", 1<<20)
	b.must(err)
	return names
}

func TestNotifiedChangesAreSent(t *testing.T) {
	t.Parallel()
	old := time.Now().Add(-48 * time.Hour)
	for name, test := range map[string]struct {
		do   func(b *bench)
		want map[string]string // besides the first
	}{
		"new file":  {func(b *bench) { b.write("out/f", "1") }, map[string]string{"f": "1"}},
		"new empty": {func(b *bench) { b.write("out/f", "") }, map[string]string{"f": ""}},
		"changed":   {func(b *bench) { b.write("out/first", "again") }, map[string]string{"first": "again"}},
		"truncated": {func(b *bench) { b.must(os.Truncate(b.path("out/first"), 2)) }, map[string]string{"first": "fi"}},
		"deep and new": {
			func(b *bench) { b.write("out/a/b/c/d/f", "1"); b.write("out/a/b/g", "2") },
			map[string]string{"a/b/c/d/f": "1", "a/b/g": "2"},
		},
		"in a folder that was there": {
			func(b *bench) {
				b.write("out/a/b/f", "1")
				b.look()
				b.write("out/a/b/g", "2")
				b.write("out/a/h", "3")
			},
			map[string]string{"a/b/f": "1", "a/b/g": "2", "a/h": "3"},
		},
		"touched back in time": {
			func(b *bench) {
				b.write("out/first", "FIRST")
				b.must(os.Chtimes(b.path("out/first"), old, old))
			},
			map[string]string{"first": "FIRST"},
		},
		"renamed over": {
			func(b *bench) {
				b.write("out/tmp", "new")
				b.must(os.Rename(b.path("out/tmp"), b.path("out/first")))
			},
			map[string]string{"first": "new"},
		},
		"moved in from elsewhere": {
			func(b *bench) {
				b.write("other/d/f", "1")
				b.must(os.Rename(b.path("other/d"), b.path("out/d")))
				b.look()
				b.write("out/d/g", "2")
			},
			map[string]string{"d/f": "1", "d/g": "2"},
		},
		"folder renamed": {
			func(b *bench) {
				b.write("out/a/b/f", "1")
				b.look()
				b.must(os.Rename(b.path("out/a"), b.path("out/z")))
				b.write("out/z/b/g", "2")
				b.look()
				b.write("out/z/b/h", "3") // its folder is known by its new name
			},
			map[string]string{"a/b/f": "1", "z/b/f": "1", "z/b/g": "2", "z/b/h": "3"},
		},
		"folders exchanged": {
			func(b *bench) {
				b.write("out/a/f", "1")
				b.write("out/b/g", "2")
				b.look()
				b.must(unix.Renameat2(unix.AT_FDCWD, b.path("out/a"), unix.AT_FDCWD, b.path("out/b"), unix.RENAME_EXCHANGE))
				b.look()
				b.write("out/a/g", "3")
				b.write("out/b/f", "4")
			},
			map[string]string{"a/f": "1", "b/g": "2", "a/g": "3", "b/f": "4"},
		},
		"folder made anew": {
			func(b *bench) {
				b.write("out/a/f", "1")
				b.look()
				b.must(os.RemoveAll(b.path("out/a")))
				b.write("out/a/g", "2")
				b.look()
				b.write("out/a/h", "3")
			},
			map[string]string{"a/f": "1", "a/g": "2", "a/h": "3"},
		},
		"file becomes a folder and a file again": {
			func(b *bench) {
				b.write("out/x", "1")
				b.look()
				b.must(os.Remove(b.path("out/x")))
				b.write("out/x/f", "2")
				b.look()
				b.must(os.RemoveAll(b.path("out/x")))
				b.write("out/x", "3")
			},
			map[string]string{"x": "3", "x/f": "2"},
		},
		"the route's folder made anew": {
			func(b *bench) {
				b.must(os.RemoveAll(b.path("out")))
				b.look()
				b.write("out/f", "1")
				b.look()
				b.write("out/g", "2")
			},
			map[string]string{"f": "1", "g": "2"},
		},
		"the route's folder replaced": {
			func(b *bench) {
				b.write("new/f", "1")
				b.must(os.Rename(b.path("out"), b.path("old")))
				b.must(os.Rename(b.path("new"), b.path("out")))
				b.look()
				b.write("out/g", "2")
				b.write("old/h", "not sent")
			},
			map[string]string{"f": "1", "g": "2"},
		},
		"the volume made anew": {
			func(b *bench) {
				b.must(os.RemoveAll(b.path(".")))
				b.look()
				b.write("out/f", "1")
				b.look()
				b.write("out/g", "2")
			},
			map[string]string{"f": "1", "g": "2"},
		},
		"a folder that could not be read": {
			func(b *bench) {
				b.write("out/a/f", "1")
				b.must(os.Chmod(b.path("out/a"), 0))
				_ = b.engine.ask(b.t.Context(), groupKey{testWorkload, egress}, ask{})
				b.must(os.Chmod(b.path("out/a"), 0o755))
			},
			map[string]string{"a/f": "1"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			store := newMemStore()
			b := watching(t, store, nil)
			want := map[string]string{"up/first": "first"}
			for key, data := range test.want {
				want["up/"+key] = data
			}
			test.do(b)
			b.look()
			if diff := cmp.Diff(want, store.contents()); diff != "" {
				t.Error(diff)
			}
			// What is recorded is what a walk would record, and the walk finds
			// nothing more to do.
			before := b.recorded()
			b.look()
			store.taken()
			b.mustSync(egress)
			if r := store.taken(); len(r) != 0 {
				t.Errorf("the walk finds more: %q", r)
			}
			if diff := cmp.Diff(b.recorded(), before); diff != "" {
				t.Errorf("records: %s", diff)
			}
		})
	}
}

func TestIdleCycleLooksAtNothing(t *testing.T) {
	t.Parallel()
	store := newMemStore()
	b := watching(t, store, nil)
	b.look()
	g := b.engine.groups[groupKey{testWorkload, egress}]
	// A change that nobody is told of is not seen, which shows that nobody looks.
	b.write("out/f", "1")
	b.engine.watch.drain()
	o := b.out()
	list, moment := o.marks.begin()
	for _, name := range list {
		o.marks.done(name, moment)
	}
	before := g.index.db.Stats().TxN
	store.taken()
	b.look()
	if n := g.index.db.Stats().TxN - before; n != 0 || len(store.taken()) != 0 {
		t.Errorf("%d transactions", n)
	}
	if _, ok := store.contents()["up/f"]; ok {
		t.Error("the cycle looked at all files")
	}
	b.mustSync(egress)
	if got := store.contents()["up/f"]; got != "1" {
		t.Errorf("the walk found %q", got)
	}
}

func TestOneChangeIsOneRequest(t *testing.T) {
	t.Parallel()
	store := newMemStore()
	b := watching(t, store, nil)
	for i := range 500 {
		b.write(fmt.Sprintf("out/d%d/f%d", i%10, i), "x")
	}
	b.mustSync(egress)
	b.mustSync(egress)
	store.taken()
	b.write("out/d3/f333", "changed")
	b.look()
	if diff := cmp.Diff([]string{"Put up/d3/f333"}, store.taken()); diff != "" {
		t.Error(diff)
	}
}

func TestChangeOfOnlyTheModeIsNotSent(t *testing.T) {
	t.Parallel()
	store := newMemStore()
	b := watching(t, store, nil)
	store.taken()
	b.must(os.Chmod(b.path("out/first"), 0o600))
	b.look()
	b.look()
	// One question at most; none when the file was recorded in doubt just before.
	if r := store.taken(); len(r) > 1 || len(r) == 1 && r[0] != "Head up/first" {
		t.Errorf("requests %q", r)
	}
	if list, _ := b.out().marks.begin(); len(list) != 0 {
		t.Errorf("still marked: %q", list)
	}
}

func TestLinksAreNeitherFollowedNorWatched(t *testing.T) {
	t.Parallel()
	store := newMemStore()
	b := watching(t, store, nil)
	outside := filepath.Join(b.dir, "outside")
	b.must(os.MkdirAll(outside, 0o755))
	b.must(os.WriteFile(filepath.Join(outside, "secret"), []byte("secret"), 0o600))
	b.write("out/a/f", "1")
	b.write("out/real/g", "2")
	b.look()
	for name, target := range map[string]string{"a": outside, "in": "real"} {
		b.must(os.RemoveAll(b.path("out/" + name)))
		b.must(os.Symlink(target, b.path("out/"+name)))
	}
	// Marks below what is a link by now.
	b.out().marks.touch([]byte("out/a/secret"))
	b.out().marks.touch([]byte("out/in/g"))
	b.look()
	b.must(os.WriteFile(filepath.Join(outside, "more"), []byte("secret"), 0o600))
	b.write("out/real/h", "3")
	b.look()
	want := map[string]string{"up/first": "first", "up/a/f": "1", "up/real/g": "2", "up/real/h": "3"}
	if diff := cmp.Diff(want, store.contents()); diff != "" {
		t.Error(diff)
	}
	if s := b.status(egress); s.Skipped != 2 {
		t.Errorf("skipped %d, want 2", s.Skipped)
	}
	if diff := cmp.Diff([]string{"out/first", "out/real/g", "out/real/h"}, b.recorded()); diff != "" {
		t.Error(diff)
	}
}

func TestSkippedAndRefusedAreCountedRight(t *testing.T) {
	t.Parallel()
	b := watching(t, newMemStore(), nil)
	check := func(skipped, refused int64) {
		t.Helper()
		for _, all := range []bool{false, true} {
			if err := b.engine.ask(t.Context(), groupKey{testWorkload, egress}, ask{full: all}); err != nil {
				t.Fatal(err)
			}
			if s := b.status(egress); s.Skipped != skipped || s.Refused != refused {
				t.Errorf("skipped %d and refused %d, want %d and %d (all: %v)", s.Skipped, s.Refused, skipped, refused, all)
			}
		}
	}
	check(0, 0)
	b.must(os.Symlink("first", b.path("out/l")))
	b.write("out/bad\xff", "1")
	b.write("out/d/bad\xff", "2")
	check(1, 2)
	b.must(os.Remove(b.path("out/l")))
	b.must(unix.Mkfifo(b.path("out/l"), 0o600))
	check(1, 2)
	b.must(os.Rename(b.path("out/d"), b.path("out/e")))
	check(1, 2)
	b.must(os.RemoveAll(b.path("out/e")))
	check(1, 1)
	b.must(os.Remove(b.path("out/l")))
	b.write("out/l", "a file")
	b.must(os.Remove(b.path("out/bad\xff")))
	check(0, 0)
}

func TestFilesThatAreGoneAreForgotten(t *testing.T) {
	t.Parallel()
	b := watching(t, newMemStore(), nil)
	for i := range 50 {
		b.write(fmt.Sprintf("out/a/b/f%d", i), "x")
		b.write(fmt.Sprintf("out/a-b/f%d", i), "x")
	}
	b.look()
	if n := len(b.recorded()); n != 101 {
		t.Fatalf("%d records", n)
	}
	b.must(os.RemoveAll(b.path("out/a")))
	b.must(os.Remove(b.path("out/first")))
	b.look()
	if names := b.recorded(); len(names) != 50 || !strings.HasPrefix(names[0], "out/a-b/") {
		t.Errorf("%d records: %.200q", len(names), names)
	}
	g := b.engine.groups[groupKey{testWorkload, egress}]
	if n := g.index.count(routeID(testWorkload, egress, g.storeID, g.routes[0])); n != 50 {
		t.Errorf("counted %d", n)
	}
}

func TestFailuresStayMarked(t *testing.T) {
	t.Parallel()
	store := newMemStore()
	b := watching(t, store, nil)
	store.setFault(func(_, key string) error {
		if key == "up/f" {
			return fmt.Errorf("put: %w", s3.ErrRefused)
		}
		return nil
	})
	b.write("out/f", "1")
	if err := b.engine.ask(t.Context(), groupKey{testWorkload, egress}, ask{}); err == nil {
		t.Error("no error")
	}
	if s := b.status(egress); s.Failed != 1 {
		t.Errorf("status %+v", s)
	}
	store.setFault(nil)
	b.look()
	if got := store.contents()["up/f"]; got != "1" {
		t.Errorf("object %q", got)
	}
}

func TestWhileTheStoreIsDownOnlyMarksAreLookedAt(t *testing.T) {
	t.Parallel()
	store := newMemStore()
	b := watching(t, store, nil)
	down := func(op, _ string) error { return fmt.Errorf("%s: %w", op, s3.ErrUnavailable) }
	store.setFault(down)
	for i := range 100 {
		b.write(fmt.Sprintf("out/d%d/f%d", i%7, i), "x")
	}
	b.out().marks.touchAll()
	for range 3 {
		if err := b.engine.ask(t.Context(), groupKey{testWorkload, egress}, ask{}); err == nil {
			t.Error("no error")
		}
	}
	if b.out().marks.everything() {
		t.Error("a walk is made again and again")
	}
	// What failed while the cycle was given up may still be seen as waiting.
	if s := b.status(egress); s.Pending+s.Failed < 100 || s.Pending+s.Failed > 100+defaultTransfers {
		t.Errorf("%d pending, %d failed", s.Pending, s.Failed)
	}
	store.setFault(nil)
	b.look()
	if n := len(store.contents()); n != 101 {
		t.Errorf("%d objects", n)
	}
}

func TestChangeWhileItIsSentStaysMarked(t *testing.T) {
	t.Parallel()
	store := newMemStore()
	b := watching(t, store, nil)
	var times atomic.Int32
	store.arrived = func(string) {
		if times.Add(1) == 1 {
			b.write("out/f", "second")
		}
	}
	b.write("out/f", "first one")
	b.look()
	b.look()
	if got := store.contents()["up/f"]; got != "second" {
		t.Errorf("object %q", got)
	}
}

func TestHardLinksAreFoundSoon(t *testing.T) {
	t.Parallel()
	b := watching(t, newMemStore(), nil)
	b.must(os.Link(b.path("out/first"), b.path("out/second")))
	b.look()
	if soon := time.Until(b.out().next); soon > linkedWalk {
		t.Errorf("everything is looked at in %v", soon)
	}
}

// TestRandomChangesAreNotified does random things and compares what a cycle over
// the marks leaves with what a walk finds.
func TestRandomChangesAreNotified(t *testing.T) {
	t.Parallel()
	for seed := range uint64(4) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			store := newMemStore()
			b := watching(t, store, nil)
			random := rand.New(rand.NewPCG(seed, 7))
			for step := range 400 {
				what := b.randomStep(random)
				if random.IntN(3) != 0 {
					continue
				}
				_ = b.engine.ask(t.Context(), groupKey{testWorkload, egress}, ask{})
				got := store.contents()
				for name, data := range b.files("out") {
					if got["up/"+name] != data {
						t.Fatalf("step %d, after %s: object %s is %q, want %q", step, what, name, got["up/"+name], data)
					}
				}
				if random.IntN(8) == 0 {
					before := b.recorded()
					b.mustSync(egress)
					if diff := cmp.Diff(b.recorded(), before); diff != "" {
						t.Fatalf("step %d, after %s: records %s", step, what, diff)
					}
				}
			}
		})
	}
}

func (b *bench) randomStep(random *rand.Rand) string {
	name := func() string {
		parts := []string{"out"}
		for range 1 + random.IntN(3) {
			parts = append(parts, string(rune('a'+random.IntN(3))))
		}
		return strings.Join(parts, "/")
	}
	switch from, to := name(), name(); random.IntN(8) {
	case 0:
		_ = os.RemoveAll(b.path(from))
		return "removal of " + from
	case 1, 2:
		_ = os.MkdirAll(filepath.Dir(b.path(to)), 0o755)
		_ = os.Rename(b.path(from), b.path(to))
		return "rename of " + from + " to " + to
	case 3:
		_ = os.Symlink("a", b.path(from))
		return "link " + from
	case 4:
		_ = os.MkdirAll(b.path(from), 0o755)
		return "folder " + from
	case 5:
		_ = os.MkdirAll(b.path("elsewhere"), 0o755)
		_ = os.Rename(b.path(from), b.path("elsewhere/x"))
		_ = os.Rename(b.path("elsewhere/x"), b.path(to))
		return "detour of " + from + " to " + to
	default:
		_ = os.MkdirAll(filepath.Dir(b.path(from)), 0o755)
		_ = os.WriteFile(b.path(from), fmt.Append(nil, random.IntN(1000)), 0o644)
		return "write of " + from
	}
}
