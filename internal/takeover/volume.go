package takeover

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/project-flotta/flotta-agent/internal/durable"
)

// plan says how the volumes come into this agent's folder: renamed, or, where that is not
// possible, by mounting their folder there. It reports what keeps both from being done.
func (c Config) plan(f found) (bind bool, err error) {
	if len(f.volumes) == 0 {
		return false, nil
	}
	from, to := filepath.Join(f.dataDir, volumesDir), filepath.Join(c.StateDir, volumesDir)
	if err := os.MkdirAll(to, 0o711); err != nil {
		return false, err
	}
	if bind, err = apart(from, to); err != nil {
		return false, err
	}
	for _, name := range f.volumes {
		if err := emptyOrAbsent(filepath.Join(to, name)); err != nil {
			return false, fmt.Errorf("volume %s: %w; it is also in %s: keep one of the two", name, err, from)
		}
	}
	if !bind {
		return false, nil
	}
	entries, err := os.ReadDir(to)
	for _, e := range entries {
		if err == nil && emptyOrAbsent(filepath.Join(to, e.Name())) != nil {
			err = fmt.Errorf("%s is to be seen at %s, where there is %s already: move that away", from, to, e.Name())
		}
	}
	return true, err
}

// apart reports whether no folder can be renamed from one to the other: they are on
// two file systems, or two mounts of one, as /etc and /var are where ostree is.
func apart(from, to string) (bool, error) {
	const probe = ".flotta-probe" // no workload's name begins with a dot
	for _, dir := range []string{from, to} {
		if err := os.Remove(filepath.Join(dir, probe)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return false, err
		}
	}
	if err := os.Mkdir(filepath.Join(from, probe), 0o700); err != nil {
		return false, err
	}
	err := os.Rename(filepath.Join(from, probe), filepath.Join(to, probe))
	if errors.Is(err, unix.EXDEV) {
		return true, os.Remove(filepath.Join(from, probe))
	}
	if err == nil {
		err = os.Remove(filepath.Join(to, probe))
	}
	return false, err
}

// oneFolder reports whether both paths are the same folder.
func oneFolder(a, b string) bool {
	x, xerr := os.Stat(a)
	y, yerr := os.Stat(b)
	return xerr == nil && yerr == nil && os.SameFile(x, y)
}

// emptyOrAbsent returns an error when there is something at the path.
func emptyOrAbsent(path string) error {
	entries, err := os.ReadDir(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil && len(entries) > 0 {
		return fmt.Errorf("%s has files in it", path)
	}
	return err
}

// moveVolumes brings the volumes to where this agent has them. A container that has one
// mounted goes on with it: it is the same folder. A link in the old place lets flotta
// v0.2's own pod be started until it is handed over.
func (t *Takeover) moveVolumes(ctx context.Context) error {
	r := t.now()
	if r.Bind {
		return t.bindVolumes(ctx, filepath.Join(r.DataDir, volumesDir), filepath.Join(t.cfg.StateDir, volumesDir))
	}
	if len(r.Volumes) == 0 {
		return nil
	}
	to := filepath.Join(t.cfg.StateDir, volumesDir)
	if err := os.MkdirAll(to, 0o711); err != nil {
		return err
	}
	from := filepath.Join(r.DataDir, volumesDir)
	for _, name := range r.Volumes {
		if err := t.moveVolume(filepath.Join(from, name), filepath.Join(to, name)); err != nil {
			return err
		}
	}
	if err := errors.Join(durable.SyncDir(from), durable.SyncDir(to)); err != nil {
		return err
	}
	return t.update(func(r *record) { r.Volumes = nil })
}

func (t *Takeover) moveVolume(from, to string) error {
	info, err := os.Lstat(from)
	switch {
	case err == nil && info.Mode()&fs.ModeSymlink != 0:
		return nil // it was moved, and linked to
	case err == nil && info.IsDir():
		// Replaces an empty folder, and nothing else.
		if err := os.Rename(from, to); err != nil {
			return err
		}
		t.step("takeover-volume-moved")
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return err
	}
	if info, err := os.Lstat(to); err != nil || !info.IsDir() {
		return err // somebody removed it meanwhile
	}
	if err := os.Symlink(to, from); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	t.cfg.Log.Info("volume of flotta v0.2 moved", "from", from, "path", to)
	return nil
}
