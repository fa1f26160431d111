package datasync

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/project-flotta/flotta-agent/internal/datasync/s3"
)

func TestIngressDownloadsWhatChanged(t *testing.T) {
	t.Parallel()
	store := newMemStore()
	b := newBench(t, store, paths(nil, down()), nil)
	want := map[string]string{}
	for i, name := range append([]string{"empty"}, oddNames...) {
		data := strings.Repeat("x", i)
		store.set("down/"+name, []byte(data), s3.Upload{Mode: 0o4755, MTime: time.Unix(1600000000, 5)})
		want[name] = data
	}
	store.set("elsewhere", []byte("not wanted"), s3.Upload{})
	store.set("down/marker/", nil, s3.Upload{})
	b.mustSync(ingress)
	if diff := cmp.Diff(want, b.files("in")); diff != "" {
		t.Fatal(diff)
	}
	info, err := os.Stat(b.path("in/plain.txt"))
	if err != nil || info.Mode() != 0o755 || info.ModTime().UnixNano() != 1600000000e9+5 {
		t.Errorf("mode %v, time %v, err %v", info.Mode(), info.ModTime(), err)
	}
	store.taken()
	b.mustSync(ingress)
	for _, r := range store.taken() {
		if !strings.HasPrefix(r, "List") {
			t.Errorf("an idle cycle requests %q", r)
		}
	}
	store.set("down/plain.txt", []byte("changed"), s3.Upload{})
	store.remove("down/100%")
	b.mustSync(ingress)
	want["plain.txt"] = "changed"
	if diff := cmp.Diff(want, b.files("in")); diff != "" {
		t.Error(diff)
	}
	if err := os.Remove(b.path("in/plain.txt")); err != nil {
		t.Fatal(err)
	}
	b.mustSync(ingress)
	if got := b.read("in/plain.txt"); got != "changed" {
		t.Errorf("a removed file comes back as %q", got)
	}
}

func TestIngressKeepsWhatTheWorkloadWrote(t *testing.T) {
	t.Parallel()
	store := newMemStore()
	b := newBench(t, store, paths(nil, down()), nil)
	store.set("down/f", []byte("remote 1"), s3.Upload{})
	b.mustSync(ingress)
	b.write("in/f", "local")
	b.mustSync(ingress)
	if got := b.read("in/f"); got != "local" {
		t.Fatalf("an unchanged object replaced the file by %q", got)
	}
	store.set("down/f", []byte("remote 2"), s3.Upload{})
	b.mustSync(ingress)
	b.mustSync(ingress)
	want := map[string]string{"f": "remote 2", "f.flotta-local": "local"}
	if diff := cmp.Diff(want, b.files("in")); diff != "" {
		t.Error(diff)
	}
	if b.reported(reasonFileKept, "in/f") != 1 {
		t.Error("not reported once")
	}
	// Touched is not changed.
	if err := os.Chtimes(b.path("in/f"), time.Now(), time.Now()); err != nil {
		t.Fatal(err)
	}
	store.set("down/f", []byte("remote 3"), s3.Upload{})
	b.mustSync(ingress)
	want["f"] = "remote 3"
	if diff := cmp.Diff(want, b.files("in")); diff != "" {
		t.Error(diff)
	}
}

func TestIngressRefusesKeys(t *testing.T) {
	t.Parallel()
	store := newMemStore()
	b := newBench(t, store, paths(nil, down()), nil)
	bad := []string{
		"down/../../escape", "down/..", "down/a/../b", "down/./x", "down//abs", "down/a//b", "down/nul\x00x",
		"down/" + strings.Repeat("n", 256), "down/" + strings.Repeat("long/", 250), "down/x\xff",
		"down/.flotta-0123456789abcdef", "down/f/below", "down/f/be/low",
		"down/folder/", "down/a/..", "down/esc\x1b", "down/a/.flotta-0123456789abcdef/x", "down/" + strings.Repeat("k/", 510),
	}
	for _, key := range bad {
		store.set(key, []byte("bad"), s3.Upload{})
	}
	store.set("down/f", []byte("good"), s3.Upload{})
	store.set("down/f.x", []byte("good"), s3.Upload{})
	store.set("down/ok/f", []byte("good"), s3.Upload{})
	for _, name := range []string{strings.Repeat("n", 255), strings.Repeat("k/", 509) + "x"} {
		store.set("down/"+name, []byte("good"), s3.Upload{})
	}
	for range 2 {
		b.mustSync(ingress)
	}
	longName, longKey := strings.Repeat("n", 255), strings.Repeat("k/", 509)+"x"
	want := map[string]string{"f": "good", "f.x": "good", "ok/f": "good", longName: "good", longKey: "good"}
	if diff := cmp.Diff(want, b.files("in")); diff != "" {
		t.Error(diff)
	}
	if s := b.status(ingress); s.Refused != int64(len(bad)) {
		t.Errorf("refused %d, want %d", s.Refused, len(bad))
	}
	if n := b.reported(reasonObjectRefused, ""); n != min(len(bad), maxReports+1) {
		t.Errorf("reported %d of %d", n, len(bad))
	}
	if _, err := os.Lstat(filepath.Join(b.dir, "escape")); err == nil {
		t.Error("a key escaped")
	}
}

func TestIngressStaysInTheVolume(t *testing.T) {
	t.Parallel()
	store := newMemStore()
	b := newBench(t, store, paths(nil, down()), nil)
	outside := filepath.Join(b.dir, "outside")
	if err := os.MkdirAll(outside, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(outside, "victim"), []byte("victim"), 0o644); err != nil {
		t.Fatal(err)
	}
	b.write("in/x", "")
	for name, target := range map[string]string{"dir": outside, "file": filepath.Join(outside, "victim"), "rel": "../../../outside"} {
		if err := os.Symlink(target, b.path("in/"+name)); err != nil {
			t.Fatal(err)
		}
	}
	b.write("in/folder/kept", "kept")
	for _, key := range []string{"dir/evil", "dir/sub/evil", "file", "rel/evil", "folder", "x/below"} {
		store.set("down/"+key, []byte("evil"), s3.Upload{})
	}
	store.set("down/good", []byte("good"), s3.Upload{})
	for range 2 {
		b.mustSync(ingress)
	}
	if diff := cmp.Diff(map[string]string{"x": "", "good": "good", "folder/kept": "kept"}, b.files("in")); diff != "" {
		t.Error(diff)
	}
	left, err := os.ReadDir(outside)
	if err != nil || len(left) != 1 {
		t.Errorf("outside the volume: %v (err %v)", left, err)
	}
	if data, _ := os.ReadFile(filepath.Join(outside, "victim")); string(data) != "victim" {
		t.Errorf("a file outside the volume became %q", data)
	}
	if s := b.status(ingress); s.Refused != 6 {
		t.Errorf("refused %d, want 6", s.Refused)
	}
}

func TestIngressLeavesTheReserveFree(t *testing.T) {
	t.Parallel()
	store := newMemStore()
	store.set("down/f", []byte("data"), s3.Upload{})
	b := newBench(t, store, paths(nil, down()), func(c *Config) { c.ReserveBytes = 1 << 60 })
	for range 2 {
		if err := b.sync(ingress); err == nil {
			t.Error("no error")
		}
	}
	if s := b.status(ingress); s.Blocked == "" || s.Pending != 1 || len(b.files("in")) != 0 {
		t.Errorf("status: %+v", s)
	}
	if b.reported(reasonDiskFull, "") != 1 {
		t.Error("not reported once")
	}
	b.engine.space.mu.Lock()
	b.engine.space.reserve = -1
	b.engine.space.mu.Unlock()
	b.mustSync(ingress)
	if s := b.status(ingress); s.Blocked != "" || b.read("in/f") != "data" || b.reported(reasonDiskFreed, "") != 1 {
		t.Errorf("status: %+v", s)
	}
}

func TestIngressRemovesDownloadsOfDeadRuns(t *testing.T) {
	t.Parallel()
	store := newMemStore()
	b := newBench(t, store, paths(up(), down()), nil)
	b.write("in/sub/.flotta-0123456789abcdef", "half")
	b.write("out/.flotta-0123456789abcdef", "half")
	b.write("in/.flotta-mine", "the workload's own")
	b.restart()
	b.mustSync(ingress)
	b.mustSync(egress)
	if diff := cmp.Diff(map[string]string{".flotta-mine": "the workload's own"}, b.files("in")); diff != "" {
		t.Error(diff)
	}
	if got := store.contents(); len(got) != 0 {
		t.Errorf("sent %v", got)
	}
}

func TestIngressAcceptsForeignETagsAndRefusesDamage(t *testing.T) {
	t.Parallel()
	store := newMemStore()
	b := newBench(t, store, paths(nil, down()), nil)
	store.set("down/f", []byte("right"), s3.Upload{})
	right := store.objects["down/f"]
	damaged := right
	damaged.data = []byte("wrong")
	store.replace(damaged)
	if err := b.sync(ingress); err == nil || len(b.files("in")) != 0 {
		t.Errorf("damaged content was accepted: %v, %v", err, b.files("in"))
	}
	store.replace(right)
	b.mustSync(ingress)
	if got := b.read("in/f"); got != "right" {
		t.Errorf("got %q", got)
	}
	// An ETag that only looks like a digest comes with the same content twice.
	odd := right
	odd.data, odd.Size, odd.Key, odd.ETag = []byte("odd"), 3, "down/odd", strings.Repeat("ab", 16)
	store.replace(odd)
	_ = b.sync(ingress)
	b.mustSync(ingress)
	if got := b.read("in/odd"); got != "odd" {
		t.Errorf("got %q", got)
	}
}

func TestReaderSeesWholeFiles(t *testing.T) {
	t.Parallel()
	store := newMemStore()
	b := newBench(t, store, paths(nil, down()), nil)
	const size = 300_000
	store.set("down/f", []byte(strings.Repeat("0", size)), s3.Upload{})
	b.mustSync(ingress)
	done, stop := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
			}
			data, err := os.ReadFile(b.path("in/f"))
			if err != nil || len(data) != size || strings.Trim(string(data), string(data[0])) != "" {
				t.Errorf("a reader sees %d bytes (err %v)", len(data), err)
				return
			}
		}
	}()
	for i := range 30 {
		store.set("down/f", []byte(strings.Repeat(fmt.Sprint(i%10), size)), s3.Upload{})
		b.mustSync(ingress)
	}
	close(stop)
	<-done
	if got := b.files("in"); len(got) != 1 {
		t.Errorf("%d files", len(got))
	}
}

// TestReplacedAndKilledBeforeTheRecord has a file that came down while the index
// still knows the version before, which the object is again.
func TestReplacedAndKilledBeforeTheRecord(t *testing.T) {
	t.Parallel()
	store := newMemStore()
	store.set("down/f", []byte("a"), s3.Upload{})
	b := newBench(t, store, paths(nil, down()), nil)
	b.mustSync(ingress)
	b.stop()
	ix, err := openIndex(b.engine.cfg.IndexPath, b.engine.cfg.Log)
	if err != nil {
		t.Fatal(err)
	}
	// As far as a process gets that is killed before it records.
	for id := range ix.counts {
		if err := ix.doubt(id, slices.Values([]string{"in/f"})); err != nil {
			t.Error(err)
		}
	}
	if err := ix.close(); err != nil {
		t.Fatal(err)
	}
	b.write("in/f", "b")
	b.start(b.engine.cfg)
	b.mustSync(ingress)
	if got := b.read("in/f"); got != "a" {
		t.Errorf("file is %q", got)
	}
}
