package datasync

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"path"

	"golang.org/x/sys/unix"
)

// placeAttempts bounds how often a workload may change what is in a file's place
// while the file is put there.
const placeAttempts = 8

// place gives the file its name and returns what lies there. What was there and
// is not expendable is kept aside; so is what turns out to have been something
// else at the very moment of the change. The folder is not yet on disk.
func (l *landing) place(name string, expendable func(entry) (bool, error)) (e entry, kept bool, err error) {
	sealed, err := fstat(l.file, name)
	if err != nil {
		return entry{}, false, err
	}
	for range placeAttempts {
		if temp, err := l.lstat(l.temp); err != nil || temp.Inode != sealed.Inode {
			return entry{}, kept, errors.Join(err, errChanged) // the workload took it away
		}
		done, err := l.appear()
		if err != nil {
			return entry{}, kept, err
		}
		if done {
			e, err = l.landed(name, sealed)
			return e, kept, err
		}
		now, err := l.lstat(l.base)
		if err != nil {
			return entry{}, kept, err
		}
		switch now.Kind {
		case kindAbsent:
			// It went away again.
		case kindRegular:
			var may, aside bool
			if may, err = expendable(now); err != nil {
				return entry{}, kept, err
			}
			done, aside, err = l.replace(now, may)
			kept = kept || aside
		default:
			err = &inTheWayError{kind: now.Kind}
		}
		if err != nil {
			return entry{}, kept, err
		}
		if done {
			e, err = l.landed(name, sealed)
			return e, kept, err
		}
	}
	return entry{}, kept, errChanged
}

func (l *landing) lstat(name string) (entry, error) { return lstatAt(l.dir.file, ".", name) }

// landed returns the file's entry under its name.
func (l *landing) landed(name string, sealed entry) (entry, error) {
	e, err := fstat(l.file, name)
	// The rename moved ctime. What else moved was the workload, and has to
	// show as its change.
	if err == nil && (e.Size != sealed.Size || e.MTime != sealed.MTime) {
		e = sealed
	}
	l.close()
	return e, err
}

// appear renames the file to a name that nobody has; false: somebody does by now.
func (l *landing) appear() (bool, error) {
	dir := l.dir.fd()
	err := unix.Renameat2(dir, l.temp, dir, l.base, unix.RENAME_NOREPLACE)
	if notSupported(err) {
		if err = unix.Linkat(dir, l.temp, dir, l.base, 0); err == nil {
			_ = unix.Unlinkat(dir, l.temp, 0)
		}
	}
	if notSupported(err) || errors.Is(err, unix.EPERM) {
		var now entry
		if now, err = l.lstat(l.base); err == nil && now.Kind == kindAbsent {
			err = unix.Renameat(dir, l.temp, dir, l.base)
		} else if err == nil {
			err = unix.EEXIST
		}
	}
	if errors.Is(err, unix.EEXIST) {
		return false, nil
	}
	return err == nil, vanished(err)
}

// replace exchanges the file with the one in its place, and disposes of that one:
// a reader sees the old or the new file, and nothing that the workload wrote
// until then is lost. False: there is nothing any more to be replaced.
func (l *landing) replace(now entry, expendable bool) (done, kept bool, err error) {
	if !expendable {
		// First, so that a kill at any moment leaves it with a proper name.
		if err := l.keepAside(); err != nil {
			return false, false, fmt.Errorf("keep local file: %w", vanished(err))
		}
		kept = true
	}
	dir := l.dir.fd()
	err = unix.Renameat2(dir, l.temp, dir, l.base, unix.RENAME_EXCHANGE)
	switch {
	case notSupported(err):
		err = unix.Renameat(dir, l.temp, dir, l.base)
		return err == nil, kept, vanished(err)
	case errors.Is(err, unix.ENOENT):
		return false, kept, nil
	case err != nil:
		return false, kept, err
	}
	was, err := l.lstat(l.temp)
	switch {
	case err != nil:
		return false, kept, err
	case was.Kind == kindAbsent:
		return true, kept, nil // the workload took it
	case was.Kind != kindRegular:
		return false, kept, errors.Join(&inTheWayError{kind: was.Kind}, l.undo())
	case sameContent(was, now) && (kept || !l.beingWritten()):
		return true, kept, unix.Unlinkat(dir, l.temp, 0)
	}
	if err := unix.Renameat(dir, l.temp, dir, asideName(l.base)); err != nil {
		return false, kept, errors.Join(fmt.Errorf("keep local file: %w", err), l.undo())
	}
	// A rename between two links of one file leaves both.
	if err := unix.Unlinkat(dir, l.temp, 0); err != nil && !errors.Is(err, unix.ENOENT) {
		return true, true, err
	}
	return true, true, nil
}

// undo exchanges the two files once more.
func (l *landing) undo() error {
	return unix.Renameat2(l.dir.fd(), l.temp, l.dir.fd(), l.base, unix.RENAME_EXCHANGE)
}

// sameContent reports whether a file that was renamed since was not written to.
func sameContent(a, b entry) bool {
	return a.Inode == b.Inode && a.Size == b.Size && a.MTime == b.MTime
}

// beingWritten reports whether somebody has the file open that was exchanged, and
// may go on writing into it. A lease is granted only if nobody does.
func (l *landing) beingWritten() bool {
	fd, err := unix.Openat(l.dir.fd(), l.temp, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd) //nolint:errcheck // read only; ends the lease.
	_, err = unix.FcntlInt(uintptr(fd), unix.F_SETLEASE, unix.F_RDLCK)
	return errors.Is(err, unix.EAGAIN)
}

// keepAside gives what is in the file's place a second name, so that the place
// is never empty; a former version kept under that name is replaced.
func (l *landing) keepAside() error {
	dir, aside, link := l.dir.fd(), asideName(l.base), tempName()
	if err := unix.Linkat(dir, l.base, dir, link, 0); err != nil {
		// No hard links here, or not for us: then the place is empty until the
		// new file is put into it a moment later.
		return unix.Renameat(dir, l.base, dir, aside)
	}
	err := unix.Renameat(dir, link, dir, aside)
	// A rename between two links of one file leaves both.
	if rmErr := unix.Unlinkat(dir, link, 0); err == nil && rmErr != nil && !errors.Is(rmErr, unix.ENOENT) {
		err = rmErr
	}
	return err
}

// asideName returns the name of what is kept of a file. One that would be too
// long is cut, and stays different from all others.
func asideName(base string) string {
	name := path.Base(base)
	if len(name)+len(asideSuffix) <= maxNameBytes {
		return name + asideSuffix
	}
	sum := sha256.Sum256([]byte(name))
	tail := "~" + hex.EncodeToString(sum[:4])
	return cutText(name, maxNameBytes-len(asideSuffix)-len(tail)) + tail + asideSuffix
}

func notSupported(err error) bool {
	return errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EOPNOTSUPP)
}

// vanished makes errChanged of the error for a name that is not there any more.
func vanished(err error) error {
	if errors.Is(err, unix.ENOENT) {
		return errChanged
	}
	return err
}
