package agent

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/project-flotta/flotta-agent/internal/durable"
	"github.com/project-flotta/flotta-agent/internal/host/mounts"
)

const (
	// asidePrefix begins the names of volumes that are being removed; no
	// workload's name begins with a dot.
	asidePrefix = ".gone-"
	// removeBatch names are held in memory at a time.
	removeBatch = 512
	// removeDepth folders are open at a time. What is deeper is moved up first:
	// whoever made the volume says how deep it is.
	removeDepth = 32
)

var errMounted = errors.New("is a mount point")

// volumes is the folder that holds the volumes. What is in them was made by
// untrusted users, and is never followed.
type volumes struct {
	dir string
}

func (v volumes) path(name string) string { return filepath.Join(v.dir, name) }

// has reports whether there is anything in the place of the volume.
func (v volumes) has(name string) (bool, error) {
	_, err := os.Lstat(v.path(name))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// setAside takes a volume out of its place, at once and for good; one that is
// not there was set aside before. It refuses what is no folder and what has a
// mount point in it: that was put there by a person.
func (v volumes) setAside(name, id string) error {
	root, err := os.OpenRoot(v.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("set volume aside: %w", err)
	}
	defer root.Close() //nolint:errcheck // read only
	info, err := root.Lstat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("set volume aside: %w", err)
	case !info.IsDir():
		return fmt.Errorf("set volume aside: %s is no folder", v.path(name))
	}
	if err := v.unmounted(name); err != nil {
		return err
	}
	if err := root.Rename(name, asidePrefix+name+"-"+id); err != nil {
		return fmt.Errorf("set volume aside: %w", err)
	}
	return durable.SyncDir(v.dir)
}

// unmounted makes sure that nothing is mounted in the volume.
func (v volumes) unmounted(name string) error {
	dir, err := filepath.EvalSymlinks(v.dir)
	if err != nil {
		return fmt.Errorf("look for mount points: %w", err)
	}
	list, err := mounts.New(mounts.Default).Mounts()
	if err != nil {
		return fmt.Errorf("look for mount points: %w", err)
	}
	if at := mountBelow(list, filepath.Join(dir, name)); at != "" {
		return fmt.Errorf("%s %w", at, errMounted)
	}
	return nil
}

// mountBelow returns a mount point at dir or below it; empty: there is none.
func mountBelow(list []mounts.Mount, dir string) string {
	for _, m := range list {
		if m.Directory == dir || strings.HasPrefix(m.Directory, dir+"/") {
			return m.Directory
		}
	}
	return ""
}

// removeAside removes all volumes that were set aside. What cannot be removed
// does not hold up the rest.
func (v volumes) removeAside(ctx context.Context, step func(string)) error {
	dir, err := os.Open(v.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove volumes: %w", err)
	}
	defer dir.Close() //nolint:errcheck // read only
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return fmt.Errorf("remove volumes: %w", err)
	}
	var failures []error
	for _, name := range names {
		if !strings.HasPrefix(name, asidePrefix) {
			continue
		}
		r := removal{ctx: ctx, step: step}
		err := v.unmounted(name)
		if err == nil {
			err = r.remove(dir, name)
		}
		if err != nil {
			failures = append(failures, fmt.Errorf("remove %s: %w", v.path(name), err))
		}
	}
	return errors.Join(failures...)
}

// removal removes one tree. It opens one name at a time in a folder that is
// open, so that no path can be redirected.
type removal struct {
	ctx  context.Context //nolint:containedctx // lives as long as one call
	step func(string)
	top  *os.File
	dev  uint64
}

func (r *removal) remove(parent *os.File, name string) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(parent.Fd()), &st); err != nil {
		return err
	}
	r.dev = st.Dev
	top, err := r.open(parent, name)
	if errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
		return unix.Unlinkat(int(parent.Fd()), name, 0) // a person's file of that name
	}
	if err != nil {
		return err
	}
	r.top = top
	err = r.empty(top, 1)
	if err := errors.Join(err, top.Close()); err != nil {
		return err
	}
	return unix.Unlinkat(int(parent.Fd()), name, unix.AT_REMOVEDIR)
}

// empty removes all that is in dir.
func (r *removal) empty(dir *os.File, depth int) error {
	for {
		if err := r.ctx.Err(); err != nil {
			return err
		}
		if _, err := dir.Seek(0, io.SeekStart); err != nil {
			return err
		}
		names, err := dir.Readdirnames(removeBatch)
		if len(names) == 0 {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		removed := false
		var failure error
		for _, name := range names {
			err := r.one(dir, name, depth)
			removed = removed || err == nil
			if err != nil && failure == nil {
				failure = err
			}
		}
		r.step(stepEmptying)
		if !removed {
			return failure
		}
	}
}

// one removes one name from dir.
func (r *removal) one(dir *os.File, name string, depth int) error {
	err := unix.Unlinkat(int(dir.Fd()), name, 0)
	switch {
	case err == nil, errors.Is(err, unix.ENOENT):
		return nil
	case !errors.Is(err, unix.EISDIR) && !errors.Is(err, unix.EPERM):
		return &fs.PathError{Op: "remove", Path: name, Err: err}
	}
	child, openErr := r.open(dir, name)
	switch {
	case errors.Is(openErr, unix.ENOENT):
		return nil
	case errors.Is(openErr, unix.ENOTDIR), errors.Is(openErr, unix.ELOOP):
		return &fs.PathError{Op: "remove", Path: name, Err: err} // it is immutable
	case openErr != nil:
		return openErr
	}
	if depth >= removeDepth {
		_ = child.Close()
		err = unix.Renameat2(int(dir.Fd()), name, int(r.top.Fd()), ".deep-"+rand.Text(), unix.RENAME_NOREPLACE)
	} else {
		err = errors.Join(r.empty(child, depth+1), child.Close())
		if err != nil {
			return err
		}
		err = unix.Unlinkat(int(dir.Fd()), name, unix.AT_REMOVEDIR)
	}
	if err != nil {
		return &fs.PathError{Op: "remove", Path: name, Err: err}
	}
	return nil
}

// open opens a folder in parent, on the same mount.
func (r *removal) open(parent *os.File, name string) (*os.File, error) {
	const flags = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC
	fd, err := unix.Openat2(int(parent.Fd()), name, &unix.OpenHow{
		Flags: flags, Resolve: unix.RESOLVE_NO_XDEV | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_BENEATH,
	})
	if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EPERM) { // an older kernel, or a sandbox
		fd, err = r.openSameDevice(parent, name, flags)
	}
	switch {
	case errors.Is(err, unix.EXDEV):
		return nil, &fs.PathError{Op: "remove", Path: name, Err: errMounted}
	case err != nil:
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	return os.NewFile(uintptr(fd), name), nil
}

// openSameDevice does not see a folder of the same device that is mounted once
// more; the kernel refuses to remove that.
func (r *removal) openSameDevice(parent *os.File, name string, flags int) (int, error) {
	fd, err := unix.Openat(int(parent.Fd()), name, flags, 0)
	if err != nil {
		return -1, err
	}
	var st unix.Stat_t
	err = unix.Fstat(fd, &st)
	if err == nil && st.Dev != r.dev {
		err = unix.EXDEV
	}
	if err != nil {
		_ = unix.Close(fd)
		return -1, err
	}
	return fd, nil
}
