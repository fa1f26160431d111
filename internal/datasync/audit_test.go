package datasync

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/project-flotta/flotta-agent/internal/datasync/s3"
)

// unsorted is a store that lists in the opposite order of the keys.
type unsorted struct{ *memStore }

func (u unsorted) List(ctx context.Context, prefix string, page func([]s3.Object) error) error {
	var all []s3.Object
	err := u.memStore.List(ctx, prefix, func(p []s3.Object) error {
		all = append(all, p...)
		return nil
	})
	slices.Reverse(all)
	for chunk := range slices.Chunk(all, 4) {
		if err == nil {
			err = page(chunk)
		}
	}
	return err
}

func TestAuditSendsAgainWhatVanished(t *testing.T) {
	t.Parallel()
	for _, order := range []string{"sorted", "unsorted"} {
		t.Run(order, func(t *testing.T) {
			t.Parallel()
			mem := newMemStore()
			var store Store = mem
			if order == "unsorted" {
				store = unsorted{mem}
			}
			b := watching(t, store, nil)
			for i := range 40 {
				b.write(fmt.Sprintf("out/d%d/f%02d", i%3, i), fmt.Sprint(i))
			}
			b.write("out/a-b", "1")
			b.write("out/a/b", "2") // between these two keys sort unlike names
			b.mustSync(egress)
			b.mustSync(egress)
			want := mem.contents()
			// Nothing is missing.
			mem.taken()
			if n, err := b.engine.Audit(t.Context(), testWorkload); n != 0 || err != nil {
				t.Fatalf("found %d (err %v)", n, err)
			}
			for _, r := range mem.taken() {
				if !strings.HasPrefix(r, "List") {
					t.Errorf("request %s", r)
				}
			}
			mem.remove("up/d0/f00")
			mem.remove("up/d2/f38")
			mem.remove("up/a-b")
			mem.remove("up/first")
			mem.set("up/d1/f01", []byte("foreign"), s3.Upload{})
			mem.set("up/d1/f04", []byte("5"), s3.Upload{}) // of the same size
			mem.set("up/d1/foreign", []byte("stays"), s3.Upload{})
			mem.set("up/zzz", []byte("stays"), s3.Upload{})
			want["up/d1/foreign"], want["up/zzz"] = "stays", "stays"
			b.look() // notices nothing
			if n, err := b.engine.Audit(t.Context(), testWorkload); n != 6 || err != nil {
				t.Errorf("found %d, want 6 (err %v)", n, err)
			}
			if diff := cmp.Diff(want, mem.contents()); diff != "" {
				t.Error(diff)
			}
			if b.reported(reasonMissing, "6 objects") != 1 {
				t.Error("not reported")
			}
			b.mustSync(egress)
			mem.taken()
			if n, err := b.engine.Audit(t.Context(), testWorkload); n != 0 || err != nil {
				t.Errorf("found %d once more (err %v)", n, err)
			}
		})
	}
}

func TestAuditOfAnotherETagSendsNothing(t *testing.T) {
	t.Parallel()
	store := newMemStore()
	b := watching(t, store, nil)
	// The bucket was copied, and the copy was made in parts.
	store.mu.Lock()
	o := store.objects["up/first"]
	o.ETag = "0123456789abcdef0123456789abcdef-1"
	store.objects["up/first"] = o
	store.mu.Unlock()
	store.taken()
	if n, err := b.engine.Audit(t.Context(), testWorkload); n != 1 || err != nil {
		t.Errorf("found %d (err %v)", n, err)
	}
	for _, r := range store.taken() {
		if strings.HasPrefix(r, "Put") {
			t.Error(r)
		}
	}
	if n, err := b.engine.Audit(t.Context(), testWorkload); n != 0 || err != nil {
		t.Errorf("found %d once more (err %v)", n, err)
	}
}

func TestAuditThatFailsChangesNothing(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]error{"denied": s3.ErrDenied, "down": s3.ErrUnavailable} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			store := newMemStore()
			b := watching(t, store, nil)
			for i := range 20 {
				b.write(fmt.Sprintf("out/f%02d", i), "x")
			}
			b.mustSync(egress)
			b.mustSync(egress)
			before := b.recorded()
			store.remove("up/f03")
			pages := 0
			store.setFault(func(op, _ string) error {
				if op != "List" {
					return nil
				}
				if pages++; pages > 4 {
					return fmt.Errorf("list: %w", fault)
				}
				return nil
			})
			store.taken()
			if _, err := b.engine.Audit(t.Context(), testWorkload); !errors.Is(err, fault) {
				t.Errorf("err %v", err)
			}
			for _, r := range store.taken() {
				if !strings.HasPrefix(r, "List") {
					t.Errorf("request %s", r)
				}
			}
			if diff := cmp.Diff(before, b.recorded()); diff != "" {
				t.Error(diff)
			}
			store.setFault(nil)
			b.mustSync(egress)
			if n, err := b.engine.Audit(t.Context(), testWorkload); n != 1 || err != nil {
				t.Errorf("found %d (err %v)", n, err)
			}
		})
	}
}

func TestAuditOfASingleFile(t *testing.T) {
	t.Parallel()
	store := newMemStore()
	told := paths(up(), nil)
	told.workloads[0].Data.Egress[0].Source = "out/one"
	b := newBench(t, store, told, func(c *Config) { c.Audit = -1 })
	b.write("out/one", "1")
	b.mustSync(egress)
	b.mustSync(egress)
	store.set("up/other", []byte("foreign"), s3.Upload{})
	for range 2 {
		if n, err := b.engine.Audit(t.Context(), testWorkload); n != 0 || err != nil {
			t.Errorf("found %d (err %v)", n, err)
		}
	}
	store.remove("up/one")
	if n, err := b.engine.Audit(t.Context(), testWorkload); n != 1 || err != nil || store.contents()["up/one"] != "1" {
		t.Errorf("found %d (err %v)", n, err)
	}
}

func TestAuditOfMoreThanABatch(t *testing.T) {
	t.Parallel()
	store := newMemStore()
	store.page = 1000
	b := watching(t, store, nil)
	const n = auditBatch + 500
	for i := range n {
		b.write(fmt.Sprintf("out/%d/f%d", i%10, i), "")
	}
	b.mustSync(egress)
	want := store.contents()
	for key := range want {
		store.remove(key)
	}
	if got, err := b.engine.Audit(t.Context(), testWorkload); got != n+1 || err != nil {
		t.Errorf("found %d, want %d (err %v)", got, n+1, err)
	}
	if got := store.contents(); len(got) != len(want) {
		t.Errorf("%d objects, want %d", len(got), len(want))
	}
}

func TestAuditComesByItself(t *testing.T) {
	t.Parallel()
	store := newMemStore()
	b := newBench(t, store, paths(up(), nil), func(c *Config) {
		c.Interval, c.Walk, c.Audit = 20*time.Millisecond, 24*time.Hour, 24*time.Hour
	})
	b.write("out/f", "1")
	b.mustSync(egress)
	b.mustSync(egress)
	id := ""
	withIndex := func(f func(ix *index)) {
		b.stop()
		ix, err := tryIndex(b.engine.cfg.IndexPath)
		b.must(err)
		for id = range ix.counts {
			break
		}
		f(ix)
		b.must(ix.close())
	}
	var first time.Time
	withIndex(func(ix *index) {
		if at := ix.audited(id); time.Since(at) < 0 || time.Since(at) > 25*time.Hour {
			t.Errorf("the first audit counts from %v", at)
		}
		first = time.Now().Add(-time.Hour).Truncate(time.Second) // so that none is due by chance
		b.must(ix.setAudited(id, first))
	})
	// A restart does not reset it.
	b.start(b.engine.cfg)
	b.mustSync(egress)
	store.remove("up/f")
	withIndex(func(ix *index) {
		if again := ix.audited(id); !again.Equal(first) {
			t.Errorf("after a restart it counts from %v", again)
		}
		// The file was sent a while ago, and the audit is due.
		names, err := ix.paths(id, "", 10)
		b.must(err)
		var rec record
		b.must(ix.view(id, func(v indexView) error {
			rec, _ = v.record(names[0])
			return nil
		}))
		rec.When -= 3600
		b.must(ix.put(id, map[string]record{names[0]: rec}, time.Time{}))
		b.must(ix.setAudited(id, time.Now().Add(-48*time.Hour)))
	})
	b.start(b.engine.cfg)
	eventually(t, "the file is sent again", func() bool { return store.contents()["up/f"] == "1" })
	withIndex(func(ix *index) {
		if at := ix.audited(id); time.Since(at) > time.Minute {
			t.Errorf("audited at %v", at)
		}
	})
}
