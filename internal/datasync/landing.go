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
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Owner is a numeric user and group.
type Owner struct{ UID, GID int }

// subfolder opens the folder name in parent and makes it when it is missing. A
// link that leads out of parent is refused.
func subfolder(parent *os.Root, name string, owner *Owner) (sub *os.Root, made bool, err error) {
	sub, err = openSub(parent, name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		// Package os has no error of its own for a root that is no folder.
		if info, statErr := parent.Stat(name); statErr == nil && !info.IsDir() {
			err = &inTheWayError{kind: infoEntry(name, info).Kind}
		}
		return nil, false, err
	}
	if err == nil {
		return sub, false, nil
	}
	if err := parent.Mkdir(name, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, false, err
	}
	if sub, err = openSub(parent, name); err != nil {
		return nil, false, err
	}
	err = sub.Chmod(".", 0o755) // whatever the umask is
	if err == nil && owner != nil {
		err = sub.Chown(".", owner.UID, owner.GID)
	}
	if err != nil {
		_ = sub.Close()
		return nil, false, err
	}
	return sub, true, nil
}

// openSub opens a folder, and never waits for what is no folder: to open a FIFO
// ends when somebody writes to it.
func openSub(parent *os.Root, name string) (*os.Root, error) {
	return parent.OpenRoot(name + "/.") // with O_DIRECTORY, as all but the last of a path
}

func syncDir(root *os.Root) error {
	f, err := root.OpenFile(".", os.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// folder is an open folder of a volume: the folder itself, wherever somebody
// moves it. Names in it are used by way of its descriptor, one component at a
// time, so that no path can be redirected.
type folder struct {
	file  *os.File
	path  string
	users int
	stale bool // closed when nobody uses it any more
}

func (f *folder) fd() int { return int(f.file.Fd()) }

// folders keeps the folders open that downloads go to: many files of one batch
// share one.
type folders struct {
	volume volume
	owner  *Owner
	exact  func(dir *os.File, name string) error // refuses another spelling of name; nil: there is none

	mu   sync.Mutex
	open map[string]*folder
	made bool // folders were made whose names may not be on disk
}

// use opens a folder, making it and those above it; it has to be released.
func (s *folders) use(name string) (*folder, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if f := s.open[name]; f != nil {
		f.users++
		return f, nil
	}
	var file *os.File
	err := fs.ErrNotExist
	if s.exact == nil {
		file, err = s.volume.openDir(name)
	}
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		file, err = s.make(name)
	}
	if err != nil {
		return nil, fmt.Errorf("open folder %q: %w", name, err)
	}
	f := &folder{file: file, path: name, users: 1}
	s.open[name] = f
	return f, nil
}

func (s *folders) make(name string) (*os.File, error) {
	dir, err := s.volume.root.OpenRoot(".")
	if err != nil {
		return nil, err
	}
	defer func() { _ = dir.Close() }()
	for component := range strings.SplitSeq(name, "/") {
		if component == "." {
			break
		}
		if err := s.spelled(dir, component); err != nil {
			return nil, err
		}
		sub, made, err := subfolder(dir, component, s.owner)
		if err != nil {
			return nil, err
		}
		s.made = s.made || made
		_ = dir.Close()
		dir = sub
	}
	return dir.OpenFile(".", os.O_RDONLY|unix.O_DIRECTORY, 0)
}

// spelled refuses a folder that is there under another spelling of its name.
func (s *folders) spelled(dir *os.Root, name string) error {
	if s.exact == nil {
		return nil
	}
	f, err := dir.OpenFile(".", os.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // read only.
	return s.exact(f, name)
}

// reach makes a folder, or says what is in its way.
func (s *folders) reach(name string) error {
	f, err := s.use(name)
	if err == nil {
		s.release(f)
	}
	return err
}

func (s *folders) release(f *folder) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f.users--
	if f.users == 0 && f.stale {
		_ = f.file.Close()
	}
}

// expire lets go of all folders: the next use looks again where they are.
func (s *folders) expire() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range s.open {
		f.stale = true
		if f.users == 0 {
			_ = f.file.Close()
		}
	}
	clear(s.open)
}

// fresh reports whether folders were made since the last call, whose names are
// to be put on disk.
func (s *folders) fresh() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	made := s.made
	s.made = false
	return made
}

// moved reports whether the folder is not any more where its path says.
func (s *folders) moved(f *folder) bool {
	now, err := s.volume.root.Stat(f.path)
	if err != nil {
		return true
	}
	then, err := f.file.Stat()
	return err != nil || !os.SameFile(now, then)
}

// landing is a file on its way into a volume: bytes go to a temporary name in
// the folder where the file will be. Until it is sealed it belongs to the agent
// alone, and no process in the workload can open it.
type landing struct {
	all  *folders
	dir  *folder
	base string
	temp string
	file *os.File
}

// land begins a file at a path in the volume. An empty temp stands for a new
// temporary name; a file of the given one is replaced.
func (s *folders) land(name, temp string) (*landing, error) {
	dir, err := s.use(path.Dir(name))
	if err != nil {
		return nil, err
	}
	l := &landing{all: s, dir: dir, base: path.Base(name), temp: temp}
	if temp == "" {
		l.temp = tempName()
	} else if err = unix.Unlinkat(dir.fd(), temp, 0); errors.Is(err, unix.ENOENT) {
		err = nil
	}
	if err == nil {
		l.file, err = l.open(unix.O_CREAT | unix.O_EXCL)
	}
	if err != nil {
		s.release(dir)
		return nil, err
	}
	return l, nil
}

// resume opens a file that was begun before under the given temporary name.
func (s *folders) resume(name, temp string) (*landing, error) {
	dir, err := s.use(path.Dir(name))
	if err != nil {
		return nil, err
	}
	l := &landing{all: s, dir: dir, base: path.Base(name), temp: temp}
	var st unix.Stat_t
	if l.file, err = l.open(unix.O_NONBLOCK); err == nil {
		err = unix.Fstat(int(l.file.Fd()), &st)
	}
	// A second name would be a way to the content for the workload.
	if err == nil && (modeKind(st.Mode) != kindRegular || st.Nlink != 1 || !s.ours(int(st.Uid))) {
		err = errNotRegular
	}
	if err == nil {
		err = l.file.Chmod(0o600)
	}
	if err != nil {
		l.close()
		return nil, err
	}
	return l, nil
}

// ours reports whether a file of that user can be one that was begun before; it
// is the owner's from when it was sealed.
func (s *folders) ours(uid int) bool {
	return uid == os.Geteuid() || s.owner != nil && uid == s.owner.UID
}

func (l *landing) open(flags int) (*os.File, error) {
	fd, err := unix.Openat(l.dir.fd(), l.temp, unix.O_RDWR|unix.O_NOFOLLOW|unix.O_CLOEXEC|flags, 0o600)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: l.temp, Err: err}
	}
	return os.NewFile(uintptr(fd), l.temp), nil
}

func tempName() string {
	var b [tempDigits / 2]byte
	_, _ = rand.Read(b[:]) // never fails
	return tempPrefix + hex.EncodeToString(b[:])
}

// close lets go of the file and leaves it as it is.
func (l *landing) close() {
	if l.file != nil {
		_ = l.file.Close()
		l.file = nil
	}
	if l.dir != nil {
		l.all.release(l.dir)
		l.dir = nil
	}
}

// discard removes what did not become a file, and nothing that the workload has
// under its temporary name.
func (l *landing) discard() {
	if l.dir != nil && l.file != nil {
		mine, err := fstat(l.file, l.temp)
		if there, statErr := l.lstat(l.temp); err == nil && statErr == nil && there.Inode == mine.Inode {
			_ = unix.Unlinkat(l.dir.fd(), l.temp, 0)
		}
	}
	l.close()
}

// seal gives the file its final attributes, after all writes and without the
// set-user bits of any source.
func (l *landing) seal(mode uint32, mtime time.Time) error {
	if err := l.file.Chmod(fs.FileMode(mode & 0o777)); err != nil {
		return err
	}
	if o := l.all.owner; o != nil {
		if err := l.file.Chown(o.UID, o.GID); err != nil {
			return err
		}
	}
	if mtime.IsZero() {
		return nil
	}
	at := unix.NsecToTimespec(mtime.UnixNano())
	now := unix.Timespec{Nsec: unix.UTIME_OMIT}
	err := unix.UtimesNanoAt(l.dir.fd(), l.temp, []unix.Timespec{now, at}, unix.AT_SYMLINK_NOFOLLOW)
	if errors.Is(err, unix.ENOENT) {
		return errChanged // the workload removed it
	}
	return err
}

// syncFolder puts the names in a folder of the volume on disk.
func (v volume) syncFolder(name string) error {
	f, err := v.openDir(name)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
