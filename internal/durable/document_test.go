package durable_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/project-flotta/flotta-agent/internal/durable"
)

type note struct {
	Text string          `json:"text"`
	Raw  json.RawMessage `json:"raw,omitempty"`
	N    map[string]int  `json:"n,omitempty"`
}

func sample() note {
	return note{Text: "a <b> & \u2028 \"c\" \x00", Raw: json.RawMessage(`{"z":"<&>","a":[1,2.50]}`), N: map[string]int{"x": 1}}
}

func saved(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "note.json")
	if err := durable.SaveDocument(path, "note", 2, sample(), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestDocumentRoundTrip(t *testing.T) {
	t.Parallel()
	path := saved(t)
	var got note
	if err := durable.LoadDocument(path, "note", 2, &got); err != nil {
		t.Fatal(err)
	}
	got.Raw = bytes.ReplaceAll(got.Raw, []byte(`\u003c\u0026\u003e`), []byte("<&>"))
	if diff := cmp.Diff(sample(), got); diff != "" {
		t.Error(diff)
	}
}

func TestLoadDocumentRefuses(t *testing.T) {
	t.Parallel()
	var v note
	if err := durable.LoadDocument(filepath.Join(t.TempDir(), "none"), "note", 2, &v); !errors.Is(err, durable.ErrNotExist) || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing: %v", err)
	}
	path := saved(t)
	if err := durable.LoadDocument(path, "other", 2, &v); !errors.Is(err, durable.ErrCorrupt) {
		t.Errorf("other kind: %v", err)
	}
	err := durable.LoadDocument(path, "note", 3, &v)
	var ve *durable.VersionError
	if !errors.Is(err, durable.ErrVersion) || errors.Is(err, durable.ErrCorrupt) || !errors.As(err, &ve) || ve.Got != 2 {
		t.Errorf("other version: %v", err)
	}
	var wrong struct{ Text int }
	if err := durable.LoadDocument(path, "note", 2, &wrong); !errors.Is(err, durable.ErrCorrupt) {
		t.Errorf("payload of another shape: %v", err)
	}
	if diff := cmp.Diff(note{}, v); diff != "" {
		t.Errorf("a refused document was decoded: %s", diff)
	}
}

// TestLoadDocumentDamaged damages every byte and cuts at every length: the
// document is refused, or it is what was saved (a changed white space, say).
func TestLoadDocumentDamaged(t *testing.T) {
	t.Parallel()
	path := saved(t)
	whole := read(t, path)
	var want note
	if err := durable.LoadDocument(path, "note", 2, &want); err != nil {
		t.Fatal(err)
	}
	check := func(what string, at int, data []byte) {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		var got note
		err := durable.LoadDocument(path, "note", 2, &got)
		if err == nil {
			if diff := cmp.Diff(want, got); diff != "" {
				t.Fatalf("%s at %d: accepted and different: %s", what, at, diff)
			}
			return
		}
		var ce *durable.CorruptError
		if !errors.As(err, &ce) || ce.Path != path || ce.Reason == "" {
			t.Fatalf("%s at %d: err = %v, want a CorruptError", what, at, err)
		}
		if strings.Contains(err.Error(), "2.50") {
			t.Fatalf("%s at %d: the error shows content: %v", what, at, err)
		}
	}
	for i := range whole {
		check("cut", i, whole[:i])
		for _, bit := range []byte{1, 0x20} {
			damaged := bytes.Clone(whole)
			damaged[i] ^= bit
			check("flip", i, damaged)
		}
	}
	check("doubled", 0, append(bytes.Clone(whole), whole...))
	check("zeros", 0, make([]byte, len(whole)))
}

func FuzzLoadDocument(f *testing.F) {
	f.Add([]byte(`{"kind":"note","version":2,"sha256":"","payload":{}}`))
	f.Add([]byte(`null`))
	f.Add([]byte(`[]`))
	f.Fuzz(func(t *testing.T, data []byte) {
		path := filepath.Join(t.TempDir(), "f")
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		var v note
		if err := durable.LoadDocument(path, "note", 2, &v); err == nil && !json.Valid(data) {
			t.Error("accepted what is not JSON")
		}
	})
}

func TestDocumentTooLargeIsNotSaved(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "f")
	if err := durable.SaveDocument(path, "note", 1, strings.Repeat("x", durable.MaxDocumentBytes), 0o600); err == nil {
		t.Error("saved what could not be loaded")
	}
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(1 << 40); err != nil { // sparse
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	var v string
	if err := durable.LoadDocument(path, "note", 1, &v); !errors.Is(err, durable.ErrCorrupt) {
		t.Errorf("1 TiB file: %v", err)
	}
}

func TestSaveDocumentUnencodable(t *testing.T) {
	t.Parallel()
	path := saved(t)
	before := read(t, path)
	if err := durable.SaveDocument(path, "note", 2, make(chan int), 0o600); err == nil {
		t.Error("encoded a channel")
	}
	if !bytes.Equal(before, read(t, path)) {
		t.Error("the old document changed")
	}
}

func TestSetAsideKeepsAFew(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	var last string
	for i := range 10 {
		if err := os.WriteFile(path, []byte{byte(i)}, 0o600); err != nil {
			t.Fatal(err)
		}
		aside, err := durable.SetAside(path)
		if err != nil {
			t.Fatal(err)
		}
		last = aside
		if !strings.HasPrefix(aside, path+".corrupt-") {
			t.Errorf("set aside as %s", aside)
		}
	}
	found, err := filepath.Glob(path + ".corrupt-*")
	if err != nil || len(found) != 3 {
		t.Errorf("kept %v, %v", found, err)
	}
	if got := read(t, last); !bytes.Equal(got, []byte{9}) {
		t.Errorf("the newest copy holds %v", got)
	}
	if _, err := durable.SetAside(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("nothing to set aside: %v", err)
	}
}
