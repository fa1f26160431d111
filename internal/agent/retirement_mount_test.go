//go:build integration

package agent

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// A person's mount in a volume is never crossed: not one of another file system,
// and not one of the same.
func TestVolumeWithAMountStays(t *testing.T) {
	for name, mount := range map[string]func(source, at string) error{
		"bind":  func(source, at string) error { return unix.Mount(source, at, "", unix.MS_BIND, "") },
		"tmpfs": func(_, at string) error { return unix.Mount("tmpfs", at, "tmpfs", 0, "size=1m") },
	} {
		t.Run(name, func(t *testing.T) {
			v := newVolumes(t)
			source, at := filepath.Join(t.TempDir(), "source"), v.path("w/deep/mount")
			if err := errors.Join(os.MkdirAll(source, 0o755), os.MkdirAll(at, 0o755)); err != nil {
				t.Fatal(err)
			}
			if err := mount(source, at); err != nil {
				t.Fatalf("mount, which needs root: %v", err)
			}
			defer func() { _ = unix.Unmount(at, unix.MNT_DETACH) }()
			precious := filepath.Join(at, "precious")
			if err := os.WriteFile(precious, []byte("x"), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := v.setAside("w", "id"); !errors.Is(err, errMounted) || !strings.Contains(err.Error(), "w/deep/mount") {
				t.Errorf("set aside: %v", err)
			}
			// And not either when it came there later.
			aside := v.path(asidePrefix + "w-id")
			if err := os.Rename(v.path("w"), aside); err != nil {
				t.Fatal(err)
			}
			at = filepath.Join(aside, "deep/mount")
			if err := v.removeAside(t.Context(), noStep); !errors.Is(err, errMounted) {
				t.Errorf("remove: %v", err)
			}
			dir, err := os.Open(v.dir)
			if err != nil {
				t.Fatal(err)
			}
			defer dir.Close()
			r := removal{ctx: t.Context(), step: noStep}
			if err := r.remove(dir, asidePrefix+"w-id"); !errors.Is(err, errMounted) {
				t.Errorf("remove without looking: %v", err)
			}
			if _, err := os.Stat(filepath.Join(at, "precious")); err != nil {
				t.Errorf("the mounted file: %v", err)
			}
			if err := unix.Unmount(at, 0); err != nil {
				t.Fatal(err)
			}
			if err := v.removeAside(t.Context(), noStep); err != nil {
				t.Error(err)
			}
			v.mustBeEmpty(t)
		})
	}
}
