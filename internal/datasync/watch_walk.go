package datasync

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// level is one folder that a walk has before it.
type level struct {
	path   string
	depth  int
	inode  uint64 // 0: any
	parent int32  // watch of the folder above it; noWatch: there is none
}

// walkAll looks at everything, and watches the folders as it finds them.
func (r *egressRun) walkAll(ctx context.Context) error {
	o, w := r.out, r.engine.watch
	r.moment = o.marks.beginWalk()
	o.blind, o.unseen = nil, 0
	w.begin(o.tree)
	first, err := r.volume.lstat(r.route.local)
	switch {
	case err != nil:
		r.missed(r.route.local, err)
	case first.Kind == kindDir:
		err = r.walk(ctx, level{path: r.route.local, inode: first.Inode})
	case first.Kind != kindAbsent:
		err = r.visit(ctx, []entry{first})
	}
	if err == nil {
		err = ended(ctx)
	}
	if err != nil {
		return err
	}
	w.end(o.tree)
	o.marks.walked(r.moment)
	return nil
}

// walkBelow looks at everything in one folder that is marked, or that can't be
// watched, and forgets what is there no more.
func (r *egressRun) walkBelow(ctx context.Context, e entry, parent int32) error {
	if e.Path == r.route.local {
		return errWalkAll
	}
	r.out.forgetOdd(e.Path + "/")
	r.out.see(e.Path)
	before := r.hits
	err := r.walk(ctx, level{
		path: e.Path, inode: e.Inode, parent: parent, depth: strings.Count(within(r.route.local, e.Path), "/") + 1,
	})
	if err != nil {
		return err
	}
	return r.forgetGone(e.Path+"/", r.hits-before)
}

// errWalkAll says that looking at the marks is not enough.
var errWalkAll = errors.New("everything is to be looked at")

// walk visits all that is below a folder, but folders.
func (r *egressRun) walk(ctx context.Context, start level) error {
	pending := []level{start}
	for len(pending) > 0 {
		dir := pending[len(pending)-1]
		pending = pending[:len(pending)-1]
		below, err := r.walkDir(ctx, dir)
		if err != nil {
			return err
		}
		pending = append(pending, below...)
	}
	return nil
}

// walkDir watches one folder, visits what is in it and returns the folders.
func (r *egressRun) walkDir(ctx context.Context, dir level) (below []level, err error) {
	f, err := r.volume.openDir(dir.path)
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENOTDIR) {
			r.missed(dir.path, err)
		}
		return nil, nil
	}
	defer f.Close() //nolint:errcheck // read only.
	if now, err := fstat(f, dir.path); err != nil || dir.inode != 0 && now.Inode != dir.inode {
		// A link, or another folder, was put in its place: that is notified, or
		// seen by the next walk.
		r.out.marks.hold(dir.path, r.moment)
		return nil, nil
	}
	wd := r.watchDir(dir, func() (int32, error) {
		if dir.path == r.route.local {
			return r.engine.watch.enterRoot(r.out.tree, f)
		}
		return r.engine.watch.enter(r.out.tree, f, dir.parent, path.Base(dir.path))
	})
	for {
		if err := ended(ctx); err != nil {
			return nil, err
		}
		names, readErr := f.Readdirnames(walkBatch)
		files := make([]entry, 0, len(names))
		for _, name := range names {
			e, err := lstatAt(f, dir.path, name)
			switch {
			case err != nil:
				r.missed(path.Join(dir.path, name), err)
			case e.Kind == kindAbsent:
			case e.Kind != kindDir:
				files = append(files, e)
			case len(e.Path) > maxKeyBytes || dir.depth >= maxDepth:
				r.missed(e.Path, errTooLong)
			default:
				below = append(below, level{path: e.Path, depth: dir.depth + 1, inode: e.Inode, parent: wd})
			}
		}
		if err := r.visit(ctx, files); err != nil {
			return nil, err
		}
		if errors.Is(readErr, io.EOF) {
			return below, nil
		}
		if readErr != nil {
			r.missed(dir.path, readErr)
			return below, nil
		}
	}
}

// watchDir watches a folder if it can, and if its parent is: the way to a folder
// whose parent is not watched is not known.
func (r *egressRun) watchDir(dir level, enter func() (int32, error)) int32 {
	if r.engine.cfg.Walk < 0 || dir.parent == noWatch {
		return noWatch
	}
	wd, err := enter()
	if err != nil {
		r.out.miss(dir.path, err)
		return noWatch
	}
	return wd
}

// visit plans and dispatches a batch of files.
func (r *egressRun) visit(ctx context.Context, files []entry) error {
	if len(files) == 0 {
		return nil
	}
	ops, err := r.plan(ctx, files)
	if err != nil {
		return err
	}
	for _, op := range ops {
		r.dispatch(ctx, op)
	}
	return ended(ctx)
}

// ended returns why a look has to end. That the cycle gave up is no reason: the
// files that can't be sent now are marked, and the cycles after it, until the
// store is back, have no more to look at than these.
func ended(ctx context.Context) error {
	if err := ctx.Err(); err != nil && !errors.Is(context.Cause(ctx), errGaveUp) {
		return err
	}
	return nil
}
