package datasync

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"syscall"

	"golang.org/x/sys/unix"
)

// fileKind is what a path is, as far as synchronising goes.
type fileKind int

const (
	kindAbsent fileKind = iota
	kindRegular
	kindDir
	kindSymlink
	kindSpecial // device, socket or FIFO
)

func (k fileKind) String() string {
	switch k {
	case kindRegular:
		return "file"
	case kindDir:
		return "folder"
	case kindSymlink:
		return "symbolic link"
	case kindSpecial:
		return "device, socket or FIFO"
	}
	return "absent"
}

// entry is one path in a volume as lstat sees it.
type entry struct {
	fingerprint

	Path string // clean and relative to the volume
	Kind fileKind
	Mode uint32 // permission bits
	// Links is how many names the file has.
	Links uint32
}

// volume is the /export folder of a workload. Everything in it belongs to an
// untrusted user who may change it at any time.
type volume struct{ root *os.Root }

// openVolume opens the folder of a workload below dir. The folder itself must
// not be a link that leads out of dir.
func openVolume(dir, workload string) (volume, error) {
	parent, err := os.OpenRoot(dir)
	if err != nil {
		return volume{}, fmt.Errorf("open volumes: %w", err)
	}
	defer parent.Close() //nolint:errcheck // read only.
	root, err := parent.OpenRoot(workload)
	if err != nil {
		return volume{}, fmt.Errorf("open volume: %w", err)
	}
	return volume{root: root}, nil
}

// makeVolume is openVolume that makes the folder when it is missing.
func makeVolume(dir, workload string, owner *Owner) (volume, error) {
	v, err := openVolume(dir, workload)
	if !errors.Is(err, fs.ErrNotExist) {
		return v, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return volume{}, fmt.Errorf("make volumes: %w", err)
	}
	parent, err := os.OpenRoot(dir)
	if err != nil {
		return volume{}, fmt.Errorf("open volumes: %w", err)
	}
	defer parent.Close() //nolint:errcheck // read only.
	root, _, err := subfolder(parent, workload, owner)
	if err == nil {
		err = syncDir(parent)
	}
	if err != nil {
		return volume{}, fmt.Errorf("make volume: %w", err)
	}
	return volume{root: root}, nil
}

func (v volume) close() { _ = v.root.Close() }

// lstat returns the entry of path; kindAbsent is not an error.
func (v volume) lstat(name string) (entry, error) {
	info, err := v.root.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return entry{Path: name}, nil
	}
	if err != nil {
		return entry{}, err
	}
	return infoEntry(name, info), nil
}

// looker looks at paths of which many share a folder, at one system call each.
type looker struct {
	volume volume

	dir  string
	file *os.File // nil: there is no such folder
	err  error    // of opening it
	open bool
}

// lstat is that of the volume.
func (l *looker) lstat(name string) (entry, error) {
	dir := path.Dir(name)
	if !l.open || dir != l.dir {
		l.close()
		l.dir, l.open = dir, true
		l.file, l.err = l.volume.openDir(dir)
		if errors.Is(l.err, fs.ErrNotExist) || errors.Is(l.err, unix.ENOTDIR) {
			l.err = nil
		}
	}
	if l.err != nil || l.file == nil {
		return entry{Path: name}, l.err
	}
	e, err := lstatAt(l.file, dir, path.Base(name))
	e.Path = name
	return e, err
}

// close lets go of the folder, which may be another one the next time.
func (l *looker) close() {
	if l.file != nil {
		_ = l.file.Close()
	}
	l.file, l.err, l.open = nil, nil, false
}

func infoEntry(name string, info fs.FileInfo) entry {
	e := entry{Path: name, Mode: uint32(info.Mode().Perm())}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		e.fingerprint = fingerprint{Size: st.Size, MTime: st.Mtim.Nano(), CTime: st.Ctim.Nano(), Inode: st.Ino}
		e.Kind = modeKind(st.Mode)
		e.Links = uint32(st.Nlink) //nolint:gosec // no file has more; its type differs by platform.
	}
	return e
}

func modeKind(mode uint32) fileKind {
	switch mode & unix.S_IFMT {
	case unix.S_IFREG:
		return kindRegular
	case unix.S_IFDIR:
		return kindDir
	case unix.S_IFLNK:
		return kindSymlink
	}
	return kindSpecial
}

var errNotRegular = errors.New("is not a regular file")

// openRegular opens a regular file for reading and returns what it is now. A
// link in its last component is not followed, and a FIFO does not block.
func (v volume) openRegular(name string) (*os.File, entry, error) {
	parent, err := v.openDir(path.Dir(name))
	if err != nil {
		return nil, entry{}, err
	}
	defer parent.Close() //nolint:errcheck // read only.
	fd, err := unix.Openat(int(parent.Fd()), path.Base(name),
		unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	switch {
	case errors.Is(err, unix.ELOOP), errors.Is(err, unix.ENXIO): // a link; a socket
		return nil, entry{}, errNotRegular
	case err != nil:
		return nil, entry{}, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	f := os.NewFile(uintptr(fd), name)
	e, err := fstat(f, name)
	if err == nil && e.Kind != kindRegular {
		err = errNotRegular
	}
	if err != nil {
		_ = f.Close()
		return nil, entry{}, err
	}
	return f, e, nil
}

func fstat(f *os.File, name string) (entry, error) {
	info, err := f.Stat()
	if err != nil {
		return entry{}, err
	}
	return infoEntry(name, info), nil
}

// openDir opens a folder for reading; O_DIRECTORY keeps a FIFO that was put in
// its place from blocking the open.
func (v volume) openDir(name string) (*os.File, error) {
	return v.root.OpenFile(name, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NONBLOCK, 0)
}

const (
	// walkBatch bounds what a walk holds of one folder at a time.
	walkBatch = 512
	// maxDepth is more than a key can express; deeper folders are not entered.
	maxDepth = maxKeyBytes / 2
)

// walk calls visit with all that is below start but folders, in batches of one
// folder each. start may also be a single file. A folder that is not readable is
// passed to failed and the walk goes on.
func (v volume) walk(ctx context.Context, start string, visit func([]entry) error, failed func(string, error)) error {
	first, err := v.lstat(start)
	if err != nil {
		failed(start, err)
		return nil
	}
	switch first.Kind {
	case kindAbsent:
		return nil
	case kindDir:
	default:
		return visit([]entry{first})
	}
	type level struct {
		name  string
		depth int
	}
	pending := []level{{start, 0}}
	for len(pending) > 0 {
		dir := pending[len(pending)-1]
		pending = pending[:len(pending)-1]
		err := v.readDir(ctx, dir.name, func(batch []entry) error {
			files := batch[:0]
			for _, e := range batch {
				if e.Kind != kindDir {
					files = append(files, e)
				} else if len(e.Path) > maxKeyBytes || dir.depth >= maxDepth {
					failed(e.Path, errTooLong)
				} else {
					pending = append(pending, level{e.Path, dir.depth + 1})
				}
			}
			return visit(files)
		}, failed)
		if err != nil {
			return err
		}
	}
	return nil
}

// readDir passes the entries of one folder to visit; only visit's error and the
// context's end it.
func (v volume) readDir(ctx context.Context, dir string, visit func([]entry) error, failed func(string, error)) error {
	f, err := v.openDir(dir)
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			failed(dir, err)
		}
		return nil
	}
	defer f.Close() //nolint:errcheck // read only.
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		names, err := f.Readdirnames(walkBatch)
		batch := make([]entry, 0, len(names))
		for _, name := range names {
			e, statErr := lstatAt(f, dir, name)
			if statErr != nil {
				failed(path.Join(dir, name), statErr)
			} else if e.Kind != kindAbsent {
				batch = append(batch, e)
			}
		}
		if visitErr := visit(batch); visitErr != nil {
			return visitErr
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			failed(dir, err)
			return nil
		}
	}
}

// lstatAt looks at one name in an open folder: one system call, whatever the
// depth, and no path that could be redirected.
func lstatAt(dir *os.File, dirName, name string) (entry, error) {
	var st unix.Stat_t
	err := unix.Fstatat(int(dir.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW)
	if errors.Is(err, unix.ENOENT) {
		return entry{}, nil
	}
	if err != nil {
		return entry{}, err
	}
	full := name
	if dirName != "." {
		full = dirName + "/" + name
	}
	return entry{
		fingerprint: fingerprint{
			Size: st.Size, MTime: st.Mtim.Nano(), CTime: st.Ctim.Nano(), Inode: st.Ino,
		},
		Path:  full,
		Kind:  modeKind(st.Mode),
		Mode:  st.Mode & 0o777,
		Links: uint32(st.Nlink), //nolint:gosec // as above.
	}, nil
}
