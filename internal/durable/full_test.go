//go:build integration

package durable_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/project-flotta/flotta-agent/internal/durable"
)

// TestWriteFileOnFullDisk needs root, to mount a small tmpfs.
func TestWriteFileOnFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=256k"); err != nil {
		t.Fatalf("mount tmpfs: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	path := filepath.Join(dir, "f")
	if err := durable.WriteFile(path, oldContent, 0o600); err != nil {
		t.Fatal(err)
	}
	err := durable.WriteFile(path, bytes.Repeat([]byte("x"), 1<<20), 0o600)
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("err = %v, want ENOSPC", err)
	}
	if !bytes.Equal(read(t, path), oldContent) {
		t.Error("the old file is not intact")
	}
	if left := temps(t, dir); len(left) > 0 {
		t.Errorf("temporary files left: %v", left)
	}
	// Full to the last byte, also an empty lock file can be taken.
	fill := filepath.Join(dir, "fill")
	_ = os.WriteFile(fill, bytes.Repeat([]byte("x"), 1<<20), 0o600)
	l, err := durable.Lock(filepath.Join(dir, "lock"))
	if err != nil {
		t.Fatalf("lock on a full disk: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}
