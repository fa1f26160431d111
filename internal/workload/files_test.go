package workload

import (
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/project-flotta/flotta-agent/internal/desired"
	"github.com/project-flotta/flotta-agent/internal/secret"
	"github.com/project-flotta/flotta-agent/internal/workload/manifest"
)

// filesPlan returns the plan of a workload called w whose volume holds value.
func filesPlan(t *testing.T, s store, value string) manifest.Plan {
	t.Helper()
	const spec = `{"containers":[{"name":"a","image":"i"}],"volumes":[
		{"name":"v","secret":{"secretName":"s","items":[{"key":"k","path":"deep/er/k","mode":256}]}},
		{"name":"none","configMap":{"name":"x","optional":true}}]}`
	p, err := manifest.Render(
		desired.Workload{Name: "w", PodSpec: []byte(spec)},
		[]desired.Secret{{Name: "s", Data: map[string]secret.Value{"k": secret.New(value)}}},
		manifest.Options{VolumesDir: "/volumes", WorkloadsDir: s.root},
	)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func filesStore(t *testing.T) store {
	t.Helper()
	return store{root: filepath.Join(t.TempDir(), "workloads"), uid: -1, gid: os.Getgid()}
}

func TestMakeFiles(t *testing.T) {
	t.Parallel()
	s := filesStore(t)
	p := filesPlan(t, s, "one")
	for range 2 { // it may be repeated
		if err := s.makeFiles(p, os.Getuid(), os.Getgid()); err != nil {
			t.Fatal(err)
		}
	}
	dir := manifest.FilesFolder(s.root, "w", p.Files)
	for path, want := range map[string]fs.FileMode{
		".": 0o755 | fs.ModeDir, "v": 0o755 | fs.ModeDir, "none": 0o755 | fs.ModeDir, "v/deep/er": 0o755 | fs.ModeDir, "v/deep/er/k": 0o400,
	} {
		info, err := os.Stat(filepath.Join(dir, path))
		if err != nil {
			t.Fatal(err)
		}
		if got := info.Mode() & (fs.ModePerm | fs.ModeDir); got != want {
			t.Errorf("mode of %s is %s, want %s", path, got, want)
		}
	}
	if data, err := os.ReadFile(filepath.Join(dir, "v/deep/er/k")); err != nil || string(data) != "one" {
		t.Errorf("content %q, %v", data, err)
	}
	info, err := os.Stat(s.path("w"))
	if err != nil || info.Mode()&0o007 != 0 {
		t.Errorf("others get into the workload's folder: %v %v", info.Mode(), err)
	}
}

func TestMakeFilesAfterACrash(t *testing.T) {
	t.Parallel()
	s := filesStore(t)
	p := filesPlan(t, s, "one")
	if err := os.MkdirAll(s.path("w", newFiles, "v", "deep"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.path("w", newFiles, "v", "half"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.makeFiles(p, os.Getuid(), os.Getgid()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(manifest.FilesFolder(s.root, "w", p.Files), "v/half")); err == nil {
		t.Error("what the crash left became part of the files")
	}
}

func TestSweepFiles(t *testing.T) {
	t.Parallel()
	s := filesStore(t)
	plans := []manifest.Plan{filesPlan(t, s, "previous"), filesPlan(t, s, "current"), filesPlan(t, s, "staged"), filesPlan(t, s, "former")}
	for _, p := range plans {
		if err := s.makeFiles(p, os.Getuid(), os.Getgid()); err != nil {
			t.Fatal(err)
		}
	}
	for i, file := range []string{previousFile, manifestFile, nextFile} {
		if err := os.WriteFile(s.path("w", file), plans[i].Manifest, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(s.path("w", newFiles), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := s.sweepFiles("w"); err != nil {
		t.Fatal(err)
	}
	for i, p := range plans {
		_, err := os.Stat(manifest.FilesFolder(s.root, "w", p.Files))
		if kept := err == nil; kept != (i < 3) {
			t.Errorf("files of manifest %d are kept: %t", i, kept)
		}
	}
	if _, err := os.Stat(s.path("w", newFiles)); err == nil {
		t.Error("what a crash left is kept")
	}
	if _, err := os.Stat(s.path("w", manifestFile)); err != nil {
		t.Error("the manifest was swept away")
	}
	if err := s.sweepFiles("nobody"); err != nil {
		t.Errorf("sweep of a workload without a folder: %v", err)
	}
}
