package datasync

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/project-flotta/flotta-agent/internal/datasync/s3"
)

// body is content that can't be read beyond a point.
type body struct {
	*bytes.Reader

	until int64
}

func (b body) ReadAt(p []byte, off int64) (int, error) {
	if off+int64(len(p)) > b.until {
		return 0, errors.New("the disk is gone")
	}
	return b.Reader.ReadAt(p, off)
}

func random(n int, seed byte) []byte {
	data := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(data)
	return data
}

func uploadOf(key string, data []byte) s3.Upload {
	sum := sha256.Sum256(data)
	return s3.Upload{
		Key: key, Body: bytes.NewReader(data), Size: int64(len(data)),
		MTime: time.Unix(1700000000, 5), Mode: 0o600, SHA256: sum[:],
	}
}

// testParts is what the engine relies on for large objects. Parts have 5 MiB.
func testParts(t *testing.T, s Store) {
	t.Helper()
	data := random(4*memPartBytes+77, 1)
	// stopped begins an upload that fails after two parts.
	stopped := func(t *testing.T, key string) s3.Parts {
		t.Helper()
		var begun s3.Parts
		u := uploadOf(key, data)
		u.Body = body{bytes.NewReader(data), 2 * memPartBytes}
		u.Resume = &s3.Resume{Begun: func(p s3.Parts) error { begun = p; return nil }}
		if _, err := s.Put(t.Context(), u); err == nil {
			t.Fatal("put of half a file works")
		}
		return begun
	}
	check := func(t *testing.T, key, etag string, data []byte) {
		t.Helper()
		o, content, err := s.Get(t.Context(), key)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(content)
		sum := sha256.Sum256(data)
		if err != nil || content.Close() != nil || !bytes.Equal(got, data) || o.ETag != etag || !bytes.Equal(o.SHA256, sum[:]) {
			t.Errorf("%d bytes, err %v, object %+v, ETag %q", len(got), err, o, etag)
		}
	}
	t.Run("a large object arrives whole", func(t *testing.T) {
		var begun int
		u := uploadOf("parts/whole", data)
		u.Resume = &s3.Resume{Begun: func(s3.Parts) error { begun++; return nil }}
		etag, err := s.Put(t.Context(), u)
		if err != nil || begun != 1 {
			t.Fatalf("begun %d times, err %v", begun, err)
		}
		check(t, "parts/whole", etag, data)
		if left := unfinishedIn(t, s, "parts/whole"); len(left) > 0 {
			t.Errorf("left: %+v", left)
		}
	})
	t.Run("an upload goes on", func(t *testing.T) {
		parts := stopped(t, "parts/on")
		left := unfinishedIn(t, s, "parts/on")
		if len(left) != 1 || left[0].ID != parts.ID || left[0].Key != "parts/on" || time.Since(left[0].Since).Abs() > time.Hour {
			t.Fatalf("%+v, begun %+v", left, parts)
		}
		u := uploadOf("parts/on", data)
		u.Resume = &s3.Resume{Parts: parts, Begun: func(s3.Parts) error { t.Error("begun anew"); return nil }}
		etag, err := s.Put(t.Context(), u)
		if err != nil {
			t.Fatal(err)
		}
		check(t, "parts/on", etag, data)
		if left := unfinishedIn(t, s, "parts/on"); len(left) > 0 {
			t.Errorf("left: %+v", left)
		}
	})
	t.Run("parts of other content are sent again", func(t *testing.T) {
		parts := stopped(t, "parts/other")
		other := random(len(data), 2)
		copy(other[memPartBytes:], data[memPartBytes:2*memPartBytes]) // the second part is the same
		u := uploadOf("parts/other", other)
		u.Resume = &s3.Resume{Parts: parts, Begun: func(s3.Parts) error { return nil }}
		etag, err := s.Put(t.Context(), u)
		if err != nil {
			t.Fatal(err)
		}
		o, content, err := s.Get(t.Context(), "parts/other")
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(content)
		if err != nil || content.Close() != nil || !bytes.Equal(got, other) || o.ETag != etag {
			t.Errorf("%d bytes (err %v), object %+v", len(got), err, o)
		}
	})
	t.Run("an upload that was forgotten begins anew", func(t *testing.T) {
		parts := stopped(t, "parts/forgotten")
		for range 2 { // an unknown one is no failure
			if err := s.Abort(t.Context(), "parts/forgotten", parts.ID); err != nil {
				t.Fatal(err)
			}
		}
		if left := unfinishedIn(t, s, "parts/forgotten"); len(left) > 0 {
			t.Errorf("left: %+v", left)
		}
		var begun s3.Parts
		u := uploadOf("parts/forgotten", data)
		u.Resume = &s3.Resume{Parts: parts, Begun: func(p s3.Parts) error { begun = p; return nil }}
		etag, err := s.Put(t.Context(), u)
		if err != nil || begun.ID == "" || begun.ID == parts.ID {
			t.Fatalf("begun %+v, err %v", begun, err)
		}
		check(t, "parts/forgotten", etag, data)
	})
	t.Run("what nobody remembers is not begun", func(t *testing.T) {
		u := uploadOf("parts/unremembered", data)
		u.Resume = &s3.Resume{Begun: func(s3.Parts) error { return errors.New("no disk") }}
		if _, err := s.Put(t.Context(), u); err == nil {
			t.Error("no error")
		}
		u = uploadOf("parts/unremembered", data)
		u.Body = body{bytes.NewReader(data), 2 * memPartBytes}
		if _, err := s.Put(t.Context(), u); err == nil {
			t.Error("put of half a file works")
		}
		if left := unfinishedIn(t, s, "parts/unremembered"); len(left) > 0 {
			t.Errorf("left: %+v", left)
		}
	})
	t.Run("unfinished uploads are listed below a prefix", func(t *testing.T) {
		var want []string
		for _, name := range []string{"a b", "a+b", "ü\n%41"} {
			stopped(t, "parts/list/"+name)
			want = append(want, "parts/list/"+name)
		}
		stopped(t, "parts/listed")
		var got []string
		for _, u := range unfinishedIn(t, s, "parts/list/") {
			got = append(got, u.Key)
			if err := s.Abort(t.Context(), u.Key, u.ID); err != nil {
				t.Error(err)
			}
		}
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) || len(unfinishedIn(t, s, "parts/list/")) != 0 {
			t.Errorf("listed %q, want %q", got, want)
		}
	})
	t.Run("a version is read from a byte on", func(t *testing.T) { testRanges(t, s) })
}

func testRanges(t *testing.T, s Store) {
	data := random(100_000, 3)
	etag, err := s.Put(t.Context(), uploadOf("range", data))
	if err != nil {
		t.Fatal(err)
	}
	o := s3.Object{Key: "range", Size: int64(len(data)), ETag: etag}
	for _, from := range []int64{0, 1, 99_999} {
		content, err := s.GetFrom(t.Context(), o, from)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(content)
		if err != nil || content.Close() != nil || !bytes.Equal(got, data[from:]) {
			t.Errorf("from %d: %d bytes (err %v)", from, len(got), err)
		}
	}
	if _, err := s.Put(t.Context(), uploadOf("range", data[1:])); err != nil {
		t.Fatal(err)
	}
	if _, err := s.GetFrom(t.Context(), o, 10); !errors.Is(err, s3.ErrChanged) {
		t.Errorf("another version: %v", err)
	}
	o.Key = "range/nothing"
	if _, err := s.GetFrom(t.Context(), o, 10); !errors.Is(err, s3.ErrNotFound) {
		t.Errorf("nothing: %v", err)
	}
}

func unfinishedIn(t *testing.T, s Store, prefix string) (all []s3.Begun) {
	t.Helper()
	err := s.Uploads(t.Context(), prefix, func(page []s3.Begun) error {
		all = append(all, page...)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestMemStoreParts(t *testing.T) { testParts(t, newMemStore()) }
