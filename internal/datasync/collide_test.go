package datasync

import (
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/project-flotta/flotta-agent/internal/datasync/s3"
)

func TestSpellingsAreDifferentFiles(t *testing.T) {
	t.Parallel()
	store := newMemStore()
	b := newBench(t, store, paths(nil, down()), nil)
	want := map[string]string{}
	for _, name := range []string{"a", "A", "dir/x", "Dir/x", "\u00e9", "e\u0301", "ß", "SS", "ss"} {
		want[name] = "content of " + name
		store.set("down/"+name, []byte(want[name]), s3.Upload{})
	}
	b.mustSync(ingress)
	if diff := cmp.Diff(want, b.files("in")); diff != "" {
		t.Error(diff)
	}
	if s := b.status(ingress); s.Refused != 0 || len(b.temps()) != 0 {
		t.Errorf("status %+v, left over %v", s, b.temps())
	}
}

func TestCollisionsAreRefused(t *testing.T) {
	t.Parallel()
	store := newMemStore()
	b := newBench(t, store, paths(nil, nil), nil)
	b.tune(func(s *space) { s.folds = func(volume) bool { return true } })
	told := paths(nil, down())
	for _, name := range []string{"A/x", "a/y", "F", "f", "\u212a", "k", "z/1", "Z"} {
		store.set("down/"+name, []byte("content of "+name), s3.Upload{})
	}
	b.tell(told)
	for range 3 {
		b.mustSync(ingress)
	}
	// This file system has them apart, so that all that is not refused is there.
	want := map[string]string{}
	for _, name := range []string{"A/x", "F", "k", "Z", "a/y", "z/1"} {
		want[name] = "content of " + name
	}
	if diff := cmp.Diff(want, b.files("in")); diff != "" {
		t.Error(diff)
	}
	if s := b.status(ingress); s.Refused != 2 || b.reported(reasonCollision, "") != 2 {
		t.Errorf("status %+v, reported %d", s, b.reported(reasonCollision, ""))
	}
}

func TestFoldCase(t *testing.T) {
	t.Parallel()
	for _, pair := range [][2]string{{"a/B", "A/b"}, {"É", "é"}, {"σ", "ς"}, {"K", "\u212a"}} {
		if foldCase(pair[0]) != foldCase(pair[1]) {
			t.Errorf("%q and %q differ", pair[0], pair[1])
		}
	}
	if foldCase("a") == foldCase("b") || foldCase("a/b") == foldCase("ab") {
		t.Error("different names are one")
	}
}

func TestExactName(t *testing.T) {
	t.Parallel()
	dir, err := os.Open(t.TempDir())
	must(t, err)
	defer dir.Close()
	for _, name := range []string{"there", strings.Repeat("x", 200)} {
		must(t, os.WriteFile(dir.Name()+"/"+name, nil, 0o600))
		if err := exactName(dir, name); err != nil {
			t.Error(err)
		}
	}
	if err := exactName(dir, "absent"); err != nil {
		t.Error(err)
	}
	// Only a file system that knows several spellings finds what it does not list.
	if err := exactName(dir, "."); !errors.Is(err, errSpelling) {
		t.Errorf("got %v", err)
	}
}
