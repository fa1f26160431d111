package datasync

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// look looks at what is marked, and at what can't be watched.
func (r *egressRun) look(ctx context.Context, paths []string) error {
	g, err := r.glance()
	if err != nil {
		return err
	}
	defer g.close()
	covered := "\x00" // below it everything was looked at
	for batch := range slices.Chunk(paths, walkBatch) {
		var looked []entry
		for _, name := range batch {
			if strings.HasPrefix(name, covered) {
				r.out.marks.done(name, r.moment)
				continue
			}
			e, err := g.lstat(name)
			if err != nil {
				r.missed(name, err)
				continue
			}
			looked = append(looked, e)
			if e.Kind != kindDir {
				continue
			}
			if err := r.lookBelow(ctx, e, g.watch()); err != nil {
				return err
			}
			covered = name + "/"
		}
		if err := r.settleLooked(ctx, looked); err != nil {
			return err
		}
	}
	for _, name := range r.out.blindSpots() {
		e, err := g.lstat(name)
		switch {
		case err != nil:
			r.missed(name, err)
			err = nil
		case e.Kind == kindDir:
			err = r.lookBelow(ctx, e, g.watch())
		default:
			r.out.see(name) // what is there instead is marked
		}
		if err != nil {
			return err
		}
	}
	return ended(ctx)
}

// lookBelow looks at a folder, which stays marked when that does not come to its
// end, or when the folder can't be read.
func (r *egressRun) lookBelow(ctx context.Context, e entry, parent int32) error {
	r.out.marks.done(e.Path, r.moment)
	blind := len(r.out.blind)
	err := r.walkBelow(ctx, e, parent)
	switch {
	case err == nil:
	case blind > 0:
		r.out.marks.touchAll() // which of them were looked at is not known
	default:
		r.out.marks.touch([]byte(e.Path))
	}
	return err
}

// settleLooked forgets what is no more where it was marked, and visits the files.
func (r *egressRun) settleLooked(ctx context.Context, looked []entry) error {
	if err := r.forgetOthers(looked); err != nil {
		return err
	}
	var files []entry
	for _, e := range looked {
		switch e.Kind {
		case kindAbsent:
			r.out.forgetOdd(e.Path)
			r.out.forgetOdd(e.Path + "/")
			r.retries.worked(e.Path) // it fails no more
			r.out.marks.done(e.Path, r.moment)
		case kindDir:
			r.out.forgetOdd(e.Path)
		default:
			r.out.forgetOdd(e.Path + "/")
			files = append(files, e)
			if isTemp(path.Base(e.Path)) {
				r.out.marks.done(e.Path, r.moment)
			}
		}
	}
	return r.visit(ctx, files)
}

// glance looks at single names below the route's folder. Unlike os.Root it does
// not follow a link within the volume either: what lies behind one is no file of
// the place where the link is. Names that follow each other and share a folder
// cost one system call each.
type glance struct {
	run  *egressRun
	base *os.File // the route's folder

	dir  string
	file *os.File // of dir; nil: there is no such folder
	err  error    // of opening it
}

func (r *egressRun) glance() (*glance, error) {
	base, err := r.volume.openDir(r.route.local)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return nil, errWalkAll
	}
	if err != nil {
		return nil, err
	}
	return &glance{run: r, base: base}, nil
}

func (g *glance) close() {
	g.leave()
	_ = g.base.Close()
}

func (g *glance) leave() {
	if g.file != nil && g.file != g.base {
		_ = g.file.Close()
	}
	g.dir, g.file, g.err = "", nil, nil
}

// lstat is that of a volume.
func (g *glance) lstat(name string) (entry, error) {
	if name == g.run.route.local {
		return g.run.volume.lstat(name)
	}
	dir := path.Dir(name)
	if dir != g.dir {
		g.leave()
		g.dir = dir
		g.file, g.err = g.open(dir)
	}
	if g.err != nil || g.file == nil {
		return entry{Path: name}, g.err
	}
	e, err := lstatAt(g.file, dir, path.Base(name))
	if errors.Is(err, unix.ENAMETOOLONG) {
		err = nil // then it is not there
	}
	e.Path = name
	return e, err
}

// open opens a folder; nil: there is none.
func (g *glance) open(dir string) (*os.File, error) {
	if dir == g.run.route.local {
		return g.base, nil
	}
	f := g.base
	for name := range strings.SplitSeq(within(g.run.route.local, dir), "/") {
		fd, err := unix.Openat(int(f.Fd()), name, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if f != g.base {
			_ = f.Close()
		}
		switch {
		case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP):
			return nil, nil
		case err != nil:
			return nil, &fs.PathError{Op: "open", Path: dir, Err: err}
		}
		f = os.NewFile(uintptr(fd), dir)
	}
	return f, nil
}

// watch returns the watch of the folder of the name that was looked at last.
func (g *glance) watch() int32 {
	if g.file == nil {
		return noWatch
	}
	return g.run.engine.watch.known(g.run.out.tree, g.file)
}
