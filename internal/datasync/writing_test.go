package datasync

import (
	"os"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestFilesOpenForWritingWait(t *testing.T) {
	t.Parallel()
	store := newMemStore()
	b := watching(t, store, func(c *Config) { c.Settle = 50 * time.Millisecond })
	eventually(t, "the first file is sent", func() bool {
		b.look()
		return len(store.contents()) == 1
	})
	b.write("out/f", "")
	f, err := os.OpenFile(b.path("out/f"), os.O_WRONLY, 0)
	b.must(err)
	_, err = f.WriteString("half")
	b.must(err)
	for range 3 {
		time.Sleep(100 * time.Millisecond) // longer than it has to rest
		b.look()
	}
	if s := b.status(egress); s.Pending != 1 || len(store.contents()) != 1 {
		t.Errorf("pending %d, objects %v", s.Pending, store.contents())
	}
	_, err = f.WriteString(" and half")
	b.must(err)
	b.must(f.Close())
	eventually(t, "the file is sent", func() bool {
		b.look()
		return store.contents()["up/f"] == "half and half"
	})
}

func TestMappedFilesWait(t *testing.T) {
	t.Parallel()
	b := watching(t, newMemStore(), nil)
	f, err := os.OpenFile(b.path("out/first"), os.O_RDWR, 0)
	b.must(err)
	mapped, err := unix.Mmap(int(f.Fd()), 0, 5, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	b.must(err)
	b.must(f.Close())
	v, err := openVolume(b.volumes, testWorkload)
	b.must(err)
	defer v.close()
	if !v.beingWritten("out/first") {
		t.Error("a mapped file is taken for one that nobody writes")
	}
	b.must(unix.Munmap(mapped))
	if v.beingWritten("out/first") {
		t.Error("nobody writes any more")
	}
	if v.beingWritten("out") || v.beingWritten("nothing") {
		t.Error("what is no file is being written")
	}
}

// TestAskingForWritersHoldsNobodyUp has one goroutine ask all the time while
// others write: none may fail, and no signal may end the process.
func TestAskingForWritersHoldsNobodyUp(t *testing.T) {
	t.Parallel()
	b := watching(t, newMemStore(), nil)
	v, err := openVolume(b.volumes, testWorkload)
	b.must(err)
	defer v.close()
	end := make(chan struct{})
	var asking sync.WaitGroup
	asking.Go(func() {
		for {
			select {
			case <-end:
				return
			default:
				v.beingWritten("out/first")
			}
		}
	})
	longest := time.Duration(0)
	for range 2000 {
		began := time.Now()
		f, err := os.OpenFile(b.path("out/first"), os.O_WRONLY|os.O_TRUNC, 0)
		b.must(err)
		longest = max(longest, time.Since(began))
		b.must(f.Close())
	}
	close(end)
	asking.Wait()
	t.Logf("the longest open took %v", longest)
	if longest > 5*time.Second { // the kernel's own bound is 45 s
		t.Errorf("a writer was held up for %v", longest)
	}
}

func TestHowLongAWriterIsAskedFor(t *testing.T) {
	t.Parallel()
	now := time.Now()
	s := settle{rest: time.Second, atMost: time.Minute}
	for name, c := range map[string]struct {
		settle         settle
		changed, since time.Time
		want           bool
	}{
		"changed just now":       {s, now.Add(-2 * time.Second), time.Time{}, true},
		"waits for a while":      {s, now.Add(-2 * time.Second), now.Add(-50 * time.Second), true},
		"has waited long enough": {s, now.Add(-2 * time.Second), now.Add(-time.Minute), false},
		"changed long ago":       {s, now.Add(-time.Hour), time.Time{}, false},
		"nothing has to rest":    {settle{rest: -1, atMost: time.Minute}, now, time.Time{}, false},
	} {
		if got := c.settle.mayBeWritten(now, c.changed, c.since); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
