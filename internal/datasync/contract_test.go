package datasync

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/project-flotta/flotta-agent/internal/datasync/s3"
)

// oddNames are paths that both sides hold and that clients tend to spoil.
var oddNames = []string{
	"plain.txt", "with space.txt", " leading and trailing ", "naïve-ünïcödé-日本語-🚀", "100%", "%41%2F", "a+b=c&d", "quo'te\"s", "semi;colon,comma",
	"hash#question?mark", "back\\slash", "tilde~star*(paren)[x]{y}|<z>", "new\nline", "tab\there", "car\rriage", "-dash", "..dots..", ".hidden",
	"deep/er/and/deep/er/file", "colon:at@dollar$!", "e\u0301 decomposed", "\u00e9 composed",
}

// testStore is what the engine relies on in any store.
func testStore(t *testing.T, s Store) {
	t.Helper()
	put := func(t *testing.T, key string, data []byte) string {
		t.Helper()
		sum := sha256.Sum256(data)
		etag, err := s.Put(t.Context(), s3.Upload{
			Key: key, Body: bytes.NewReader(data), Size: int64(len(data)),
			MTime: time.Unix(1700000000, 123456789), Mode: 0o640, SHA256: sum[:],
		})
		if err != nil {
			t.Fatalf("put %q: %v", key, err)
		}
		return etag
	}
	t.Run("what was put is what is got", func(t *testing.T) {
		for i, name := range append([]string{"empty"}, oddNames...) {
			key := "names/" + name
			data := bytes.Repeat([]byte{byte(i)}, i*10)
			etag := put(t, key, data)
			o, body, err := s.Get(t.Context(), key)
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(body)
			if err != nil || body.Close() != nil || !bytes.Equal(got, data) {
				t.Fatalf("get %q: %d bytes, want %d (err %v)", key, len(got), len(data), err)
			}
			h, err := s.Head(t.Context(), key)
			if err != nil {
				t.Fatal(err)
			}
			sum := sha256.Sum256(data)
			for _, o := range []s3.Object{o, h} {
				if o.Key != key || o.Size != int64(len(data)) || o.ETag != etag || o.Mode != 0o640 ||
					!o.MTime.Equal(time.Unix(1700000000, 123456789)) || !bytes.Equal(o.SHA256, sum[:]) {
					t.Errorf("object %q: %+v", key, o)
				}
			}
		}
	})
	t.Run("a listing has every key once, in order", func(t *testing.T) {
		want := []string{}
		for i := range 25 {
			key := fmt.Sprintf("list/%03d/x", i)
			put(t, key, []byte(key))
			want = append(want, key)
		}
		got := keysOf(t, s, "list/")
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
		want = nil
		for _, name := range append([]string{"empty"}, oddNames...) {
			want = append(want, "names/"+name)
		}
		slices.Sort(want)
		got = keysOf(t, s, "names/")
		slices.Sort(got)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
		if got := keysOf(t, s, "nothing/here/"); len(got) != 0 {
			t.Errorf("an absent prefix lists %q", got)
		}
	})
	t.Run("other content has another ETag", func(t *testing.T) {
		a, b := put(t, "etag/x", []byte("one")), put(t, "etag/x", []byte("two"))
		if a == b {
			t.Errorf("both are %q", a)
		}
		var listed string
		err := s.List(t.Context(), "etag/", func(p []s3.Object) error {
			for _, o := range p {
				listed = o.ETag
			}
			return nil
		})
		if err != nil || listed != b {
			t.Errorf("listed ETag %q, want %q (err %v)", listed, b, err)
		}
	})
	t.Run("failures have kinds", func(t *testing.T) {
		if _, err := s.Head(t.Context(), "no/such"); !errors.Is(err, s3.ErrNotFound) {
			t.Errorf("head of nothing: %v", err)
		}
		if _, _, err := s.Get(t.Context(), "no/such"); !errors.Is(err, s3.ErrNotFound) {
			t.Errorf("get of nothing: %v", err)
		}
		_, err := s.Put(t.Context(), s3.Upload{
			Key: "lie", Body: bytes.NewReader([]byte("abc")), Size: 3, SHA256: make([]byte, 32),
		})
		if !errors.Is(err, s3.ErrDigest) {
			t.Errorf("put with a wrong digest: %v", err)
		}
		if _, err := s.Head(t.Context(), "lie"); !errors.Is(err, s3.ErrNotFound) {
			t.Errorf("a refused object is there: %v", err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := s.Head(ctx, "etag/x"); !errors.Is(err, context.Canceled) {
			t.Errorf("after cancelling: %v", err)
		}
	})
}

func keysOf(t *testing.T, s Store, prefix string) []string {
	t.Helper()
	var got []string
	err := s.List(t.Context(), prefix, func(p []s3.Object) error {
		for _, o := range p {
			got = append(got, o.Key)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func TestMemStore(t *testing.T) { testStore(t, newMemStore()) }
