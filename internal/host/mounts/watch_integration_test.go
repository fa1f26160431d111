//go:build integration

package mounts

import (
	"context"
	"os"
	"os/exec"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// inNamespace says that this process has mounts of its own.
const inNamespace = "FLOTTA_TEST_OWN_MOUNTS"

// TestWatch mounts and unmounts, in a mount namespace that ends with the test.
func TestWatch(t *testing.T) {
	if os.Getenv(inNamespace) == "" {
		self, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.CommandContext(t.Context(), "unshare", "--mount", self, "-test.run=^TestWatch$", "-test.timeout=2m")
		cmd.Env = append(os.Environ(), inNamespace+"=1")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	dir := t.TempDir() + "/a folder\twith \\ and #"
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	tab := New(Default)
	ctx, cancel := context.WithCancel(t.Context())
	wake, ended := make(chan struct{}, 1), make(chan error, 1)
	go func() {
		ended <- tab.Watch(ctx, func() {
			select {
			case wake <- struct{}{}:
			default:
			}
		})
	}()
	await := func(want bool) {
		t.Helper()
		for {
			select {
			case <-wake:
			case <-time.After(30 * time.Second):
				t.Fatalf("no word of it within 30 s; mounted should be %v", want)
			}
			if there, err := tab.Mounted(dir); err != nil {
				t.Fatal(err)
			} else if there == want {
				return
			}
		}
	}
	await(false)
	for range 50 {
		if err := unix.Mount("none", dir, "tmpfs", 0, "size=1m"); err != nil {
			t.Fatal(err)
		}
		await(true)
		if err := unix.Unmount(dir, 0); err != nil {
			t.Fatal(err)
		}
		await(false)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
