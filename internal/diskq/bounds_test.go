package diskq

import (
	"encoding/binary"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"
)

func setBounds(t *testing.T, q *Queue, maxBytes int64, maxAge time.Duration) {
	t.Helper()
	if err := q.SetBounds(maxBytes, maxAge); err != nil {
		t.Fatal(err)
	}
}

func TestSetBoundsDropsAtOnce(t *testing.T) {
	t.Parallel()
	q := open(t, Config{Dir: t.TempDir(), MaxBytes: 1 << 20})
	for i := range 1000 {
		if err := q.Append(binary.LittleEndian.AppendUint64(make([]byte, 0, 500), uint64(i))[:500]); err != nil {
			t.Fatal(err)
		}
	}
	setBounds(t, q, 128<<10, 0)
	st := q.Stats()
	if st.DiskBytes > 128<<10 || st.Entries+st.Dropped.Size != 1000 || st.Dropped.Size == 0 {
		t.Fatalf("stats %+v", st)
	}
	q = reopen(t, q)
	if again := q.Stats(); again != st {
		t.Errorf("stats %+v, after a restart %+v", st, again)
	}
	for range 1000 { // a smaller bound holds for what comes, too
		if err := q.Append(make([]byte, 500)); err != nil {
			t.Fatal(err)
		}
		if st := q.Stats(); st.DiskBytes > 128<<10 {
			t.Fatalf("stats %+v", st)
		}
	}
	st = q.Stats()
	setBounds(t, q, 1<<20, 0)
	for range 1000 {
		if err := q.Append(make([]byte, 500)); err != nil {
			t.Fatal(err)
		}
	}
	if more := q.Stats(); more.Entries != st.Entries+1000 || more.Dropped != st.Dropped {
		t.Errorf("stats %+v, under a larger bound %+v", st, more)
	}
}

// TestSetBoundsBelowTheNewestSegment has all entries in one segment that is
// larger than what is allowed now.
func TestSetBoundsBelowTheNewestSegment(t *testing.T) {
	t.Parallel()
	q := open(t, Config{Dir: t.TempDir(), MaxBytes: 1 << 20})
	for range 100 {
		appendAll(t, q, strings.Repeat("x", 1000))
	}
	setBounds(t, q, 64<<10, 0)
	if st := q.Stats(); st.DiskBytes > 64<<10 || st.Dropped.Size != 100 || st.Entries != 0 {
		t.Errorf("stats %+v", st)
	}
	q = reopen(t, q)
	appendAll(t, q, "next")
	if es := read(t, q, 10); texts(es) != "next" || es[0].Seq != 101 {
		t.Errorf("read %v", es)
	}
}

func TestSetBoundsOfAge(t *testing.T) {
	t.Parallel()
	c := newTestClock()
	q := open(t, Config{Dir: t.TempDir(), MaxBytes: 1 << 20, SegmentBytes: 256, clock: c.read})
	for range 10 {
		appendAll(t, q, strings.Repeat("x", 100))
		c.pass(time.Hour)
	}
	setBounds(t, q, 1<<20, 5*time.Hour)
	if st := q.Stats(); st.Dropped.Age < 3 || st.Dropped.Age > 5 {
		t.Errorf("stats %+v", st)
	}
	if es := read(t, q, 100); len(es) != 5 {
		t.Errorf("%d entries are left", len(es))
	}
	if st := q.Stats(); st.Dropped.Age != 5 || st.Entries != 5 {
		t.Errorf("stats %+v", st)
	}
}

func TestSetBoundsRefuses(t *testing.T) {
	t.Parallel()
	q := open(t, Config{Dir: t.TempDir(), MaxBytes: 1 << 20})
	appendAll(t, q, "a")
	if q.SetBounds(1<<20, -1) == nil || q.SetBounds(-5, 0) == nil || q.SetBounds(10, 0) == nil {
		t.Error("bounds without sense are taken")
	}
	if got := texts(read(t, q, 10)); got != "a" || q.cfg.MaxBytes != 1<<20 {
		t.Errorf("read %q, bound %d", got, q.cfg.MaxBytes)
	}
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
	if err := q.SetBounds(1<<20, 0); !errors.Is(err, ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

// TestSetBoundsConcurrent changes the bounds while entries come and go: each one
// arrives in order, or is counted.
func TestSetBoundsConcurrent(t *testing.T) {
	t.Parallel()
	const entries = 2000
	q := open(t, Config{Dir: t.TempDir(), MaxBytes: 1 << 20, SyncEvery: time.Hour})
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := range entries {
			if err := q.Append(binary.LittleEndian.AppendUint64(make([]byte, 0, 200), uint64(i))[:200]); err != nil {
				t.Error(err)
			}
			if i%50 == 0 {
				if err := q.SetBounds(int64(8<<10+i*16), time.Duration(i)*time.Hour); err != nil {
					t.Error(err)
				}
			}
		}
	})
	var arrived, last uint64
	for deadline := time.Now().Add(time.Minute); last < entries; {
		if time.Now().After(deadline) {
			t.Fatalf("%d entries arrived, the last is %d", arrived, last)
		}
		wake := q.Wait()
		es := read(t, q, 7)
		if len(es) == 0 {
			<-wake
			continue
		}
		for _, e := range es {
			if e.Seq <= last || binary.LittleEndian.Uint64(e.Data) != e.Seq-1 {
				t.Fatalf("entry %d after %d", e.Seq, last)
			}
			last = e.Seq
		}
		arrived += uint64(len(es))
		ack(t, q, last)
	}
	wg.Wait()
	// What was dropped between Read and Ack has arrived and is counted, too.
	if st := q.Stats(); arrived+st.Dropped.Size < entries || st.Entries != 0 || st.Dropped.Age+st.Dropped.Damage != 0 {
		t.Errorf("%d arrived, stats %+v", arrived, st)
	}
}
