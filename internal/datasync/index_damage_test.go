package datasync

import (
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/project-flotta/flotta-agent/internal/datasync/s3"
)

// soundRecord is what the index of these tests says of a path.
func soundRecord(i int) record {
	return record{
		fingerprint: fingerprint{Size: int64(i), MTime: int64(i) * 1e9, CTime: int64(i) * 1e9, Inode: uint64(i)},
		SHA256:      [32]byte{byte(i), byte(i >> 8)}, ETag: fmt.Sprintf("etag-%d", i), When: int64(i),
	}
}

const (
	damageRoute = "w\x00egress\x00h:443/b\x00out\x00up"
	damageFiles = 1500
)

func damagePath(i int) string { return fmt.Sprintf("out/dir%02d/file-%04d", i%17, i) }

// soundIndex returns the bytes of an index with records, hints and an upload,
// from which some were deleted, so that there are free pages.
func soundIndex(t testing.TB) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "ix.db")
	ix, err := openIndex(path, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	for first := 0; first < damageFiles; first += 100 {
		records, hints := map[string]record{}, map[string]hint{}
		for i := first; i < first+100; i++ {
			records[damagePath(i)] = soundRecord(i)
			hints[damagePath(i)] = hint{Size: int64(i), ETag: fmt.Sprint(i)}
		}
		err = errors.Join(err, ix.put(damageRoute, records, time.Unix(1, 0)), ix.putHints(damageRoute, hints))
	}
	err = errors.Join(err, ix.setSeeded(damageRoute), ix.dropHints(damageRoute),
		ix.putBegun(damageRoute, "out/large", begun{Key: "k", Parts: s3.Parts{ID: "u", PartBytes: 5 << 20}}), ix.close())
	if err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// useDamaged opens an index of any bytes and works with it. Nothing that it says
// may be wrong, and after at most a few failures it works like any other.
func useDamaged(t testing.TB, raw []byte) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "ix.db")
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	ix, err := openIndex(path, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	look := func() error {
		return ix.view(damageRoute, func(v indexView) error {
			for i := range damageFiles {
				if r, ok := v.record(damagePath(i)); ok && r != soundRecord(i) {
					t.Errorf("record of %s: %+v", damagePath(i), r)
				}
			}
			return nil
		})
	}
	_ = look()
	_, _ = ix.lastUploads()
	_, _ = ix.begunIn("h:443/b")
	_, _ = ix.forgetOthers(map[string]bool{"w": true})
	for n := 0; ; n++ {
		var errs error
		for first := 0; first < damageFiles; first += 500 {
			records := map[string]record{}
			var names []string
			for i := first; i < first+500; i++ {
				records[damagePath(i)] = soundRecord(i)
				names = append(names, damagePath(i))
			}
			errs = errors.Join(errs, ix.forget(damageRoute, names[:100]), ix.put(damageRoute, records, time.Unix(2, 0)))
		}
		if errs = errors.Join(errs, look()); errs == nil {
			break
		}
		if n == 5 {
			t.Fatalf("it does not recover: %v", errs)
		}
	}
	names, err := ix.paths(damageRoute, "", damageFiles+10)
	if err != nil || len(names) < damageFiles {
		t.Errorf("%d paths, counted %d (err %v)", len(names), ix.count(damageRoute), err)
	}
	if err := ix.close(); err != nil {
		t.Errorf("close: %v", err)
	}
}

func TestIndexWithFlippedBits(t *testing.T) {
	t.Parallel()
	sound := soundIndex(t)
	random := rand.New(rand.NewPCG(1, 2))
	for range 40 {
		raw := append([]byte(nil), sound...)
		for range 1 + random.IntN(3) {
			raw[random.IntN(len(raw))] ^= 1 << random.IntN(8)
		}
		useDamaged(t, raw)
	}
}

func TestIndexThatIsCutOff(t *testing.T) {
	t.Parallel()
	sound := soundIndex(t)
	for n := 0; n < len(sound); n += 13 * os.Getpagesize() {
		useDamaged(t, sound[:n])
		useDamaged(t, sound[:n+100])
	}
}

func TestIndexWithGarbagePages(t *testing.T) {
	t.Parallel()
	sound := soundIndex(t)
	size := os.Getpagesize()
	source := rand.NewChaCha8([32]byte{7})
	for at := 0; at+size <= len(sound); at += 9 * size {
		for _, zero := range []bool{true, false} {
			raw := append([]byte(nil), sound...)
			clear(raw[at : at+size])
			if !zero {
				_, _ = source.Read(raw[at : at+size])
			}
			useDamaged(t, raw)
		}
	}
}

// TestIndexIsCutOffWhileItIsUsed has somebody truncate the file under the engine.
func TestIndexIsCutOffWhileItIsUsed(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "ix.db")
	if err := os.WriteFile(path, soundIndex(t), 0o600); err != nil {
		t.Fatal(err)
	}
	ix, err := openIndex(path, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, int64(3*os.Getpagesize())); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		_ = ix.put(damageRoute, map[string]record{"out/x": soundRecord(1)}, time.Time{})
	}
	err = ix.view(damageRoute, func(v indexView) error {
		if r, ok := v.record("out/x"); !ok || r != soundRecord(1) {
			t.Errorf("record %+v, %v", r, ok)
		}
		return nil
	})
	if err != nil || ix.close() != nil {
		t.Errorf("after that: %v", err)
	}
	if _, err := os.Stat(path + ".corrupt"); err != nil {
		t.Error(err)
	}
}
