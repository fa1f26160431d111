package datasync

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func TestOverflowIsAWalk(t *testing.T) {
	t.Parallel()
	store := newMemStore()
	b := watching(t, store, nil)
	var lost atomic.Bool
	w := b.engine.watch
	w.mu.Lock()
	kernel := w.read
	w.read = func(fd int, buf []byte) (int, error) {
		if n, err := kernel(fd, buf); err != nil || !lost.CompareAndSwap(true, false) {
			return n, err
		}
		// What the kernel says when its queue is full.
		event := make([]byte, unix.SizeofInotifyEvent)
		copy(event, []byte{0xff, 0xff, 0xff, 0xff, 0, unix.IN_Q_OVERFLOW >> 8})
		return copy(buf, event), nil
	}
	lost.Store(true)
	w.mu.Unlock()
	b.write("out/a/f", "1")
	b.look()
	b.write("out/a/g", "2")
	b.look()
	want := map[string]string{"up/first": "first", "up/a/f": "1", "up/a/g": "2"}
	if diff := cmp.Diff(want, store.contents()); diff != "" {
		t.Error(diff)
	}
}

func TestTheKernelsQueueOverflows(t *testing.T) {
	store := newMemStore()
	b := watching(t, store, nil)
	w := b.engine.watch
	w.mu.Lock() // nobody reads
	for i := range 20000 {
		b.write("out/a"+fmt.Sprint(i%2), fmt.Sprint(i))
	}
	b.write("out/d/f", "1")
	w.mu.Unlock()
	b.look()
	b.write("out/d/g", "2")
	b.look()
	got := store.contents()
	if got["up/a0"] != "19998" || got["up/a1"] != "19999" || got["up/d/f"] != "1" || got["up/d/g"] != "2" {
		t.Errorf("objects %q", got)
	}
}

// limited lets the kernel watch no more than most folders.
func limited(most *atomic.Int32, err error) func(int, string, uint32) (int, error) {
	seen := map[int]bool{}
	return func(fd int, path string, mask uint32) (int, error) {
		wd, addErr := unix.InotifyAddWatch(fd, path, mask)
		if addErr != nil || seen[wd] {
			return wd, addErr
		}
		if len(seen) >= int(most.Load()) {
			_, _ = unix.InotifyRmWatch(fd, uint32(wd))
			return -1, err
		}
		seen[wd] = true
		return wd, nil
	}
}

func TestFoldersBeyondTheLimitAreWalkedOver(t *testing.T) {
	t.Parallel()
	for name, folders := range map[string]int{"few": 8, "many": maxBlind + 50} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			store := newMemStore()
			b := watching(t, store, nil)
			var most atomic.Int32
			w := b.engine.watch
			w.mu.Lock()
			w.add = limited(&most, unix.ENOSPC)
			w.mu.Unlock()
			most.Store(3)
			for i := range folders {
				b.write(fmt.Sprintf("out/d%d/sub/f", i), "1")
			}
			b.look()
			problems := b.status(egress).Problems
			if len(problems) != 1 || problems[0].Reason != reasonWatchLimit || !strings.Contains(problems[0].Message, "fs.inotify.max_user_watches") {
				t.Fatalf("problems %+v", problems)
			}
			want := map[string]string{"up/first": "first"}
			for i := range folders {
				b.write(fmt.Sprintf("out/d%d/sub/g", i), "2")
				want[fmt.Sprintf("up/d%d/sub/f", i)] = "1"
				want[fmt.Sprintf("up/d%d/sub/g", i)] = "2"
			}
			b.must(os.Remove(b.path("out/d0/sub/f")))
			b.look()
			if diff := cmp.Diff(want, store.contents()); diff != "" {
				t.Errorf("%.500s", diff)
			}
			if names := b.recorded(); len(names) != 2*folders || slices.Contains(names, "out/d0/sub/f") {
				t.Errorf("%d records of %d", len(names), 2*folders)
			}
			if n := b.reported(reasonWatchLimit, ""); n != 1 {
				t.Errorf("reported %d times", n)
			}
			most.Store(1 << 20)
			b.look()
			if problems := b.status(egress).Problems; len(problems) != 0 {
				t.Errorf("problems %+v", problems)
			}
			b.write("out/d1/sub/h", "3")
			b.look()
			if got := store.contents()["up/d1/sub/h"]; got != "3" || b.reported(reasonWatchBack, "") != 1 {
				t.Errorf("object %q", got)
			}
		})
	}
}

func TestNoNotificationsAtAll(t *testing.T) {
	t.Parallel()
	store := newMemStore()
	b := newBench(t, store, paths(up(), nil), nil)
	w := b.engine.watch
	w.mu.Lock()
	kernel := w.open
	var works atomic.Bool
	w.open = func() (int, error) {
		if works.Load() {
			return kernel()
		}
		return -1, syscall.EMFILE
	}
	w.mu.Unlock()
	for i := range 3 {
		b.write("out/f", fmt.Sprint(i))
		b.look()
		if got := store.contents()["up/f"]; got != fmt.Sprint(i) {
			t.Errorf("object %q in round %d", got, i)
		}
	}
	if p := b.status(egress).Problems; len(p) != 1 || !strings.Contains(p[0].Message, "max_user_instances") {
		t.Errorf("problems %+v", p)
	}
	works.Store(true)
	b.look()
	if p := b.status(egress).Problems; len(p) != 0 {
		t.Errorf("problems %+v", p)
	}
}

func TestWhatIsMovedOutIsWatchedNoMore(t *testing.T) {
	t.Parallel()
	b := watching(t, newMemStore(), nil)
	for i := range 20 {
		b.write(fmt.Sprintf("out/a/d%d/f", i), "1")
	}
	b.look()
	count := func() int {
		b.engine.watch.mu.Lock()
		defer b.engine.watch.mu.Unlock()
		return len(b.out().tree.folders)
	}
	if n := count(); n != 22 {
		t.Fatalf("%d folders are watched, want 22", n)
	}
	b.must(os.Rename(b.path("out/a"), b.path("away")))
	b.mustSync(egress)
	if n := count(); n != 1 {
		t.Errorf("%d folders are watched, want 1", n)
	}
	b.write("away/d3/g", "not sent")
	b.look()
	if n := len(b.recorded()); n != 1 {
		t.Errorf("%d records", n)
	}
}
