//go:build integration

package diskq

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
)

// TestQueueOnFullDisk fills the file system from outside. It needs root, to
// mount a small tmpfs.
func TestQueueOnFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=256k"); err != nil {
		t.Fatalf("mount tmpfs: %v", err)
	}
	t.Cleanup(func() { // after that of the queue
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	cfg := Config{Dir: filepath.Join(dir, "q"), MaxBytes: 1 << 20, SegmentBytes: 16 << 10}
	q, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	var taken []string
	refused := 0
	for i := 0; refused < 20; i++ {
		text := strconv.Itoa(i)
		switch err := q.Append(append([]byte(text+" "), bytes.Repeat([]byte("x"), 3000)...)); {
		case err == nil:
			taken = append(taken, text)
		case errors.Is(err, syscall.ENOSPC):
			refused++
		default:
			t.Fatal(err)
		}
	}
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
	if q, err = Open(cfg); err != nil {
		t.Fatalf("open on a full disk: %v", err)
	}
	t.Cleanup(func() { _ = q.Close() })
	// Reading and acknowledging works, and makes room.
	var got []string
	for {
		es := read(t, q, 3)
		if len(es) == 0 {
			break
		}
		for _, e := range es {
			text, _, _ := bytes.Cut(e.Data, []byte(" "))
			got = append(got, string(text))
		}
		ack(t, q, es[len(es)-1].Seq)
	}
	if len(got) != len(taken) || got[0] != taken[0] || got[len(got)-1] != taken[len(taken)-1] {
		t.Errorf("%d entries were taken, %d arrive", len(taken), len(got))
	}
	for range 10 {
		if err := q.Append(make([]byte, 3000)); err != nil {
			t.Fatalf("after there is room: %v", err)
		}
	}
	if st := q.Stats(); st.Dropped != (Dropped{}) || st.Entries != 10 {
		t.Errorf("stats %+v", st)
	}
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
	if left, _ := os.ReadDir(cfg.Dir); len(left) > 8 {
		t.Errorf("%d files are left", len(left))
	}
}
