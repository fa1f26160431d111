package datasync

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Owner is a numeric user and group.
type Owner struct{ UID, GID int }

// subfolder opens the folder name in parent and makes it when it is missing. A
// link that leads out of parent is refused.
func subfolder(parent *os.Root, name string, owner *Owner) (*os.Root, error) {
	sub, err := parent.OpenRoot(name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		// Package os has no error of its own for a root that is no folder.
		if info, statErr := parent.Stat(name); statErr == nil && !info.IsDir() {
			err = &inTheWayError{kind: infoEntry(name, info).Kind}
		}
		return nil, err
	}
	if err == nil {
		return sub, nil
	}
	if err := parent.Mkdir(name, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	if sub, err = parent.OpenRoot(name); err != nil {
		return nil, err
	}
	err = sub.Chmod(".", 0o755) // whatever the umask is
	if err == nil && owner != nil {
		err = sub.Chown(".", owner.UID, owner.GID)
	}
	if err == nil {
		err = syncDir(parent)
	}
	if err != nil {
		_ = sub.Close()
		return nil, err
	}
	return sub, nil
}

func syncDir(root *os.Root) error {
	f, err := root.OpenFile(".", os.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// landing is a file on its way into a volume: bytes go to a temporary name in
// the folder where the file will be.
type landing struct {
	dir  *os.Root // holds the folder itself, wherever somebody moves it
	base string
	temp string
	file *os.File
}

// land begins a file at path in the volume, making the folders above it.
func (v volume) land(name string, owner *Owner) (*landing, error) {
	dir, err := v.root.OpenRoot(".")
	if err != nil {
		return nil, err
	}
	if parent := path.Dir(name); parent != "." {
		for component := range strings.SplitSeq(parent, "/") {
			sub, err := subfolder(dir, component, owner)
			_ = dir.Close()
			if err != nil {
				return nil, fmt.Errorf("make folder %q: %w", parent, err)
			}
			dir = sub
		}
	}
	l := &landing{dir: dir, base: path.Base(name), temp: tempName()}
	l.file, err = dir.OpenFile(l.temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err == nil && owner != nil {
		err = l.file.Chown(owner.UID, owner.GID)
	}
	if err != nil {
		l.discard()
		return nil, err
	}
	return l, nil
}

func tempName() string {
	var b [tempDigits / 2]byte
	_, _ = rand.Read(b[:]) // never fails
	return tempPrefix + hex.EncodeToString(b[:])
}

// discard removes what did not become a file.
func (l *landing) discard() {
	if l.file != nil {
		_ = l.file.Close()
		_ = l.dir.Remove(l.temp)
	}
	_ = l.dir.Close()
}

// seal puts the content on disk under the temporary name.
func (l *landing) seal(mode uint32, mtime time.Time) error {
	// Chmod after all writes and without the set-user bits of any source.
	if err := l.file.Chmod(fs.FileMode(mode & 0o777)); err != nil {
		return err
	}
	if !mtime.IsZero() {
		if err := l.dir.Chtimes(l.temp, time.Time{}, mtime); err != nil {
			return err
		}
	}
	return l.file.Sync()
}

// current looks at what is in the file's place.
func (l *landing) current() (entry, error) { return volume{root: l.dir}.lstat(l.base) }

// keepAside gives what is in the file's place a second name, so that the place
// is never empty; a former version kept under that name is replaced.
func (l *landing) keepAside() error {
	aside := l.base
	// A name that is nearly too long still gets its suffix.
	if room := maxNameBytes - len(asideSuffix); len(aside) > room {
		aside = aside[:room]
	}
	aside += asideSuffix
	link := tempName()
	if err := l.dir.Link(l.base, link); err != nil {
		// No hard links here, or not for us: then the place is empty until the
		// new file is put into it a moment later.
		return l.dir.Rename(l.base, aside)
	}
	err := l.dir.Rename(link, aside)
	// A rename between two links of one file leaves both.
	if rmErr := l.dir.Remove(link); err == nil && rmErr != nil && !errors.Is(rmErr, fs.ErrNotExist) {
		err = rmErr
	}
	return err
}

// put gives the file its name and returns what lies there. The folder is not yet
// on disk: see syncFolder.
func (l *landing) put(name string) (entry, error) {
	before, err := fstat(l.file, name)
	if err != nil {
		return entry{}, err
	}
	if err := l.dir.Rename(l.temp, l.base); err != nil {
		return entry{}, err
	}
	e, err := fstat(l.file, name)
	_ = l.file.Close()
	l.file = nil
	// The rename moved ctime. What else moved was the workload, and has to
	// show as its change.
	if err == nil && (e.Size != before.Size || e.MTime != before.MTime) {
		e = before
	}
	return e, err
}

// syncFolder puts the names in a folder of the volume on disk.
func (v volume) syncFolder(name string) error {
	f, err := v.openDir(name)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// free returns how many bytes an unprivileged user can still write to the
// volume's file system, and how many it has in all.
func (v volume) free() (avail, total int64, err error) {
	f, err := v.openDir(".")
	if err != nil {
		return 0, 0, err
	}
	defer f.Close() //nolint:errcheck // read only.
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &st); err != nil {
		return 0, 0, fmt.Errorf("read free space: %w", err)
	}
	return int64(st.Bavail) * st.Bsize, int64(st.Blocks) * st.Bsize, nil //nolint:gosec // no disk has 2^63 blocks.
}
