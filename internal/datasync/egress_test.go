package datasync

import (
	"crypto/md5"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/project-flotta/flotta-agent/internal/datasync/s3"
)

func TestEgressSendsWhatChanged(t *testing.T) {
	t.Parallel()
	store := newMemStore()
	b := newBench(t, store, paths(up(), nil), nil)
	want := map[string]string{}
	for i, name := range append([]string{"empty"}, oddNames...) {
		data := strings.Repeat("x", i)
		b.write("out/"+name, data)
		want["up/"+name] = data
	}
	b.write("elsewhere", "not sent")
	b.mustSync(egress)
	if diff := cmp.Diff(want, store.contents()); diff != "" {
		t.Fatal(diff)
	}
	if s := b.status(egress); s.Files != int64(len(want)) || s.Pending != 0 || s.LastError != "" || s.LastSuccess.IsZero() {
		t.Errorf("status: %+v", s)
	}
	if up := b.engine.Status().LastUpload(testWorkload); time.Since(up) > time.Minute {
		t.Errorf("last upload %v", up)
	}
	b.mustSync(egress) // looks once more at what was written just before it was sent
	store.taken()
	b.mustSync(egress)
	if r := store.taken(); len(r) != 0 {
		t.Errorf("an idle cycle requests %q", r)
	}
	b.write("out/plain.txt", "changed")
	b.mustSync(egress)
	if diff := cmp.Diff([]string{"Put up/plain.txt"}, store.taken()); diff != "" {
		t.Error(diff)
	}
	if err := os.Remove(b.path("out/plain.txt")); err != nil {
		t.Fatal(err)
	}
	b.mustSync(egress)
	if r := store.taken(); len(r) != 0 || store.contents()["up/plain.txt"] != "changed" {
		t.Errorf("after a local removal: %q", r)
	}
}

func TestEgressComparesMoreThanSizeAndTime(t *testing.T) {
	t.Parallel()
	store := newMemStore()
	b := newBench(t, store, paths(up(), nil), nil)
	b.write("out/f", "one")
	b.mustSync(egress)
	old := time.Now().Add(-24 * time.Hour)
	b.write("out/f", "two") // the same size, and then an older time
	if err := os.Chtimes(b.path("out/f"), old, old); err != nil {
		t.Fatal(err)
	}
	b.mustSync(egress)
	if got := store.contents()["up/f"]; got != "two" {
		t.Fatalf("object is %q", got)
	}
	store.taken()
	if err := os.Chtimes(b.path("out/f"), time.Now(), time.Now()); err != nil {
		t.Fatal(err)
	}
	b.write("out/copy", "two")
	if err := os.Rename(b.path("out/copy"), b.path("out/f")); err != nil {
		t.Fatal(err)
	}
	b.mustSync(egress)
	if r := store.taken(); len(r) != 1 || r[0] != "Head up/f" {
		t.Errorf("equal content in a new file requests %q", r)
	}
}

func TestEgressNeverFollowsLinks(t *testing.T) {
	t.Parallel()
	store := newMemStore()
	b := newBench(t, store, paths(up(), nil), nil)
	b.write("out/real", "data")
	outside := filepath.Join(b.dir, "outside")
	if err := os.MkdirAll(outside, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(outside, "secret"), []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, target := range map[string]string{
		"shadow": "/etc/shadow", "up": "../../../outside/secret", "dir": outside, "inside": "real", "dangling": "nowhere",
	} {
		if err := os.Symlink(target, b.path("out/"+name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mkfifo(b.path("out/fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		b.mustSync(egress)
	}
	if diff := cmp.Diff(map[string]string{"up/real": "data"}, store.contents()); diff != "" {
		t.Error(diff)
	}
	if s := b.status(egress); s.Skipped != 6 {
		t.Errorf("skipped %d, want 6", s.Skipped)
	}
	if n := b.reported(reasonFileSkipped, "shadow"); n != 1 {
		t.Errorf("the link to shadow is reported %d times", n)
	}
}

func TestEgressSourceMayBeALinkOutOfTheVolume(t *testing.T) {
	t.Parallel()
	store := newMemStore()
	b := newBench(t, store, paths(up(), nil), nil)
	b.write("x", "")
	if err := os.Symlink("/etc", b.path("out")); err != nil {
		t.Fatal(err)
	}
	b.mustSync(egress)
	if got := store.contents(); len(got) != 0 {
		t.Fatalf("%d objects were made of /etc", len(got))
	}
	if b.reported(reasonFileSkipped, "out") != 1 {
		t.Error("not reported")
	}
}

func TestEgressFileThatChangesWhileItIsSent(t *testing.T) {
	t.Parallel()
	store := newMemStore()
	b := newBench(t, store, paths(up(), nil), nil)
	b.write("out/log", "begin")
	grow := true
	store.arrived = func(string) {
		if grow {
			f, err := os.OpenFile(b.path("out/log"), os.O_APPEND|os.O_WRONLY, 0)
			if err == nil {
				_, err = f.WriteString("+more")
			}
			if err != nil || f.Close() != nil {
				t.Error(err)
			}
		}
	}
	b.mustSync(egress)
	if got := store.contents()["up/log"]; got != "begin" {
		t.Errorf("first object %q", got)
	}
	if s := b.status(egress); s.Pending != 1 {
		t.Errorf("pending %d, want 1", s.Pending)
	}
	grow = false
	b.mustSync(egress)
	if got := store.contents()["up/log"]; got != "begin+more" {
		t.Errorf("second object %q", got)
	}
}

func TestEgressOneBadItemFailsAlone(t *testing.T) {
	t.Parallel()
	store := newMemStore()
	b := newBench(t, store, paths(up(), nil), nil)
	for i := range 20 {
		b.write(fmt.Sprintf("out/f%02d", i), "x")
	}
	store.setFault(func(_, key string) error {
		if key == "up/f07" {
			return fmt.Errorf("put: %w", s3.ErrRefused)
		}
		return nil
	})
	before := b.status(egress).LastSuccess
	if err := b.sync(egress); err == nil {
		t.Error("no error")
	}
	if n := len(store.contents()); n != 19 {
		t.Errorf("%d objects, want 19", n)
	}
	if s := b.status(egress); s.Failed != 1 || !strings.Contains(s.LastError, "f07") || !s.LastSuccess.Equal(before) {
		t.Errorf("status: %+v", s)
	}
	store.setFault(nil)
	b.mustSync(egress)
	if n := len(store.contents()); n != 20 {
		t.Errorf("%d objects, want 20", n)
	}
}

func TestEgressGivesUpOnAStoreThatIsDown(t *testing.T) {
	t.Parallel()
	store := newMemStore()
	b := newBench(t, store, paths(up(), nil), nil)
	for i := range 200 {
		b.write(fmt.Sprintf("out/f%03d", i), "x")
	}
	store.setFault(func(op, _ string) error {
		if op == "Put" {
			return fmt.Errorf("put: %w", s3.ErrUnavailable)
		}
		return nil
	})
	for range 2 {
		if err := b.sync(egress); err == nil {
			t.Error("no error")
		}
	}
	if n := len(store.taken()); n > 60 {
		t.Errorf("%d requests to a store that is down", n)
	}
	store.setFault(nil)
	b.mustSync(egress)
	if n := len(store.contents()); n != 200 {
		t.Errorf("%d objects, want 200", n)
	}
	if b.reported(reasonFailing, "") != 1 || b.reported(reasonRecovered, "") != 1 {
		t.Errorf("events: %+v", b.events)
	}
}

func TestLostIndexSendsNothingAgain(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(path string) error{
		"removed":   os.Remove,
		"garbage":   func(p string) error { return os.WriteFile(p, []byte(strings.Repeat("garbage", 9999)), 0o600) },
		"empty":     func(p string) error { return os.Truncate(p, 0) },
		"truncated": func(p string) error { return os.Truncate(p, 3*4096) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			store := newMemStore()
			b := newBench(t, store, paths(up(), down()), nil)
			for i := range 10 {
				b.write(fmt.Sprintf("out/f%d", i), strings.Repeat("x", i))
				store.set(fmt.Sprintf("down/f%d", i), []byte("y"), s3.Upload{})
			}
			b.mustSync(egress)
			b.mustSync(ingress)
			b.stop()
			if err := spoil(filepath.Join(b.dir, "datasync.db")); err != nil {
				t.Fatal(err)
			}
			b.write("out/f3", "zzz") // changed meanwhile, in place and in size alike
			store.taken()
			b.restart()
			b.mustSync(egress)
			b.mustSync(ingress)
			for _, r := range store.taken() {
				if strings.HasPrefix(r, "Get") || strings.HasPrefix(r, "Put") && r != "Put up/f3" {
					t.Errorf("%s", r)
				}
			}
			if got := store.contents()["up/f3"]; got != "zzz" {
				t.Errorf("changed file arrived as %q", got)
			}
		})
	}
}

func TestEgressSingleFileAndWholeVolume(t *testing.T) {
	t.Parallel()
	store := newMemStore()
	told := paths(up(), nil)
	told.workloads[0].Data.Egress[0].Source = "out/one.txt"
	b := newBench(t, store, told, nil)
	b.write("out/one.txt", "1")
	b.write("out/two.txt", "2")
	b.mustSync(egress)
	if diff := cmp.Diff(map[string]string{"up/one.txt": "1"}, store.contents()); diff != "" {
		t.Error(diff)
	}
	told.workloads[0].Data.Egress[0].Source = "./"
	told.workloads[0].Data.Egress[0].Target = ""
	b.tell(told)
	eventually(t, "the whole volume is sent", func() bool {
		return len(store.contents()) == 3
	})
	if got := store.contents()["out/two.txt"]; got != "2" {
		t.Errorf("got %q", got)
	}
}

func TestEgressRefusesNamesOnce(t *testing.T) {
	t.Parallel()
	store := newMemStore()
	b := newBench(t, store, paths(up(), nil), nil)
	b.write("out/good", "1")
	b.write("out/bad\xff", "2")
	b.write("out/control\x01", "3")
	deep := strings.Repeat("d/", 5) + strings.Repeat("n", 250)
	b.write("out/"+strings.Repeat(strings.Repeat("d", 200)+"/", 5)+deep, "4")
	b.mustSync(egress)
	b.mustSync(egress)
	if diff := cmp.Diff(map[string]string{"up/good": "1"}, store.contents()); diff != "" {
		t.Error(diff)
	}
	if s := b.status(egress); s.Refused != 3 {
		t.Errorf("refused %d, want 3", s.Refused)
	}
	if n := b.reported(reasonFileRefused, ""); n != 3 {
		t.Errorf("reported %d, want 3", n)
	}
}

func TestReportsAreBounded(t *testing.T) {
	t.Parallel()
	b := newBench(t, newMemStore(), paths(up(), nil), nil)
	b.write("out/x", "")
	for i := range 500 {
		if err := os.Symlink("x", b.path(fmt.Sprintf("out/l%d", i))); err != nil {
			t.Fatal(err)
		}
	}
	b.mustSync(egress)
	if n := b.reported(reasonFileSkipped, ""); n != maxReports+1 {
		t.Errorf("%d events", n)
	}
}

// TestLostIndexOfAllKindsOfFiles has objects whose ETag tells nothing, files
// without content, and files that were touched.
func TestLostIndexOfAllKindsOfFiles(t *testing.T) {
	t.Parallel()
	store := newMemStore()
	b := newBench(t, store, paths(up(), nil), nil)
	b.write("out/empty", "")
	b.write("out/touched", "1")
	b.write("out/parts", "22")
	b.write("out/plain", "333")
	b.write("out/bare", "4444")
	b.write("out/foreign", "55555")
	b.mustSync(egress)
	b.mustSync(egress)
	store.mu.Lock()
	o := store.objects["up/parts"]
	o.ETag = "0123456789abcdef0123456789abcdef-2"
	store.objects["up/parts"] = o
	o = store.objects["up/bare"] // stored by something that keeps no digest
	o.SHA256 = nil
	store.objects["up/bare"] = o
	o = store.objects["up/foreign"] // neither: it is not known to be the same
	o.SHA256, o.ETag = nil, "0123456789abcdef0123456789abcdef-3"
	store.objects["up/foreign"] = o
	store.mu.Unlock()
	b.stop()
	if err := os.Remove(b.engine.cfg.IndexPath); err != nil {
		t.Fatal(err)
	}
	future := time.Now().Add(time.Hour)
	if err := os.Chtimes(b.path("out/touched"), future, future); err != nil {
		t.Fatal(err)
	}
	store.taken()
	b.start(b.engine.cfg)
	b.mustSync(egress)
	requests := map[string]int{}
	for _, r := range store.taken() {
		op, key, _ := strings.Cut(r, " ")
		requests[op]++
		if op == "Put" && key != "up/foreign" {
			t.Error(r)
		}
	}
	if requests["Head"] > 2 || requests["Put"] != 1 {
		t.Errorf("requests %v", requests)
	}
}

// TestUploadWhoseAnswerWasLost has another content in the bucket than is recorded:
// it arrived, and the process was killed before it learned of that.
func TestUploadWhoseAnswerWasLost(t *testing.T) {
	t.Parallel()
	store := newMemStore()
	b := newBench(t, store, paths(up(), nil), nil)
	b.write("out/f", "a")
	b.mustSync(egress)
	store.set("up/f", []byte("b"), s3.Upload{})
	later := time.Now().Add(time.Minute)
	if err := os.Chtimes(b.path("out/f"), later, later); err != nil { // it was b in between
		t.Fatal(err)
	}
	b.mustSync(egress)
	if got := store.contents()["up/f"]; got != "a" {
		t.Errorf("object is %q", got)
	}
}

// TestHintsOfAnEarlierRun: an index that was put back, or one of a device that
// was off for long, says of the bucket what is not so any more.
func TestHintsOfAnEarlierRun(t *testing.T) {
	t.Parallel()
	store := newMemStore()
	b := newBench(t, store, paths(up(), nil), nil)
	b.write("out/f", "a")
	b.mustSync(egress)
	b.engine.mu.Lock()
	g := b.engine.groups[groupKey{testWorkload, egress}]
	b.engine.mu.Unlock()
	id := routeID(testWorkload, egress, g.storeID, g.routes[0])
	b.must(g.index.forget(id, []string{"out/f"}))
	b.must(g.index.putHints(id, map[string]hint{"up/f": {Size: 1, ETag: fmt.Sprintf("%x", md5.Sum([]byte("a")))}}))
	store.set("up/f", []byte("b"), s3.Upload{})
	b.restart()
	b.mustSync(egress)
	if got := store.contents()["up/f"]; got != "a" {
		t.Errorf("object is %q", got)
	}
}
