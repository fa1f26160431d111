package datasync

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/project-flotta/flotta-agent/internal/datasync/s3"
)

// egressRun is one cycle over one route.
type egressRun struct {
	*cycle

	route  route
	id     string
	volume volume
	rec    *recorder
	hits   int // files seen that have a record
}

// egress sends what changed in one folder. It makes no request when nothing did.
func (c *cycle) egress(ctx context.Context, r route) error {
	v, err := openVolume(c.engine.cfg.VolumesDir, c.key.workload)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // the workload did not run yet
	}
	if err != nil {
		return err
	}
	defer v.close()
	id := routeID(c.key.workload, egress, c.storeID, r)
	run := &egressRun{cycle: c, route: r, id: id, volume: v}
	run.rec = newRecorder(c, id)
	recorded := c.index.count(id)

	pool, poolCtx := errgroup.WithContext(ctx)
	pool.SetLimit(c.engine.cfg.Transfers)
	scanErr := v.walk(ctx, r.local, func(batch []entry) error {
		ops, err := run.plan(ctx, batch)
		if err != nil {
			return err
		}
		for _, op := range ops {
			run.dispatch(poolCtx, pool, op)
		}
		return ctx.Err()
	}, func(path string, err error) { run.unreadable(path, err) })
	_ = pool.Wait() // items report their own failures
	run.rec.close()
	if scanErr != nil || ctx.Err() != nil {
		return scanErr
	}
	if err := c.sweep(v, id, recorded-run.hits); err != nil {
		return err
	}
	if c.failed == 0 && len(c.waiting) == 0 {
		return c.index.dropHints(id)
	}
	return nil
}

// unreadable notes a folder or name that could not be looked at.
func (r *egressRun) unreadable(name string, err error) {
	if errors.Is(err, errTooLong) {
		r.count(&r.refused, 1)
		r.report.once(reasonFileRefused, name, "the path "+err.Error())
		return
	}
	if isEscape(err) {
		r.count(&r.skipped, 1)
		r.report.once(reasonFileSkipped, name, "leads out of the volume")
		return
	}
	r.fail(name, err)
}

// isEscape reports whether os.Root refused a path because a link in it leads out
// of the root; package os exports no error for that.
func isEscape(err error) bool {
	var pathErr *fs.PathError
	return errors.As(err, &pathErr) && pathErr.Err.Error() == "path escapes from parent"
}

// plan decides about a batch of files.
func (r *egressRun) plan(ctx context.Context, batch []entry) ([]egressOp, error) {
	ops, hits, fresh, err := r.planOnce(batch)
	if err == nil && fresh && !r.index.seeded(r.id) {
		// Files that the index does not know may be in the bucket all the same.
		if err = r.seed(ctx); err == nil {
			ops, hits, _, err = r.planOnce(batch)
		}
	}
	r.hits += hits
	return ops, err
}

// planOnce reads the index for a batch; fresh says that a file without a record
// is to be sent.
func (r *egressRun) planOnce(batch []entry) (ops []egressOp, hits int, fresh bool, err error) {
	s := settle{rest: r.engine.cfg.Settle, atMost: settleAtMost}
	err = r.index.view(r.id, func(v indexView) error {
		for _, e := range batch {
			if isTemp(path.Base(e.Path)) {
				continue
			}
			var known *record
			var hinted *hint
			if rec, ok := v.record(e.Path); ok {
				known = &rec
				hits++
			} else if key, keyErr := objectKey(r.route.prefix, within(r.route.local, e.Path)); keyErr == nil {
				if h, ok := v.hint(key); ok {
					hinted = &h
				}
			}
			op := planEgress(r.route, e, known, hinted, r.now, r.group.waiting[e.Path], s)
			fresh = fresh || known == nil && (op.Kind == opTransfer || op.Kind == opCompare)
			ops = append(ops, op)
		}
		return nil
	})
	return ops, hits, fresh, err
}

// seed lists the bucket once for a route that the index knows nothing of.
func (r *egressRun) seed(ctx context.Context) error {
	err := r.store.List(ctx, listPrefix(r.route), func(page []s3.Object) error {
		hints := make(map[string]hint, len(page))
		for _, o := range page {
			if _, err := relPath(r.route.prefix, o.Key); err == nil {
				hints[o.Key] = hint{Size: o.Size, ETag: o.ETag}
			}
		}
		return r.index.putHints(r.id, hints)
	})
	switch {
	case err == nil:
		r.worked()
	case errors.Is(err, s3.ErrDenied):
		// Credentials that may only write are reasonable for a device.
		r.log.Warn("list bucket denied; what it holds is sent again", slog.Any("err", err))
	default:
		r.surrender(err)
		return err
	}
	return r.index.setSeeded(r.id)
}

func listPrefix(r route) string {
	if r.prefix == "" {
		return ""
	}
	return r.prefix + "/"
}

// dispatch hands an operation to the pool or settles it at once.
func (r *egressRun) dispatch(ctx context.Context, pool *errgroup.Group, op egressOp) {
	name := op.Entry.Path
	switch op.Kind {
	case opNone:
	case opSkip:
		r.skip(name, op.Entry.Kind)
	case opRefuse:
		r.count(&r.refused, 1)
		r.report.once(reasonFileRefused, name, "the name "+op.Why.Error())
	case opWait:
		since := r.group.waiting[name]
		if since.IsZero() {
			since = r.now
		}
		r.waiting[name] = since
		r.count(&r.pending, 1)
	case opCompare, opTransfer:
		if !r.due(name) || ctx.Err() != nil {
			return
		}
		r.expect(1)
		pool.Go(func() error {
			defer r.expect(-1)
			release, err := r.slot(ctx)
			if err != nil {
				return nil //nolint:nilerr // the cycle ends, which is no failure of the file.
			}
			defer release()
			r.settleItem(ctx, name, r.send(ctx, op))
			return nil
		})
	}
}

func (c *cycle) skip(name string, kind fileKind) {
	c.count(&c.skipped, 1)
	c.report.once(reasonFileSkipped, name, "is a "+kind.String())
}

// due reports whether an item that failed before may be tried again.
func (c *cycle) due(name string) bool {
	if c.retries.due(name, c.now) {
		return true
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.failed++
	if c.firstErr == nil {
		c.firstErr = c.retries.lastErr(name)
	}
	return false
}

// settleItem notes how the transfer of one item went.
func (c *cycle) settleItem(ctx context.Context, name string, err error) {
	var full *noSpaceError
	switch {
	case err == nil:
		c.retries.worked(name)
	case ctx.Err() != nil:
	case errors.Is(err, errNotRegular):
		c.skip(name, kindSpecial)
	case errors.Is(err, errChanged):
		c.retries.failed(name, c.now, err)
		c.count(&c.pending, 1)
	case errors.As(err, &full):
		c.block(err.Error())
	case errors.Is(err, s3.ErrUnavailable), errors.Is(err, s3.ErrDenied):
		// It is the item's failure only if others work in this cycle.
		c.suspect(name, err)
		c.fail(name, err)
	default:
		c.retries.failed(name, c.now, err)
		c.fail(name, err)
	}
}

// maxUnstable is how often a file may change while it is sent before it is sent
// without a digest of the whole: a torn copy arrives, and a better one follows.
const maxUnstable = 3

// send brings one file into the bucket, and records it if it is what it was when
// it was opened.
func (r *egressRun) send(ctx context.Context, op egressOp) error {
	name := op.Entry.Path
	f, e, err := r.volume.openRegular(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // gone again
	}
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // read only.
	opened := time.Now()
	c, err := readContent(ctx, f, e.Size, op.Hint != nil)
	if err != nil {
		return err
	}
	rec := record{fingerprint: e.fingerprint, SHA256: c.sha256, When: opened.Unix()}
	if racy(e.fingerprint, opened) {
		rec.CTime = 0 // so that the next cycle compares the content
	}
	if etag, ok, err := r.alreadyThere(ctx, op, c); err != nil || ok {
		if err == nil && unchanged(f, e) {
			rec.ETag = etag
			r.rec.add(name, rec, time.Time{})
		}
		return err
	}
	u := s3.Upload{
		Key: op.Key, Body: c.body, Size: e.Size,
		MTime: time.Unix(0, e.MTime), Mode: e.Mode, SHA256: c.sha256[:],
	}
	if r.retries.failures(name) >= maxUnstable {
		u.SHA256 = nil
	}
	if rec.ETag, err = r.store.Put(ctx, u); err != nil {
		if ctx.Err() == nil && !unchanged(f, e) {
			return errChanged
		}
		return err
	}
	now := time.Now()
	r.worked()
	r.transferred(e.Size)
	r.engine.ledger.uploaded(r.key.workload, now)
	if !unchanged(f, e) {
		return errChanged
	}
	r.rec.add(name, rec, now)
	return nil
}

// alreadyThere reports whether the object has this content, and its ETag.
func (r *egressRun) alreadyThere(ctx context.Context, op egressOp, c content) (string, bool, error) {
	switch {
	case op.Kind != opCompare:
		return "", false, nil
	case op.Known != nil:
		return op.Known.ETag, op.Known.SHA256 == c.sha256 && op.Known.Size == c.size, nil
	}
	o, ok, err := same(ctx, r.store, op.Key, op.Hint.ETag, c)
	return o.ETag, ok, err
}

// unchanged reports whether an open file still is what it was.
func unchanged(f *os.File, before entry) bool {
	after, err := fstat(f, before.Path)
	return err == nil && after.fingerprint == before.fingerprint
}

// clockTick is no less than the steps in which file systems count time: a file
// that changed within it can change again without its times showing that.
const clockTick = 20 * time.Millisecond

func racy(f fingerprint, opened time.Time) bool {
	return opened.Sub(f.changed()) < clockTick
}

// sweep forgets the files that the device has no more, when the index holds
// surplus records beyond what was seen.
func (c *cycle) sweep(v volume, id string, surplus int) error {
	if surplus <= 0 || surplus == c.swept[id] {
		return nil
	}
	const step = 1024
	after, kept := "", surplus
	for {
		paths, err := c.index.paths(id, after, step)
		if err != nil || len(paths) == 0 {
			c.swept[id] = kept
			return err
		}
		after = paths[len(paths)-1]
		var gone []string
		for _, name := range paths {
			if e, err := v.lstat(name); err == nil && e.Kind == kindAbsent {
				gone = append(gone, name)
			}
		}
		if len(gone) > 0 {
			if err := c.index.forget(id, gone); err != nil {
				return err
			}
			kept -= len(gone)
		}
	}
}
