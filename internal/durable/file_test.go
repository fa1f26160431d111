package durable_test

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/project-flotta/flotta-agent/internal/durable"
)

var (
	errDiskFull = &fs.PathError{Op: "write", Path: "x", Err: syscall.ENOSPC}
	steps       = []durable.Step{
		durable.StepCreate, durable.StepPerm, durable.StepWrite, durable.StepSync,
		durable.StepClose, durable.StepRename, durable.StepSyncDir, durable.StepDone,
	}
	oldContent = bytes.Repeat([]byte("old "), 10_000)
	newContent = bytes.Repeat([]byte("new!"), 20_000)
)

const (
	crashStepVar = "DURABLE_TEST_CRASH_STEP"
	crashPathVar = "DURABLE_TEST_CRASH_PATH"
)

// TestMain is also the body of the processes that the crash tests kill.
func TestMain(m *testing.M) {
	step, path := os.Getenv(crashStepVar), os.Getenv(crashPathVar)
	if step == "" {
		os.Exit(m.Run())
	}
	if step == "lock" {
		holdLock(path)
	}
	w := durable.Writer{Fault: func(s durable.Step, _ string) error {
		if string(s) == step {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
		return nil
	}}
	if err := w.WriteFile(path, newContent, 0o640); err != nil {
		os.Exit(3)
	}
	os.Exit(0)
}

func child(t *testing.T, step, path string) *exec.Cmd {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), crashStepVar+"="+step, crashPathVar+"="+path)
	return cmd
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func temps(t *testing.T, dir string) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(dir, durable.TempPrefix+"*"))
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func TestWriteFileReplaces(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	for _, c := range []struct {
		data []byte
		perm fs.FileMode
	}{{oldContent, 0o600}, {newContent, 0o666}, {nil, 0o400}, {[]byte("x"), 0o755}} {
		if err := durable.WriteFile(path, c.data, c.perm); err != nil {
			t.Fatal(err)
		}
		if got := read(t, path); !bytes.Equal(got, c.data) {
			t.Errorf("content is %d bytes, want %d", len(got), len(c.data))
		}
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != c.perm {
			t.Errorf("mode = %v, want %v", info.Mode().Perm(), c.perm)
		}
	}
	if left := temps(t, dir); len(left) > 0 {
		t.Errorf("temporary files left: %v", left)
	}
}

func TestWriteFileReplacesSymlinkNotItsTarget(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	target, link := filepath.Join(dir, "target"), filepath.Join(dir, "link")
	if err := os.WriteFile(target, []byte("keep"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(target, link); err != nil {
		t.Fatal(err)
	}
	if err := durable.WriteFile(link, newContent, 0o600); err != nil {
		t.Fatal(err)
	}
	if got := read(t, target); string(got) != "keep" {
		t.Errorf("the target of the link was written")
	}
}

func TestWriteFileFaultKeepsOld(t *testing.T) {
	t.Parallel()
	for _, step := range steps {
		t.Run(string(step), func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			path := filepath.Join(dir, "f")
			if err := durable.WriteFile(path, oldContent, 0o600); err != nil {
				t.Fatal(err)
			}
			w := durable.Writer{Fault: func(s durable.Step, p string) error {
				if s == step && p == path {
					return errDiskFull
				}
				return nil
			}}
			err := w.WriteFile(path, newContent, 0o600)
			if !errors.Is(err, syscall.ENOSPC) {
				t.Fatalf("err = %v, want ENOSPC", err)
			}
			want := oldContent
			if step == durable.StepSyncDir || step == durable.StepDone {
				want = newContent
			}
			if got := read(t, path); !bytes.Equal(got, want) {
				t.Errorf("content starts with %q, want %q", got[:4], want[:4])
			}
			if left := temps(t, dir); len(left) > 0 {
				t.Errorf("temporary files left: %v", left)
			}
		})
	}
}

func TestWriteFileRealErrors(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := durable.WriteFile(filepath.Join(dir, "none", "f"), newContent, 0o600); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing folder: err = %v, want ErrNotExist", err)
	}
	occupied := filepath.Join(dir, "folder")
	if err := os.MkdirAll(filepath.Join(occupied, "sub"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := durable.WriteFile(occupied, newContent, 0o600); err == nil {
		t.Error("replaced a folder by a file")
	}
	if left := temps(t, dir); len(left) > 0 {
		t.Errorf("temporary files left: %v", left)
	}
}

// TestWriteFileReadOnlyFolder uses procfs, where root may not create files
// either, so that the test means the same to every user.
func TestWriteFileReadOnlyFolder(t *testing.T) {
	t.Parallel()
	if err := durable.WriteFile("/proc/self/f", newContent, 0o600); err == nil {
		t.Error("wrote into procfs")
	}
	if os.Geteuid() == 0 {
		return
	}
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o500); err != nil {
		t.Fatal(err)
	}
	if err := durable.WriteFile(filepath.Join(dir, "f"), newContent, 0o600); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("err = %v, want ErrPermission", err)
	}
}

func TestWriteFileConcurrentWritersNeverMix(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	if err := durable.WriteFile(path, oldContent, 0o600); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for _, data := range [][]byte{oldContent, newContent, oldContent, newContent} {
		wg.Go(func() {
			for range 20 {
				if err := durable.WriteFile(path, data, 0o600); err != nil {
					t.Error(err)
				}
			}
		})
	}
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	for reading := true; reading; {
		select {
		case <-done:
			reading = false
		default:
		}
		if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, oldContent) && !bytes.Equal(got, newContent) {
			t.Fatalf("a reader saw %d bytes, err %v", len(got), err)
		}
	}
	if left := temps(t, dir); len(left) > 0 {
		t.Errorf("temporary files left: %v", left)
	}
}

func TestWriteFileKilledAtEachStep(t *testing.T) {
	t.Parallel()
	for _, step := range steps {
		t.Run(string(step), func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			path := filepath.Join(dir, "f")
			if err := durable.WriteFile(path, oldContent, 0o600); err != nil {
				t.Fatal(err)
			}
			err := child(t, string(step), path).Run()
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
				t.Fatalf("child ended with %v, want SIGKILL", err)
			}
			want, perm := oldContent, fs.FileMode(0o600)
			if step == durable.StepSyncDir || step == durable.StepDone {
				want, perm = newContent, 0o640
			}
			if got := read(t, path); !bytes.Equal(got, want) {
				t.Errorf("after a kill at %s the file starts with %q", step, got[:min(4, len(got))])
			}
			if info, err := os.Stat(path); err != nil || info.Mode().Perm() != perm {
				t.Errorf("mode = %v, %v, want %v", info.Mode(), err, perm)
			}
			if err := durable.Sweep(dir); err != nil {
				t.Fatal(err)
			}
			entries, err := os.ReadDir(dir)
			if err != nil || len(entries) != 1 {
				t.Errorf("after Sweep the folder holds %v, %v", entries, err)
			}
		})
	}
}

func TestSweepTakesOnlyLeftovers(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, name := range []string{durable.TempPrefix + "1", "keep", "a" + durable.TempPrefix} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(filepath.Join(dir, durable.TempPrefix+"folder"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc/passwd", filepath.Join(dir, durable.TempPrefix+"link")); err != nil {
		t.Fatal(err)
	}
	if err := durable.Sweep(dir); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, strings.TrimPrefix(e.Name(), durable.TempPrefix))
	}
	if got := strings.Join(names, " "); got != "folder link a.flotta-tmp- keep" {
		t.Errorf("left: %s", got)
	}
	if err := durable.Sweep(filepath.Join(dir, "none")); err != nil {
		t.Errorf("missing folder: %v", err)
	}
}
