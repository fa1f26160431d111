package diskq

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
)

// filled returns a queue's folder with n entries, of which acked are
// acknowledged, in several segments. Entry i holds its number, and bytes that
// look like frames.
func filled(t testing.TB, n int, acked uint64) Config {
	t.Helper()
	cfg := Config{Dir: t.TempDir(), SegmentBytes: 1500, MaxBytes: 1 << 20}
	q, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	var all [][]byte
	for i := range n {
		all = append(all, numbered(i+1))
	}
	if err := q.Append(all...); err != nil {
		t.Fatal(err)
	}
	if err := q.Ack(acked); err != nil {
		t.Fatal(err)
	}
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
	return cfg
}

func numbered(i int) []byte {
	b := binary.LittleEndian.AppendUint64(nil, uint64(i))
	for range i % 7 {
		b = append(b, marker...)
		b = append(b, 1, 0, 0, 0)
	}
	return b
}

// drain reads and acknowledges everything and returns the numbers. It checks
// that each is what was appended under that number, and that they grow.
func drain(t testing.TB, q *Queue) []uint64 {
	t.Helper()
	var seqs []uint64
	for {
		es, err := q.Read(7)
		if err != nil {
			t.Fatal(err)
		}
		if len(es) == 0 {
			return seqs
		}
		for _, e := range es {
			if !bytes.Equal(e.Data, numbered(int(e.Seq))) {
				t.Fatalf("entry %d is not what was appended", e.Seq)
			}
			if len(seqs) > 0 && e.Seq <= seqs[len(seqs)-1] {
				t.Fatalf("entry %d after %d", e.Seq, seqs[len(seqs)-1])
			}
			seqs = append(seqs, e.Seq)
		}
		if err := q.Ack(seqs[len(seqs)-1]); err != nil {
			t.Fatal(err)
		}
	}
}

// works checks that a repaired queue takes and gives.
func works(t testing.TB, q *Queue) {
	t.Helper()
	n := int(q.next)
	if err := q.Append(numbered(n), numbered(n+1)); err != nil {
		t.Fatal(err)
	}
	if got := drain(t, q); len(got) != 2 {
		t.Fatalf("of two new entries %d arrive", len(got))
	}
	if st := q.Stats(); st.Entries != 0 {
		t.Fatalf("stats of a drained queue: %+v", st)
	}
}

func segments(t testing.TB, dir string) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(dir, "*.q1"))
	if err != nil || len(found) == 0 {
		t.Fatalf("segments: %v, %v", found, err)
	}
	return found
}

func TestQueueTornTail(t *testing.T) {
	t.Parallel()
	for cut := int64(1); cut < 120; cut += 3 {
		cfg := filled(t, 40, 5)
		paths := segments(t, cfg.Dir)
		last := paths[len(paths)-1]
		info, err := os.Stat(last)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(last, max(0, info.Size()-cut)); err != nil {
			t.Fatal(err)
		}
		if cut%2 == 0 { // and zeros where the data should be, as file systems leave them
			if err := os.Truncate(last, info.Size()); err != nil {
				t.Fatal(err)
			}
		}
		q := open(t, cfg)
		got := drain(t, q)
		want := 35 - len(got)
		if want < 1 || want > 4 || got[0] != 6 || got[len(got)-1] != uint64(5+len(got)) {
			t.Fatalf("cut %d: %v", cut, got)
		}
		if st := q.Stats(); st.Dropped != (Dropped{}) {
			t.Errorf("cut %d: stats %+v", cut, st)
		}
		works(t, q)
	}
}

// TestQueueFlippedBits damages one bit anywhere in the segments: at most the
// entry that it hits is lost.
func TestQueueFlippedBits(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(3, 4))
	for range 150 {
		cfg := filled(t, 60, 0)
		paths := segments(t, cfg.Dir)
		path := paths[r.IntN(len(paths))]
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		at := r.IntN(len(data))
		data[at] ^= 1 << r.IntN(8)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		q := open(t, cfg)
		got := drain(t, q)
		if len(got) != 59 {
			t.Fatalf("%s at %d: %d entries arrive", path, at, len(got))
		}
		// The very last entry is a torn tail: it was never promised.
		if st := q.Stats(); st.Dropped.Damage != 1 && got[58] != 59 || st.Entries != 0 {
			t.Errorf("stats %+v", st)
		}
		works(t, q)
		if err := q.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestQueueDamagedAnywhere destroys files in worse ways.
func TestQueueDamagedAnywhere(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(5, 6))
	for range 200 {
		cfg := filled(t, 60, uint64(r.IntN(60)))
		files, err := filepath.Glob(filepath.Join(cfg.Dir, "*"))
		if err != nil {
			t.Fatal(err)
		}
		for range 1 + r.IntN(3) {
			destroy(t, r, files[r.IntN(len(files))])
		}
		q := open(t, cfg)
		got := drain(t, q)
		st := q.Stats()
		if st.Entries != 0 || len(got) > 60 {
			t.Fatalf("stats %+v, %d arrive", st, len(got))
		}
		works(t, q)
		if aside, _ := filepath.Glob(filepath.Join(cfg.Dir, "*"+asideExt)); len(aside) > keepAside {
			t.Errorf("%d damaged segments are kept", len(aside))
		}
		q = reopen(t, q)
		works(t, q)
	}
}

func destroy(t *testing.T, r *rand.Rand, path string) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		return // removed before
	}
	at := r.IntN(len(data) + 1)
	switch r.IntN(6) {
	case 0:
		data = data[:at]
	case 1:
		clear(data[at:min(len(data), at+r.IntN(300))])
	case 2:
		data = append(bytes.Clone(data[:at]), append([]byte("inserted"), data[at:]...)...)
	case 3:
		data = append(data, data...)
	case 4:
		for i := range data {
			data[i] = byte(r.Uint32())
		}
	case 5:
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		return
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestQueueDamagedSegmentIsKeptForALook(t *testing.T) {
	t.Parallel()
	cfg := filled(t, 60, 0)
	paths := segments(t, cfg.Dir)
	data, err := os.ReadFile(paths[0])
	if err != nil {
		t.Fatal(err)
	}
	data[headerSize] ^= 1
	if err := os.WriteFile(paths[0], data, 0o600); err != nil {
		t.Fatal(err)
	}
	q := open(t, cfg)
	if got := drain(t, q); len(got) != 59 || got[0] != 2 {
		t.Errorf("%d arrive", len(got))
	}
	if kept, err := os.ReadFile(paths[0] + asideExt); err != nil || !bytes.Equal(kept, data) {
		t.Errorf("the damaged segment is not kept: %v", err)
	}
	if st := reopen(t, q).Stats(); st.Dropped.Damage != 1 {
		t.Errorf("after a restart: %+v", st)
	}
}

// TestQueueDamageThenDrop counts an entry once: as damaged, or as dropped.
func TestQueueDamageThenDrop(t *testing.T) {
	t.Parallel()
	cfg := filled(t, 60, 0)
	path := segments(t, cfg.Dir)[0]
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	data[headerSize] ^= 1
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	cfg.MaxBytes = 2 * cfg.SegmentBytes
	q := open(t, cfg)
	if es, err := q.Read(1000); err != nil || len(es) != 59 {
		t.Fatalf("%d read, %v", len(es), err)
	}
	if err := q.Append(numbered(61)); err != nil {
		t.Fatal(err)
	}
	st := q.Stats()
	if st.Entries+st.Dropped.Size+st.Dropped.Damage != 61 || st.Dropped.Damage != 1 {
		t.Errorf("stats %+v", st)
	}
	if got := drain(t, q); uint64(len(got)) != st.Entries {
		t.Errorf("%d arrive, stats %+v", len(got), st)
	}
}

func FuzzQueueDamaged(f *testing.F) {
	f.Add([]byte("x"), uint16(0), uint8(0), true)
	f.Add(marker, uint16(100), uint8(1), false)
	f.Add(make([]byte, 64), uint16(4096), uint8(9), false)
	f.Fuzz(func(t *testing.T, patch []byte, at uint16, file uint8, cut bool) {
		cfg := filled(t, 60, 10)
		files, err := filepath.Glob(filepath.Join(cfg.Dir, "*"))
		if err != nil {
			t.Fatal(err)
		}
		path := files[int(file)%len(files)]
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		i := min(int(at), len(data))
		end := i + copy(data[i:], patch)
		if cut {
			data = data[:end]
		}
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		q, err := Open(cfg)
		if err != nil {
			t.Fatal(err)
		}
		drain(t, q)
		works(t, q)
		if err := q.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

func FuzzScanner(f *testing.F) {
	whole := appendFrame(appendFrame(nil, 7, 1, timeZero(), []byte("abc")), 7, 2, timeZero(), nil)
	f.Add(whole)
	f.Add(append([]byte("torn"), whole...))
	f.Add(bytes.Repeat(marker, 20))
	f.Fuzz(func(t *testing.T, data []byte) {
		s := scanner{r: bytes.NewReader(data), size: int64(len(data)), salt: 7, first: 1, limit: 100}
		var off int64
		for n := 0; ; n++ {
			fr, _, ok := s.next(off)
			if !ok {
				return
			}
			if fr.off < off || fr.end <= fr.off || fr.end > int64(len(data)) || n > len(data) {
				t.Fatalf("frame at %d to %d after %d", fr.off, fr.end, off)
			}
			off = fr.end
		}
	})
}

// TestScannerHostilePayload wants a damaged header before a payload full of
// markers skipped at the cost of reading it.
func TestScannerHostilePayload(t *testing.T) {
	t.Parallel()
	data := appendFrame(nil, 7, 1, timeZero(), bytes.Repeat(marker, 1<<20))
	data[5] ^= 1
	data = appendFrame(data, 7, 2, timeZero(), []byte("next"))
	r := &countingReader{Reader: bytes.NewReader(data)}
	s := scanner{r: r, size: int64(len(data)), salt: 7, first: 1, limit: 100}
	fr, damaged, ok := s.next(0)
	if !ok || !damaged || string(fr.Data) != "next" {
		t.Fatalf("found %v %v %v", fr.Seq, damaged, ok)
	}
	if r.n > 2*int64(len(data)) {
		t.Errorf("read %d bytes of %d", r.n, len(data))
	}
}

type countingReader struct {
	*bytes.Reader

	n int64
}

func (c *countingReader) ReadAt(b []byte, off int64) (int, error) {
	n, err := c.Reader.ReadAt(b, off)
	c.n += int64(n)
	if err != nil {
		return n, fmt.Errorf("%w", err)
	}
	return n, nil
}
