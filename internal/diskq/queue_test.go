package diskq

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

func open(t *testing.T, cfg Config) *Queue {
	t.Helper()
	q, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := q.Close(); err != nil {
			t.Error(err)
		}
	})
	return q
}

func reopen(t *testing.T, q *Queue) *Queue {
	t.Helper()
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
	return open(t, q.cfg)
}

func appendAll(t *testing.T, q *Queue, texts ...string) {
	t.Helper()
	for _, s := range texts {
		if err := q.Append([]byte(s)); err != nil {
			t.Fatal(err)
		}
	}
}

func read(t *testing.T, q *Queue, limit int) []Entry {
	t.Helper()
	es, err := q.Read(limit)
	if err != nil {
		t.Fatal(err)
	}
	return es
}

func texts(es []Entry) string {
	var out []string
	for _, e := range es {
		out = append(out, string(e.Data))
	}
	return strings.Join(out, " ")
}

func ack(t *testing.T, q *Queue, seq uint64) {
	t.Helper()
	if err := q.Ack(seq); err != nil {
		t.Fatal(err)
	}
}

func TestQueueInOrderUntilAcknowledged(t *testing.T) {
	t.Parallel()
	q := open(t, Config{Dir: filepath.Join(t.TempDir(), "q")})
	if es := read(t, q, 10); es != nil {
		t.Errorf("an empty queue has %v", es)
	}
	appendAll(t, q, "a", "", "c")
	for range 2 {
		if got := texts(read(t, q, 10)); got != "a  c" {
			t.Errorf("read %q", got)
		}
	}
	ack(t, q, 1)
	ack(t, q, 1)
	if got := texts(read(t, q, 1)); got != "" {
		t.Errorf("read %q", got)
	}
	q = reopen(t, q)
	appendAll(t, q, "d")
	es := read(t, q, 10)
	if texts(es) != " c d" || es[0].Seq != 2 || time.Since(es[0].Time) > time.Minute {
		t.Errorf("read %v", es)
	}
	if err := q.Ack(5); err == nil {
		t.Error("acknowledged what was never appended")
	}
	ack(t, q, 4)
	q = reopen(t, q)
	if es := read(t, q, 10); len(es) != 0 {
		t.Errorf("acknowledged entries come again: %v", es)
	}
	appendAll(t, q, "e")
	if es := read(t, q, 10); texts(es) != "e" || es[0].Seq != 5 {
		t.Errorf("read %v", es)
	}
	if st := q.Stats(); st.Entries != 1 || st.Dropped != (Dropped{}) || st.Bytes != headerSize+1 {
		t.Errorf("stats %+v", st)
	}
}

func TestQueueConfig(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, cfg := range []Config{
		{}, {Dir: dir, MaxAge: -1}, {Dir: dir, MaxBytes: 10}, {Dir: dir, MaxBytes: 1 << 20, SegmentBytes: 1 << 20}, {Dir: dir, SegmentBytes: 8},
	} {
		if _, err := Open(cfg); err == nil {
			t.Errorf("%+v is accepted", cfg)
		}
	}
	q := open(t, Config{Dir: dir})
	if _, err := Open(Config{Dir: dir}); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("opened twice: %v", err)
	}
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{q.Append([]byte("x")), q.Ack(1), q.Sync()} {
		if !errors.Is(err, ErrClosed) {
			t.Errorf("after Close: %v", err)
		}
	}
	if _, err := q.Read(1); !errors.Is(err, ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

func TestQueueDropsOldestOverMaxBytes(t *testing.T) {
	t.Parallel()
	q := open(t, Config{Dir: t.TempDir(), MaxBytes: 4096, SegmentBytes: 1024})
	payload := make([]byte, 100)
	for i := range 500 {
		binary.LittleEndian.PutUint64(payload, uint64(i))
		if err := q.Append(payload); err != nil {
			t.Fatal(err)
		}
		if st := q.Stats(); st.DiskBytes > 4096 {
			t.Fatalf("%d bytes on disk", st.DiskBytes)
		}
		if i%50 == 0 {
			read(t, q, 5) // being read does not keep it
		}
	}
	check := func(q *Queue) {
		es := read(t, q, 1000)
		st := q.Stats()
		if st.Entries+st.Dropped.Size != 500 || int(st.Entries) != len(es) || st.Dropped.Damage != 0 || len(es) < 20 {
			t.Errorf("%d read, stats %+v", len(es), st)
		}
		for i, e := range es {
			if want := uint64(500 - len(es) + i); binary.LittleEndian.Uint64(e.Data) != want || e.Seq != want+1 {
				t.Fatalf("entry %d is number %d", i, e.Seq)
			}
		}
	}
	check(q)
	check(reopen(t, q))
	if err := q.Append(make([]byte, 2000)); err == nil {
		t.Error("took an entry larger than a segment")
	}
}

func TestQueueDropsOldEntries(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := open(t, Config{Dir: t.TempDir(), MaxAge: time.Hour, MaxBytes: 4096, SegmentBytes: 256})
		time.Sleep(21 * 365 * 24 * time.Hour) // the bubble's clock begins in 2000, which is "not set"
		appendAll(t, q, "a")
		time.Sleep(40 * time.Minute)
		appendAll(t, q, "b")
		time.Sleep(21 * time.Minute)
		if got := texts(read(t, q, 10)); got != "b" {
			t.Errorf("read %q", got)
		}
		if st := q.Stats(); st.Dropped.Age != 1 || st.Entries != 1 {
			t.Errorf("stats %+v", st)
		}
		for range 20 {
			appendAll(t, q, strings.Repeat("x", 100))
		}
		time.Sleep(2 * time.Hour)
		appendAll(t, q, "new")
		if n := len(q.segs); n > 2 {
			t.Errorf("%d segments are left of what is too old", n)
		}
		if got := texts(read(t, q, 10)); got != "new" {
			t.Errorf("read %q", got)
		}
		if st := q.Stats(); st.Dropped.Age != 22 {
			t.Errorf("stats %+v", st)
		}
	})
}

func TestQueueClockNotSetIsNotOld(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := open(t, Config{Dir: t.TempDir(), MaxAge: time.Hour})
		appendAll(t, q, "from 2000")
		time.Sleep(25 * 365 * 24 * time.Hour) // the clock is set
		appendAll(t, q, "now")
		if got := texts(read(t, q, 10)); got != "from 2000 now" {
			t.Errorf("read %q", got)
		}
	})
}

func TestQueueWait(t *testing.T) {
	t.Parallel()
	q := open(t, Config{Dir: t.TempDir()})
	appendAll(t, q, "a")
	wake := q.Wait()
	select {
	case <-wake:
		t.Error("woken by what was there")
	default:
	}
	appendAll(t, q, "b")
	<-wake
}

func TestQueueReadIsBoundedInBytes(t *testing.T) {
	t.Parallel()
	q := open(t, Config{Dir: t.TempDir(), SyncEvery: time.Hour})
	for range 8 {
		if err := q.Append(make([]byte, 1<<20)); err != nil {
			t.Fatal(err)
		}
	}
	if es := read(t, q, 100); len(es) != 4 {
		t.Errorf("%d MiB at once", len(es))
	}
}

// TestQueueConcurrent has writers, a reader that acknowledges, and a crowd that
// looks: every entry arrives once, and each writer's in order.
func TestQueueConcurrent(t *testing.T) {
	t.Parallel()
	const writers, each = 4, 300
	q := open(t, Config{Dir: t.TempDir(), SegmentBytes: 2048, MaxBytes: 1 << 20, SyncEvery: 5 * time.Millisecond, SyncBytes: 4096})
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				if err := q.Append(fmt.Appendf(nil, "%d %d", w, i)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	var next [writers]int
	deadline := time.After(time.Minute)
	for n := 0; n < writers*each; {
		wake := q.Wait()
		es := read(t, q, 17)
		if len(es) == 0 {
			select {
			case <-wake:
				continue
			case <-deadline:
				t.Fatalf("%d entries arrived", n)
			}
		}
		for _, e := range es {
			var w, i int
			if _, err := fmt.Sscanf(string(e.Data), "%d %d", &w, &i); err != nil || next[w] != i {
				t.Fatalf("writer %d: %d, want %d", w, i, next[w])
			}
			next[w]++
		}
		n += len(es)
		ack(t, q, es[len(es)-1].Seq)
		_ = q.Stats()
	}
	wg.Wait()
	if st := q.Stats(); st.Entries != 0 || len(q.segs) != 1 {
		t.Errorf("left: %+v in %d segments", st, len(q.segs))
	}
}

// TestQueueFailingDisk fails each kind of step now and then: what Append took
// without an error is there, in order, and nothing is there that was not given.
func TestQueueFailingDisk(t *testing.T) {
	t.Parallel()
	for _, step := range []string{"write", "sync", "create", "cursor", "remove"} {
		t.Run(step, func(t *testing.T) {
			t.Parallel()
			q := open(t, Config{Dir: t.TempDir(), SegmentBytes: 300, MaxBytes: 1 << 20})
			r := rand.New(rand.NewPCG(1, 2))
			hook := func(s string) error {
				if s == step && r.IntN(3) == 0 {
					return syscall.ENOSPC
				}
				return nil
			}
			q.hook = hook
			var taken []int
			for i := range 300 {
				if err := q.Append(fmt.Append(nil, i)); err == nil {
					taken = append(taken, i)
				} else if !errors.Is(err, syscall.ENOSPC) {
					t.Fatal(err)
				}
				if i%10 == 0 {
					q = reopen(t, q)
					q.hook = hook
				}
			}
			q.hook = nil
			last, k := -1, 0
			for _, e := range read(t, q, 1000) {
				var n int
				if _, err := fmt.Sscan(string(e.Data), &n); err != nil || n <= last || n >= 300 {
					t.Fatalf("%q after %d", e.Data, last)
				}
				last = n
				if k < len(taken) && taken[k] == n {
					k++
				}
			}
			if k != len(taken) {
				t.Errorf("%d of %d entries are there", k, len(taken))
			}
		})
	}
}

// TestQueueModel compares the queue with a slice under random operations and
// restarts.
func TestQueueModel(t *testing.T) {
	t.Parallel()
	for seed := range uint64(6) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			r := rand.New(rand.NewPCG(seed, 7))
			cfg := Config{Dir: t.TempDir(), SegmentBytes: 200 + r.Int64N(2000), SyncEvery: time.Duration(seed%2) * time.Hour}
			cfg.MaxBytes = cfg.SegmentBytes * (2 + r.Int64N(20))
			q := open(t, cfg)
			type entry struct {
				seq  uint64
				data []byte
			}
			var model []entry
			var appended, acked uint64
			for range 600 {
				switch r.IntN(10) {
				case 0, 1, 2, 3, 4:
					var batch [][]byte
					for range 1 + r.IntN(5) {
						b := make([]byte, r.IntN(160))
						for i := range b {
							b[i] = marker[r.IntN(4)]
						}
						appended++
						batch = append(batch, b)
						model = append(model, entry{appended, b})
					}
					if err := q.Append(batch...); err != nil {
						t.Fatal(err)
					}
					dropped := q.Stats().Dropped.Size
					for appended-acked-uint64(len(model)) < dropped {
						model = model[1:]
					}
				case 5, 6, 7, 8:
					es := read(t, q, 1+r.IntN(20))
					if len(es) == 0 != (len(model) == 0) {
						t.Fatalf("%d read, model has %d", len(es), len(model))
					}
					for i, e := range es {
						if e.Seq != model[i].seq || !bytes.Equal(e.Data, model[i].data) {
							t.Fatalf("entry %d, want %d", e.Seq, model[i].seq)
						}
					}
					if n := r.IntN(len(es) + 1); n > 0 {
						ack(t, q, es[n-1].Seq)
						acked += uint64(n)
						model = model[n:]
					}
				case 9:
					q = reopen(t, q)
				}
				if st := q.Stats(); st.Entries != uint64(len(model)) || st.DiskBytes > cfg.MaxBytes || st.Dropped.Damage != 0 {
					t.Fatalf("stats %+v, model has %d", st, len(model))
				}
			}
		})
	}
}

func TestQueueForeignFilesAreLeft(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, name := range []string{"x.q1", "0000000000000000-00000000.q1", "ffffffffffffffff-00000000.q1", "1-1.q1", "README"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "0000000000000001-00000000.q1"), 0o700); err != nil {
		t.Fatal(err)
	}
	q := open(t, Config{Dir: dir})
	appendAll(t, q, "a")
	if got := texts(read(t, q, 10)); got != "a" {
		t.Errorf("read %q", got)
	}
}

func TestOldest(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := open(t, Config{Dir: filepath.Join(t.TempDir(), "q")})
		began := time.Now()
		appendAll(t, q, "a")
		time.Sleep(time.Hour)
		appendAll(t, q, "b")
		if got := q.Stats().Oldest; !got.IsZero() {
			t.Errorf("oldest of %s, though nobody has looked", got)
		}
		read(t, q, 1)
		if got := q.Stats().Oldest; !got.Equal(began) {
			t.Errorf("oldest of %s, want %s", got, began)
		}
		ack(t, q, 1)
		read(t, q, 1)
		if got := q.Stats().Oldest; !got.Equal(began.Add(time.Hour)) {
			t.Errorf("oldest of %s, want an hour after %s", got, began)
		}
		ack(t, q, 2)
		if got := q.Stats().Oldest; !got.IsZero() {
			t.Errorf("oldest of %s, though nothing waits", got)
		}
	})
}

func TestClear(t *testing.T) {
	t.Parallel()
	q := open(t, Config{Dir: filepath.Join(t.TempDir(), "q"), SegmentBytes: 200, MaxBytes: 2000})
	if err := q.Clear(); err != nil {
		t.Errorf("clear an empty queue: %v", err)
	}
	for range 2 {
		for range 20 {
			appendAll(t, q, "canary canary canary")
		}
		read(t, q, 3)
		if err := q.Clear(); err != nil {
			t.Fatal(err)
		}
		files, err := filepath.Glob(filepath.Join(q.cfg.Dir, "*"))
		if err != nil || len(files) == 0 {
			t.Fatalf("files: %v, %v", files, err)
		}
		for _, name := range files {
			if raw, err := os.ReadFile(name); err != nil || bytes.Contains(raw, []byte("canary")) {
				t.Errorf("%s holds what was cleared, or: %v", name, err)
			}
		}
		if st := q.Stats(); st.Entries != 0 || st.Bytes != 0 || st.Dropped != (Dropped{}) {
			t.Errorf("stats %+v", st)
		}
		q = reopen(t, q)
	}
	appendAll(t, q, "after")
	if got := texts(read(t, q, 10)); got != "after" {
		t.Errorf("read %q", got)
	}
}
