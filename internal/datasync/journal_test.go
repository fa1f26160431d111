package datasync

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/project-flotta/flotta-agent/internal/datasync/s3"
)

// refuseAfter lets n parts through and then no more.
func refuseAfter(n int) func(op, key string) error {
	return func(op, _ string) error {
		if op == "Part" {
			if n--; n < 0 {
				return fmt.Errorf("part: %w", s3.ErrUnavailable)
			}
		}
		return nil
	}
}

func parts(requests []string) (n int) {
	for _, r := range requests {
		if strings.HasPrefix(r, "Part ") {
			n++
		}
	}
	return n
}

func TestLargeUploadGoesOnAfterRestart(t *testing.T) {
	t.Parallel()
	store := newMemStore()
	b := newBench(t, store, paths(up(), nil), nil)
	data := string(random(4*memPartBytes, 1))
	b.write("out/large", data)
	store.setFault(refuseAfter(3))
	if err := b.sync(egress); err == nil {
		t.Fatal("no error")
	}
	b.stop()
	store.setFault(nil)
	store.taken()
	b.restart()
	b.mustSync(egress)
	if n := parts(store.taken()); n != 1 {
		t.Errorf("%d parts travelled, want 1", n)
	}
	if store.contents()["up/large"] != data || len(store.unfinished()) > 0 {
		t.Errorf("other content, or unfinished uploads %q", store.unfinished())
	}
	if left := b.journal(); len(left) > 0 {
		t.Errorf("the journal keeps %q", left)
	}
}

// journal returns the paths in the journal of a stopped engine or a running one.
func (b *bench) journal() (names []string) {
	b.t.Helper()
	b.stop()
	ix, err := openIndex(filepath.Join(b.dir, "datasync.db"), b.engine.cfg.Log)
	if err != nil {
		b.t.Fatal(err)
	}
	defer ix.close() //nolint:errcheck // read only.
	all, err := ix.begunIn("store.invalid:443/bucket")
	if err != nil {
		b.t.Fatal(err)
	}
	for _, of := range all {
		for name := range of {
			names = append(names, name)
		}
	}
	return names
}

func TestUploadOfAChangedFileBeginsAnew(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(b *bench, data string) string{
		"content": func(b *bench, data string) string {
			b.write("out/large", "x"+data[1:])
			return "x" + data[1:]
		},
		"gone": func(b *bench, _ string) string {
			if err := os.Remove(b.path("out/large")); err != nil {
				b.t.Fatal(err)
			}
			return ""
		},
		"small": func(b *bench, _ string) string { b.write("out/large", "small"); return "small" },
		"link": func(b *bench, _ string) string {
			if err := errors.Join(os.Remove(b.path("out/large")), os.Symlink("/etc/passwd", b.path("out/large"))); err != nil {
				b.t.Fatal(err)
			}
			return ""
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			store := newMemStore()
			b := newBench(t, store, paths(up(), nil), nil)
			data := string(random(3*memPartBytes, 1))
			b.write("out/large", data)
			store.setFault(refuseAfter(2))
			if err := b.sync(egress); err == nil {
				t.Fatal("no error")
			}
			b.stop()
			store.setFault(nil)
			want := change(b, data)
			b.restart()
			b.mustSync(egress)
			if store.contents()["up/large"] != want || len(store.unfinished()) > 0 {
				t.Errorf("%d bytes, unfinished uploads %q", len(store.contents()["up/large"]), store.unfinished())
			}
			if left := b.journal(); len(left) > 0 {
				t.Errorf("the journal keeps %q", left)
			}
		})
	}
}

func TestFileThatChangesDuringItsLargeUpload(t *testing.T) {
	t.Parallel()
	store := newMemStore()
	b := newBench(t, store, paths(up(), nil), nil)
	data := string(random(3*memPartBytes, 1))
	b.write("out/large", data)
	n := 0
	store.setFault(func(op, _ string) error {
		if op == "Part" {
			if n++; n == 2 {
				b.write("out/large", data[1:]+"x")
				return fmt.Errorf("part: %w", s3.ErrUnavailable)
			}
		}
		return nil
	})
	_ = b.sync(egress)
	if left := store.unfinished(); len(left) > 0 {
		t.Errorf("left in the bucket: %q", left)
	}
	store.setFault(nil)
	b.mustSync(egress)
	if store.contents()["up/large"] != data[1:]+"x" {
		t.Error("other content")
	}
}

func TestUnfinishedUploadsAreTidiedUp(t *testing.T) {
	t.Parallel()
	store := newMemStore()
	old, young := time.Now().Add(-8*24*time.Hour), time.Now().Add(-6*24*time.Hour)
	store.uploads = map[string]*memUpload{}
	for id, u := range map[string]s3.Begun{
		"old":         {Key: "up/a", Since: old},
		"young":       {Key: "up/b", Since: young},
		"timeless":    {Key: "up/c"},
		"elsewhere":   {Key: "other/a", Since: old},
		"alike":       {Key: "upper", Since: old},
		"old as well": {Key: "up/deep/er", Since: old},
	} {
		u.ID = id
		store.uploads[id] = &memUpload{Begun: u}
	}
	b := newBench(t, store, paths(up(), nil), nil)
	b.write("out/f", "x")
	b.mustSync(egress)
	got := store.unfinished()
	slices.Sort(got)
	if diff := cmp.Diff([]string{"other/a", "up/b", "up/c", "upper"}, got); diff != "" {
		t.Error(diff)
	}
}

// aborted makes a store with one unfinished upload of an engine that was stopped,
// and returns what was aborted since.
func aborted(t *testing.T) (store *memStore, b *bench, ids func() []string) {
	t.Helper()
	store = newMemStore()
	b = newBench(t, store, paths(up(), nil), nil)
	b.write("out/large", string(random(2*memPartBytes, 1)))
	store.setFault(refuseAfter(1))
	if err := b.sync(egress); err == nil {
		t.Fatal("no error")
	}
	b.stop()
	if n := len(store.unfinished()); n != 1 {
		t.Fatalf("%d unfinished", n)
	}
	var mu sync.Mutex
	var keys []string
	store.setFault(func(op, key string) error {
		mu.Lock()
		defer mu.Unlock()
		if op == "Abort" {
			keys = append(keys, key)
		}
		return nil
	})
	return store, b, func() []string {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(keys)
	}
}

func TestUnfinishedUploadsOfRoutesThatAreGone(t *testing.T) {
	t.Parallel()
	t.Run("another route", func(t *testing.T) {
		t.Parallel()
		store, b, ids := aborted(t)
		told := paths(up(), nil)
		told.workloads[0].Data.Egress[0].Target = "elsewhere"
		b.tell(told)
		b.restart()
		b.mustSync(egress)
		if got := ids(); !slices.Equal(got, []string{"up/large"}) || len(store.unfinished()) > 0 {
			t.Errorf("aborted %q, unfinished %q", got, store.unfinished())
		}
	})
	t.Run("a workload that the index forgot", func(t *testing.T) {
		t.Parallel()
		store, b, ids := aborted(t)
		ix, err := openIndex(filepath.Join(b.dir, "datasync.db"), b.engine.cfg.Log)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ix.forgetOthers(map[string]bool{}); err != nil || ix.close() != nil {
			t.Fatal(err)
		}
		b.restart()
		b.mustSync(egress)
		if got := ids(); !slices.Equal(got, []string{"up/large"}) || len(store.unfinished()) > 0 {
			t.Errorf("aborted %q, unfinished %q", got, store.unfinished())
		}
		if store.contents()["up/large"] == "" {
			t.Error("the file is not sent")
		}
	})
}

// TestTidyingIsAskedForOnce takes a store that does not let a device list uploads.
func TestTidyingIsAskedForOnce(t *testing.T) {
	t.Parallel()
	for _, refusal := range []error{s3.ErrDenied, s3.ErrRefused, s3.ErrNotFound} {
		store := newMemStore()
		asked := 0
		store.setFault(func(op, _ string) error {
			if op == "Uploads" {
				asked++
				return fmt.Errorf("list: %w", refusal)
			}
			return nil
		})
		b := newBench(t, store, paths(up(), nil), func(c *Config) { c.Walk = -1 })
		b.write("out/f", "x")
		for range 3 {
			b.mustSync(egress)
		}
		b.stop()
		if asked != 1 || len(b.events) > 0 {
			t.Errorf("%v: asked %d times, events %+v", refusal, asked, b.events)
		}
	}
}

func TestJournalEntriesSurvive(t *testing.T) {
	t.Parallel()
	u := begun{
		fingerprint: fingerprint{Size: 1 << 40, MTime: -5, CTime: 7, Inode: 1 << 63}, SHA256: [32]byte{1, 2},
		Key: strings.Repeat("k", 1024), Parts: s3.Parts{ID: "id", PartBytes: 5 << 30, Plain: true}, When: 1,
	}
	got, ok := decodeBegun(u.encode())
	if diff := cmp.Diff(u, got, cmp.AllowUnexported(begun{})); !ok || diff != "" {
		t.Errorf("ok %v: %s", ok, diff)
	}
	for i := range u.encode() {
		b := u.encode()
		b[i] ^= 0x10
		if _, ok := decodeBegun(b); ok {
			t.Errorf("a flipped bit in byte %d is not noticed", i)
		}
		if _, ok := decodeBegun(b[:i]); ok {
			t.Errorf("cut to %d bytes is not noticed", i)
		}
	}
}

func FuzzJournal(f *testing.F) {
	f.Add(begun{Key: "k", Parts: s3.Parts{ID: "u", PartBytes: 5 << 20}}.encode())
	f.Add(record{ETag: "e"}.encode())
	f.Add(hint{ETag: "e"}.encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		if u, ok := decodeBegun(b); ok {
			if again, ok := decodeBegun(u.encode()); !ok || again != u {
				t.Errorf("%+v became %+v", u, again)
			}
		}
		if r, ok := decodeRecord(b); ok {
			if again, ok := decodeRecord(r.encode()); !ok || again != r {
				t.Errorf("%+v became %+v", r, again)
			}
		}
		if h, ok := decodeHint(b); ok {
			if again, ok := decodeHint(h.encode()); !ok || again != h {
				t.Errorf("%+v became %+v", h, again)
			}
		}
	})
}
