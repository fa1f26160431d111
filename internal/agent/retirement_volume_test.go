package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/project-flotta/flotta-agent/internal/host/mounts"
)

func newVolumes(t *testing.T) volumes {
	t.Helper()
	return volumes{dir: t.TempDir()}
}

func (v volumes) mustBeEmpty(t *testing.T) {
	t.Helper()
	if entries, err := os.ReadDir(v.dir); err != nil || len(entries) != 0 {
		t.Errorf("left: %v, %v", entries, err)
	}
}

func noStep(string) {}

func TestVolumeIsSetAsideAndRemoved(t *testing.T) {
	t.Parallel()
	v := newVolumes(t)
	outside := filepath.Join(t.TempDir(), "precious")
	if err := os.WriteFile(outside, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	w := v.path("w")
	for _, dir := range []string{"a/b/c", "a/d", ".hidden", "closed"} {
		if err := os.MkdirAll(filepath.Join(w, dir), 0o755); err != nil {
			t.Fatal(err)
		}
		for i := range 600 { // more than a batch
			if err := os.WriteFile(filepath.Join(w, dir, fmt.Sprint("file", i)), nil, 0); err != nil {
				t.Fatal(err)
			}
		}
	}
	for name, make := range map[string]func(string) error{
		"link to a file":   func(p string) error { return os.Symlink(outside, p) },
		"link to a folder": func(p string) error { return os.Symlink(filepath.Dir(outside), p) },
		"dangling":         func(p string) error { return os.Symlink("nowhere", p) },
		"fifo":             func(p string) error { return unix.Mkfifo(p, 0o600) },
		"hard link":        func(p string) error { return os.Link(filepath.Join(w, "a/d/file1"), p) },
	} {
		if err := make(filepath.Join(w, "a", name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(filepath.Join(w, "closed"), 0); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second time is after a crash
		if err := v.setAside("w", "id"); err != nil {
			t.Fatal(err)
		}
	}
	if there, err := v.has("w"); there || err != nil {
		t.Errorf("it is still in its place: %v", err)
	}
	if err := os.Mkdir(w, 0o755); err != nil { // the next life of w
		t.Fatal(err)
	}
	if err := v.removeAside(t.Context(), noStep); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(w); err != nil {
		t.Errorf("the new volume was touched: %v", err)
	}
	v.mustBeEmpty(t)
	if _, err := os.Stat(outside); err != nil {
		t.Errorf("a link was followed: %v", err)
	}
}

func TestRemovalOfDeepTrees(t *testing.T) {
	t.Parallel()
	v := newVolumes(t)
	// Deeper than any path can say, and than there are file descriptors.
	root, err := os.OpenFile(v.dir, unix.O_DIRECTORY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	at := int(root.Fd())
	const name = ".gone-deep-1"
	for depth := range 3000 {
		next := "d"
		if depth == 0 {
			next = name
		}
		if err := unix.Mkdirat(at, next, 0o755); err != nil {
			t.Fatal(err)
		}
		fd, err := unix.Openat(at, next, unix.O_DIRECTORY, 0)
		if err != nil {
			t.Fatal(err)
		}
		if depth > 0 {
			_ = unix.Close(at)
		}
		at = fd
		if depth%100 == 0 {
			f, err := unix.Openat(at, "file", unix.O_CREAT|unix.O_WRONLY, 0o600)
			if err != nil {
				t.Fatal(err)
			}
			_ = unix.Close(f)
		}
	}
	_ = unix.Close(at)
	if err := v.removeAside(t.Context(), noStep); err != nil {
		t.Fatal(err)
	}
	v.mustBeEmpty(t)
}

func TestRemovalGoesOnAfterAnEnd(t *testing.T) {
	t.Parallel()
	v := newVolumes(t)
	for i := range 2000 {
		dir := v.path(fmt.Sprintf(".gone-w-id/%d", i%3))
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	if err := v.removeAside(ctx, func(string) { cancel() }); !errors.Is(err, context.Canceled) {
		t.Fatalf("removal: %v", err)
	}
	if _, err := os.Stat(v.path(".gone-w-id")); err != nil {
		t.Fatalf("it ended too late for this test: %v", err)
	}
	if err := v.removeAside(t.Context(), noStep); err != nil {
		t.Fatal(err)
	}
	v.mustBeEmpty(t)
}

// Not parallel: it looks at the memory of the whole process.
func TestRemovalTakesLittleMemory(t *testing.T) {
	v := newVolumes(t)
	dir := v.path(".gone-w-id")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for i := range 20_000 {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	most := uint64(0)
	var before, now runtime.MemStats
	runtime.ReadMemStats(&before)
	if err := v.removeAside(t.Context(), func(string) {
		runtime.ReadMemStats(&now)
		most = max(most, now.HeapAlloc)
	}); err != nil {
		t.Fatal(err)
	}
	if grown := int64(most) - int64(before.HeapAlloc); grown > 16<<20 {
		t.Errorf("the heap grew by %d bytes", grown)
	}
}

func TestWhatIsNoVolumeStays(t *testing.T) {
	t.Parallel()
	v := newVolumes(t)
	if err := os.WriteFile(v.path("file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc", v.path("link")); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"file", "link"} {
		if err := v.setAside(name, "id"); err == nil || !strings.Contains(err.Error(), "no folder") {
			t.Errorf("%s: %v", name, err)
		}
		if there, _ := v.has(name); !there {
			t.Errorf("%s is gone", name)
		}
	}
	if err := v.setAside("nothing", "id"); err != nil {
		t.Error(err)
	}
	absent := volumes{dir: filepath.Join(v.dir, "absent")}
	if err := errors.Join(absent.setAside("w", "id"), absent.removeAside(t.Context(), noStep)); err != nil {
		t.Error(err)
	}
}

func TestMountPoints(t *testing.T) {
	t.Parallel()
	list := []mounts.Mount{{Directory: "/"}, {Directory: "/v/b/data"}, {Directory: `/v/with space\/x`}, {Directory: "/v/a-b"}}
	for dir, want := range map[string]string{
		"/v/a": "", "/v/b": "/v/b/data", "/v/b/data": "/v/b/data", "/v/b/da": "",
		`/v/with space\`: `/v/with space\/x`, "/v/a-b": "/v/a-b", "/v/c": "",
	} {
		if got := mountBelow(list, dir); got != want {
			t.Errorf("%s: %q, want %q", dir, got, want)
		}
	}
}
