package bundle

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func now() time.Time { return time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC) }

func static(name, text string) Item {
	return Item{Name: name, Collect: func(context.Context) ([]byte, error) { return []byte(text), nil }}
}

// pack returns the files of the archive, and its manifest.
func pack(t *testing.T, cfg Config) (files map[string]string, m Manifest, size int) {
	t.Helper()
	cfg.Now = now()
	var b bytes.Buffer
	m, err := Write(t.Context(), &b, cfg)
	if err != nil {
		t.Fatal(err)
	}
	size = b.Len()
	zip, err := gzip.NewReader(&b)
	if err != nil {
		t.Fatal(err)
	}
	files = map[string]string{}
	for r := tar.NewReader(zip); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		if h.Mode != 0o600 || !h.ModTime.Equal(now()) {
			t.Errorf("%s: mode %o, time %s", h.Name, h.Mode, h.ModTime)
		}
		files[strings.TrimPrefix(h.Name, "flotta-support/")] = string(text)
	}
	var told Manifest
	if err := json.Unmarshal([]byte(files["manifest.json"]), &told); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(m, told); diff != "" {
		t.Errorf("manifest (-returned +written):\n%s", diff)
	}
	delete(files, "manifest.json")
	return files, m, size
}

// Whatever goes wrong with one item, the others are there, and the manifest says
// what happened.
func TestArchive(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	t.Cleanup(func() { close(release) })
	failing := func(name, text string, err error) Item {
		return Item{Name: name, Collect: func(context.Context) ([]byte, error) { return []byte(text), err }}
	}
	files, m, _ := pack(t, Config{
		Secrets: secrets("hunter2-canary", "redact"),
		About:   map[string]string{"version": "1.2.3", "note": "hunter2-canary-x"},
		Items: []Item{
			static("plain.txt", "one\n"),
			{Name: "settings.toml", Kind: KindSettings, Collect: static("", "password = 'abc'\n").Collect},
			{Name: "doc/state.json", Kind: KindDocument, Collect: static("", "a: {token: abc}").Collect},
			{Name: "doc/bad.json", Kind: KindDocument, Collect: static("", "a: b: c").Collect},
			failing("part.txt", "half\n", errors.New("run it: exit 1 with plain words")),
			failing("none.txt", "", errors.New("no such file")),
			static("left.txt", "knows how to redact"),
			static("../evil", "x"), static("/abs", "x"), static("a/.hidden", "x"), static("", "x"), static("manifest.json", "x"), static("sp ace", "x"),
			{Name: "head.txt", Limit: 10, Collect: static("", "line 1\nline 2\nline 3\n").Collect},
			{Name: "tail.txt", Limit: 10, Tail: true, Collect: static("", "line 1\nline 2\nline 3\n").Collect},
			{Name: "panics", Collect: func(context.Context) ([]byte, error) { panic("oops") }},
			{Name: "heeds", Collect: func(ctx context.Context) ([]byte, error) { <-ctx.Done(); return []byte("what came\n"), ctx.Err() }},
			{Name: "hangs", Collect: func(context.Context) ([]byte, error) { <-release; return nil, nil }},
		},
		ItemTime: 100 * time.Millisecond,
	})
	want := map[string]string{
		"plain.txt": "one\n", "part.txt": "half\n", "head.txt": "line 1\n", "tail.txt": "line 3\n", "heeds": "what came\n",
	}
	// What the placeholder would give away is left out, which is the case for all
	// that anything was taken out of.
	if diff := cmp.Diff(want, files); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
	reasons := map[string]string{
		"plain.txt": "", "settings.toml": "could not be removed", "doc/state.json": "could not be removed", "doc/bad.json": "neither JSON nor YAML",
		"part.txt": "plain words", "none.txt": "no such file", "left.txt": "could not be removed", "panics": "oops", "heeds": "deadline", "hangs": "no answer within 100ms",
		"head.txt": "", "tail.txt": "",
	}
	for _, e := range m.Entries {
		reason, known := reasons[e.Name]
		if !known {
			reason = "no name"
		}
		if !strings.Contains(e.Error, reason) || (e.Error == "") != (reason == "") || e.Bytes != len(files[e.Name]) {
			t.Errorf("entry %+v, want %q", e, reason)
		}
		if strings.HasSuffix(e.Name, "ad.txt") && e.Truncated != 14 {
			t.Errorf("entry %+v", e)
		}
	}
	if len(m.Entries) != 18 || m.Failed() != 15 || m.About["note"] != Redacted || m.About["version"] != "1.2.3" {
		t.Errorf("manifest: %d entries, %d failed, %v", len(m.Entries), m.Failed(), m.About)
	}
}

// No archive is larger than its bound, however little its content can be packed,
// and however many items there are.
func TestBound(t *testing.T) {
	t.Parallel()
	noise := make([]byte, 512<<10)
	source := rand.NewChaCha8([32]byte{1})
	_, _ = source.Read(noise)
	var items []Item
	for i := range 20 {
		items = append(items, Item{Name: "noise/" + strings.Repeat("x", i+1), Collect: func(context.Context) ([]byte, error) { return noise, nil }})
	}
	for _, most := range []int64{leastMax, 1 << 20, 3 << 20} {
		files, m, size := pack(t, Config{Items: items, MaxBytes: most})
		if int64(size) > most {
			t.Errorf("%d bytes, at most %d", size, most)
		}
		if most > leastMax && int64(size) < most/2 {
			t.Errorf("%d bytes: nothing of %d is used", size, most)
		}
		cut := 0
		for _, e := range m.Entries {
			if full := e.Error == "the archive is full"; full == (e.Bytes+e.Truncated == len(noise)) || len(files[e.Name]) != e.Bytes {
				t.Errorf("entry %+v", e)
			}
			if e.Truncated > 0 || e.Error != "" {
				cut++
			}
		}
		if cut == 0 || len(m.Entries) != len(items) {
			t.Errorf("%d of %d entries are cut", cut, len(m.Entries))
		}
	}
}

func TestWriteRefuses(t *testing.T) {
	t.Parallel()
	if _, err := Write(t.Context(), io.Discard, Config{MaxBytes: 1000}); err == nil {
		t.Error("a bound without room is taken")
	}
	if _, err := Write(t.Context(), broken{}, Config{Items: []Item{static("a", "b")}}); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("nobody takes it: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Write(ctx, io.Discard, Config{Items: []Item{static("a", "b")}}); !errors.Is(err, context.Canceled) {
		t.Errorf("nobody waits: %v", err)
	}
}

type broken struct{}

func (broken) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }
