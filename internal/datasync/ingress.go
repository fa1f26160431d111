package datasync

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"

	"golang.org/x/sys/unix"

	"github.com/project-flotta/flotta-agent/internal/datasync/s3"
)

// ingressRun is one cycle over one route. Large downloads outlive it.
type ingressRun struct {
	*cycle

	route   route
	id      string
	volume  volume
	rec     *recorder
	folders *folders
	batch   *batch
	hits    int // objects seen that have a record

	spellings *spellings

	partials map[string]partial // that were there when the cycle began
	claimed  map[string]bool    // those of them that an object still needs
}

// ingress downloads what changed under one prefix.
func (c *cycle) ingress(ctx context.Context, r route) error {
	v, err := makeVolume(c.engine.cfg.VolumesDir, c.key.workload, c.engine.cfg.Owner)
	if err != nil {
		return err
	}
	run, err := c.newIngressRun(v, r)
	if err != nil {
		v.close()
		return err
	}
	leave := c.hold(v, run.rec)
	end := c.lease.end
	c.lease.end = func() {
		run.batch.settle()
		end() // records, and needs the disk for that
		run.batch.close()
		run.folders.expire()
	}
	defer leave()
	recorded := c.index.count(run.id)
	if !c.cleaned {
		run.clean(ctx)
	}

	filter := &keyFilter{route: r}
	err = c.store.List(ctx, listPrefix(r), func(page []s3.Object) error {
		ops, err := run.plan(filter, page)
		if err != nil {
			return err
		}
		for _, op := range ops {
			run.dispatch(ctx, op)
		}
		return ctx.Err()
	})
	c.join(ctx, run.rec)
	run.batch.settle()
	run.rec.write()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	switch {
	case errors.Is(err, s3.ErrDenied): // other prefixes may be allowed
		c.fail(listPrefix(r), fmt.Errorf("list bucket: %w", err))
		return nil
	case err != nil:
		c.surrender(err)
		return nil
	}
	c.worked()
	run.dropUnclaimed()
	return c.sweep(v, run.id, recorded-run.hits)
}

func (c *cycle) newIngressRun(v volume, r route) (*ingressRun, error) {
	id := routeID(c.key.workload, ingress, c.storeID, r)
	run := &ingressRun{
		cycle: c, route: r, id: id, volume: v, rec: newRecorder(c, id), claimed: map[string]bool{},
		folders: &folders{volume: v, owner: c.engine.cfg.Owner, open: map[string]*folder{}},
	}
	if c.folding(v) {
		run.folders.exact, run.spellings = exactName, newSpellings()
	}
	run.rec.prepare = run.syncFolders
	var err error
	if run.partials, err = c.index.partials(id); err != nil {
		return nil, err
	}
	run.batch, err = newBatch(run)
	return run, err
}

// surrender ends a cycle that can't go on.
func (c *cycle) surrender(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.firstErr == nil {
		c.firstErr = err
	}
	c.gaveUp = true
	c.giveUp(errGaveUp)
}

// clean removes what a process that is no more left of all routes, but for the
// downloads that can be continued. None of this process can be there: a group
// does so before its first download, and the index is locked against other
// processes.
func (r *ingressRun) clean(ctx context.Context) {
	keep := map[string]bool{}
	for _, other := range r.routes {
		begun, err := r.index.partials(routeID(r.key.workload, ingress, r.storeID, other))
		if err != nil {
			return
		}
		for name := range begun {
			keep[name] = true
		}
	}
	for _, other := range r.routes {
		_ = r.volume.walk(ctx, other.local, func(batch []entry) error {
			for _, e := range batch {
				if e.Kind == kindRegular && isTemp(path.Base(e.Path)) && !keep[e.Path] {
					r.remove(e.Path)
				}
			}
			return nil
		}, func(string, error) {}) // what can't be read holds nothing of ours
	}
	r.cleaned = ctx.Err() == nil
}

func (r *ingressRun) remove(temp string) {
	if err := r.volume.root.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENOTDIR) {
		r.fail(temp, fmt.Errorf("remove unfinished download: %w", err))
	}
}

// plan decides about one page of a listing.
func (r *ingressRun) plan(filter *keyFilter, page []s3.Object) ([]ingressOp, error) {
	var ops []ingressOp
	look := &looker{volume: r.volume}
	defer look.close()
	err := r.index.view(r.id, func(v indexView) error {
		for _, o := range page {
			name, err := filter.path(o)
			if err == nil && name == "" {
				continue
			}
			var local entry
			if err == nil {
				err = r.spellings.add(name)
			}
			if err == nil {
				local, err = look.lstat(name)
			}
			if err != nil {
				ops = append(ops, ingressOp{Kind: opRefuse, Object: o, Why: err})
				continue
			}
			var known *record
			if rec, ok := v.record(name); ok {
				known = &rec
				r.hits++
			}
			op := planIngress(o, local, known)
			if op.Kind == opNone {
				continue
			}
			if r.spellings != nil && known == nil && local.Kind != kindAbsent {
				op = r.spelled(op)
			}
			ops = append(ops, op)
		}
		return nil
	})
	return ops, err
}

// dispatch queues an operation or settles it at once.
func (r *ingressRun) dispatch(ctx context.Context, op ingressOp) {
	switch op.Kind {
	case opRefuse:
		r.refuse(op.Object.Key, op.Why)
	case opCompare, opTransfer:
		r.claimPartial(op)
		if ctx.Err() != nil || r.heldBack(ctx, op) || !r.due(op.Path) {
			return
		}
		waits := false
		r.launch(ctx, launched{
			path: op.Path, size: op.Object.Size, changed: op.Object.LastModified,
			do: func(ctx context.Context, moved func(int64)) error {
				err := r.fetch(ctx, op, moved)
				if waits = errors.Is(err, errBatched); waits {
					return nil
				}
				return err
			},
			settle: func(ctx context.Context, err error) {
				if !waits {
					r.settleObject(ctx, op, err)
				}
			},
		})
	}
}

// claimPartial notes that an object still needs what there is of it.
func (r *ingressRun) claimPartial(op ingressOp) {
	if len(r.partials) == 0 {
		return
	}
	temp := r.partialPath(op.Path, op.Object)
	if _, begun := r.partials[temp]; begun {
		r.claimed[temp] = true
	}
}

// heldBack notes that an object can't be stored now, when that is known without
// a request: it is not launched in vain.
func (r *ingressRun) heldBack(ctx context.Context, op ingressOp) bool {
	var err error
	last := r.retries.lastErr(op.Path)
	again := r.retries.due(op.Path, r.now)
	if !again && inTheWayOf(last) {
		r.refuse(op.Object.Key, last)
		return true
	}
	if !again && diskFull(last) {
		err = last
	} else if op.Object.Size > largeBytes && !r.claimed[r.partialPath(op.Path, op.Object)] {
		err = r.fits(ctx, op)
	}
	if err == nil || ctx.Err() != nil {
		return err != nil
	}
	r.settleHeld(op, err)
	return true
}

// fewFolders are put on disk one by one; for more of them all that is to be
// written to the file system is.
const fewFolders = 4

// syncFolders puts the names of new files on disk before they are recorded, and
// drops the records of those for which that fails.
func (r *ingressRun) syncFolders(records map[string]record) {
	dirs := map[string]error{}
	for name := range records {
		dirs[path.Dir(name)] = nil
	}
	if r.folders.fresh() || len(dirs) > fewFolders {
		if err := r.batch.syncAll(); err != nil {
			clear(records)
		}
		return
	}
	for dir := range dirs {
		dirs[dir] = r.volume.syncFolder(dir)
	}
	for name := range records {
		if dirs[path.Dir(name)] != nil {
			delete(records, name)
		}
	}
}
