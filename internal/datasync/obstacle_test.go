package datasync

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/project-flotta/flotta-agent/internal/datasync/s3"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// TestFIFOInTheFoldersPlace: to open a FIFO ends when somebody writes to it.
func TestFIFOInTheFoldersPlace(t *testing.T) {
	t.Parallel()
	store := newMemStore()
	b := newBench(t, store, paths(nil, down()), nil)
	b.must(os.MkdirAll(b.path("in"), 0o755))
	b.must(unix.Mkfifo(b.path("in/sub"), 0o666))
	store.set("down/sub/x", []byte("x"), s3.Upload{})
	store.set("down/sub/deep/y", []byte("y"), s3.Upload{})
	store.set("down/z", []byte("z"), s3.Upload{})
	_ = b.sync(ingress)
	if s := b.status(ingress); s.Refused != 2 || b.read("in/z") != "z" {
		t.Errorf("status %+v", s)
	}
	b.must(os.Remove(b.path("in/sub")))
	b.retryNow()
	b.mustSync(ingress)
	if b.read("in/sub/x") != "x" {
		t.Error("not downloaded when the way was free")
	}
}

// TestWhatIsInTheWayIsNotFoundOutInEveryCycle: objects that a file of the workload
// keeps out are not asked for again and again.
func TestWhatIsInTheWayIsNotFoundOutInEveryCycle(t *testing.T) {
	t.Parallel()
	store := newMemStore()
	b := newBench(t, store, paths(nil, down()), nil)
	b.mustSync(ingress)
	b.write("in/a", "a file")
	for i := range 20 {
		store.set(fmt.Sprint("down/a/", i), []byte("x"), s3.Upload{})
	}
	for range 5 {
		_ = b.sync(ingress)
	}
	gets := slices.DeleteFunc(store.taken(), func(r string) bool { return !strings.HasPrefix(r, "Get") })
	if len(gets) != 0 {
		t.Errorf("%d downloads in vain", len(gets))
	}
	if s := b.status(ingress); s.Refused != 20 {
		t.Errorf("status %+v", s)
	}
	// What has to be kept aside finds a folder in its place.
	b.write("in/c", "mine")
	b.must(os.MkdirAll(b.path("in/c"+asideSuffix+"/x"), 0o755))
	store.set("down/c", []byte("theirs"), s3.Upload{})
	for range 8 {
		_ = b.sync(ingress)
	}
	gets = slices.DeleteFunc(store.taken(), func(r string) bool { return !strings.HasPrefix(r, "Get") })
	if len(gets) > 3 {
		t.Errorf("%d downloads in eight cycles", len(gets))
	}
}

// TestDeniedFilesKeepNobodyWaiting: some objects of a bucket may be out of reach
// for good, such as archived ones.
func TestDeniedFilesKeepNobodyWaiting(t *testing.T) {
	t.Parallel()
	store := newMemStore()
	store.setFault(func(op, key string) error {
		if op == "Get" && strings.Contains(key, "archived") {
			return s3.ErrDenied
		}
		return nil
	})
	for i := range 30 {
		store.set(fmt.Sprint("down/archived-", i), nil, s3.Upload{}) // smaller ones go first
	}
	store.set("down/good", []byte("good"), s3.Upload{})
	b := newBench(t, store, paths(nil, down()), nil)
	for range 20 {
		_ = b.sync(ingress)
	}
	if _, err := os.Stat(b.path("in/good")); err != nil {
		t.Errorf("never downloaded: %v", err)
	}
}

// TestDeniedPrefixKeepsNoOtherWaiting is the same with a whole data path.
func TestDeniedPrefixKeepsNoOtherWaiting(t *testing.T) {
	t.Parallel()
	store := newMemStore()
	store.setFault(func(op, key string) error {
		if (op == "List" || op == "Put") && strings.HasPrefix(key, "secret") {
			return s3.ErrDenied
		}
		return nil
	})
	b := newBench(t, store, paths(
		[]protocol.DataPath{{Source: "a", Target: "secret"}, {Source: "b", Target: "open"}},
		[]protocol.DataPath{{Source: "secret", Target: "in"}, {Source: "down", Target: "in2"}},
	), nil)
	store.set("down/x", []byte("x"), s3.Upload{})
	for i := range 20 {
		b.write(fmt.Sprint("a/f", i), "")
	}
	b.write("b/x", "x")
	for range 3 {
		_, _ = b.sync(egress), b.sync(ingress)
	}
	if store.contents()["open/x"] != "x" {
		t.Error("nothing was sent by the other path")
	}
	if _, err := os.Stat(b.path("in2/x")); err != nil {
		t.Errorf("nothing was downloaded by the other path: %v", err)
	}
	if b.status(ingress).LastError == "" {
		t.Error("the denial is not told")
	}
}

// TestEqualFileIsNotKeptAside: after a lost index, or under a new name of the
// store, nothing says that a file is what was downloaded, but its content.
func TestEqualFileIsNotKeptAside(t *testing.T) {
	t.Parallel()
	store := newMemStore()
	b := newBench(t, store, paths(nil, down()), nil)
	store.set("down/f", []byte("content"), s3.Upload{})
	store.blur("down/f")
	b.mustSync(ingress)
	b.stop()
	b.must(os.Remove(b.engine.cfg.IndexPath))
	b.start(b.engine.cfg)
	b.mustSync(ingress)
	if got := b.files("in"); len(got) != 1 || got["f"] != "content" {
		t.Errorf("files %v", got)
	}
}

// blur takes away what tells the content of an object without a download, as with
// what other tools have uploaded in parts.
func (m *memStore) blur(key string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	o := m.objects[key]
	o.ETag, o.SHA256 = "0123-2", nil
	m.objects[key] = o
}

// TestHintDoesNotOutliveAnUpload: what a listing said of an object is not true any
// more when the object was replaced, whatever became of the record.
func TestHintDoesNotOutliveAnUpload(t *testing.T) {
	t.Parallel()
	store := newMemStore()
	b := newBench(t, store, paths(up(), nil), nil)
	store.set("up/f", []byte("ok"), s3.Upload{})
	b.write("out/f", "ok")
	store.setFault(func(op, key string) error { // so that there is always something left to do
		if op == "Put" && key == "up/bad" {
			return errors.New("no")
		}
		return nil
	})
	b.write("out/bad", "bad")
	_ = b.sync(egress)
	b.write("out/f", "no")
	_ = b.sync(egress)
	if got := store.contents()["up/f"]; got != "no" {
		t.Fatalf("object is %q", got)
	}
	b.must(os.Remove(b.path("out/f")))
	_ = b.sync(egress)
	b.write("out/f", "ok")
	_ = b.sync(egress)
	if got := store.contents()["up/f"]; got != "ok" {
		t.Errorf("object is %q", got)
	}
}

// TestWritesThroughAMapping: a page that is dirty already is written to without
// any time of the file showing it.
func TestWritesThroughAMapping(t *testing.T) {
	t.Parallel()
	store := newMemStore()
	b := newBench(t, store, paths(up(), nil), nil)
	b.write("out/f", strings.Repeat("-", 4096))
	b.mustSync(egress)
	f, err := os.OpenFile(b.path("out/f"), os.O_RDWR, 0)
	b.must(err)
	page, err := unix.Mmap(int(f.Fd()), 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	b.must(err)
	b.must(f.Close())
	page[0] = 'a'
	time.Sleep(2 * clockTick) // beyond doubt, as far as times can tell
	b.must(b.engine.ask(t.Context(), groupKey{testWorkload, egress}, ask{full: true, hurry: true}))
	if got := store.contents()["up/f"]; got[0] != 'a' {
		t.Fatalf("object begins with %q", got[:1])
	}
	page[0] = 'b'
	b.must(unix.Munmap(page))
	b.mustSync(egress)
	if got := store.contents()["up/f"]; got[0] != 'b' {
		t.Errorf("object begins with %q", got[:1])
	}
}

// TestObjectThatChangesWhileItIsDownloaded: the download of a version goes on when
// there is a newer one, or an object that changes often would never arrive.
func TestObjectThatChangesWhileItIsDownloaded(t *testing.T) {
	t.Parallel()
	b, store, data := bigBench(t)
	store.set(func(int64) (int64, error) { return 4 << 20, errLine })
	_ = b.sync(ingress)
	before := b.temps()
	if b.unfinished() != 1 || len(before) != 1 {
		t.Fatalf("nothing to go on with: %v", before)
	}
	b.engine.mu.Lock()
	g := b.engine.groups[groupKey{testWorkload, ingress}]
	b.engine.mu.Unlock()
	done := g.inflow.write(strings.TrimPrefix(before[0], b.path("")+"/"))
	newer := slices.Clone(data)
	newer[0]++
	store.memStore.set("down/dir/big", newer, s3.Upload{})
	store.set(func(int64) (int64, error) { return -1, nil })
	b.retryNow()
	b.mustSync(ingress)
	if after := b.temps(); !slices.Equal(before, after) {
		t.Errorf("temporary files %v, and then %v", before, after)
	}
	done()
	b.mustSync(ingress)
	b.wantDownloaded(newer)
}

func TestRetriesMakeRoom(t *testing.T) {
	t.Parallel()
	r := retries{items: map[string]retry{}}
	now := time.Now()
	for i := range 2 * maxRetryItems {
		r.failed(fmt.Sprint(i), now, errors.New("no"))
	}
	if len(r.items) != maxRetryItems {
		t.Errorf("%d items", len(r.items))
	}
	last := fmt.Sprint(2*maxRetryItems - 1)
	r.failed(last, now, errors.New("no"))
	if r.due(last, now) {
		t.Error("the newest one is tried in every cycle")
	}
	if r.damaged("another", [32]byte{1}) || !r.damaged("another", [32]byte{1}) {
		t.Error("damaged content is taken at once, or never")
	}
}

// TestCutsAreNoChanges: a file whose upload is cut again and again stays one that
// is continued, with a digest of the whole.
func TestCutsAreNoChanges(t *testing.T) {
	t.Parallel()
	r := retries{items: map[string]retry{}}
	for range 2 * maxUnstable {
		r.failed("f", time.Now(), s3.ErrUnavailable)
	}
	if n := r.changes("f"); n != 0 {
		t.Errorf("%d changes", n)
	}
	for range maxUnstable {
		r.failed("f", time.Now(), errChanged)
	}
	if n := r.changes("f"); n != maxUnstable {
		t.Errorf("%d changes", n)
	}
}
