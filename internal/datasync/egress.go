package datasync

import (
	"context"
	"errors"
	"io/fs"
	"path"
	"time"

	"github.com/project-flotta/flotta-agent/internal/datasync/s3"
)

// egressRun is one cycle over one route. Large uploads outlive it.
type egressRun struct {
	*cycle

	route  route
	id     string
	volume volume
	rec    *recorder
	out    *outflow
	moment uint64 // marks that are newer are for the next cycle
	hits   int    // files seen that have a record
	name   []byte // scratch
}

// egress sends what changed in one folder. When nothing did it asks neither the
// file system about files, nor the index, nor the store.
func (c *cycle) egress(ctx context.Context, r route) error {
	c.engine.watch.drain() // what happened until now is for this cycle
	o := c.outflow(r)
	defer o.tally(c)
	v, err := openVolume(c.engine.cfg.VolumesDir, c.key.workload)
	if err != nil {
		o.marks.touchAll()
		if errors.Is(err, fs.ErrNotExist) {
			o.forgetOdd("")
			return nil // the workload did not run yet
		}
		return err
	}
	run := &egressRun{cycle: c, route: r, id: routeID(c.key.workload, egress, c.storeID, r), volume: v, out: o}
	if err := run.prepare(ctx); err != nil {
		v.close()
		return err
	}
	all := run.walkDue()
	var paths []string
	if !all {
		paths, run.moment = o.marks.begin()
		if len(paths)+len(o.blind) == 0 {
			v.close()
			return nil
		}
	}
	return run.cycleOver(ctx, all, paths)
}

// prepare does what comes before anything is taken from the marks, because a
// failure ends the cycle.
func (r *egressRun) prepare(ctx context.Context) error {
	if !r.out.begun {
		if err := r.index.forgetHints(r.id); err != nil {
			return err
		}
		r.out.begun = true
	}
	return r.auditIfDue(ctx)
}

// cycleOver looks, sends and records.
func (r *egressRun) cycleOver(ctx context.Context, all bool, paths []string) error {
	limit := r.out.limit
	r.rec = newRecorder(r.cycle, r.id)
	r.rec.failed = func(err error) {
		r.out.marks.touchAll() // nobody knows which files that were
		r.fail("index", err)
	}
	leave := r.hold(r.volume, r.rec)
	defer leave()
	recorded := r.index.count(r.id)
	all, err := r.scan(ctx, all, paths)
	r.join(ctx, r.rec)
	r.tellBlind(limit)
	if err != nil || ctx.Err() != nil {
		r.countMarks()
		return err
	}
	if all {
		if err := r.sweep(r.volume, r.id, recorded-r.hits); err != nil {
			r.out.marks.touchAll()
			return err
		}
		r.tidyUploads(ctx)
	}
	if (all || r.out.hinted) && r.quiet() {
		r.out.hinted = false
		return r.index.dropAllHints(r.id)
	}
	return nil
}

// countMarks counts the files that a cycle which gave up could not get at.
func (r *egressRun) countMarks() {
	n := int64(r.out.marks.count())
	r.mu.Lock()
	defer r.mu.Unlock()
	r.pending += max(0, n-r.failed-r.pending)
}

// missed notes a folder or name that could not be looked at.
func (r *egressRun) missed(name string, err error) {
	switch {
	case errors.Is(err, errTooLong):
		r.out.strange(name, oddRefused)
		r.report.once(reasonFileRefused, name, "the path "+err.Error())
	case isEscape(err):
		r.out.strange(name, oddSkipped)
		r.report.once(reasonFileSkipped, name, "leads out of the volume")
	default:
		r.out.marks.hold(name, r.moment)
		r.fail(name, err)
		return
	}
	r.out.marks.done(name, r.moment)
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
	s := r.settling()
	err = r.index.view(r.id, func(v indexView) error {
		for _, e := range batch {
			if isTemp(path.Base(e.Path)) {
				continue
			}
			if e.Kind == kindRegular && v.has(&r.name, e) { // as nearly all of them
				hits++
				r.settled(e.Path)
				continue
			}
			var known *record
			var hinted *hint
			if rec, ok := v.record(e.Path); ok {
				known = &rec
				hits++
			}
			if v.hints == nil {
				// The bucket was not listed, or nothing is left of that.
			} else if key, keyErr := objectKey(r.route.prefix, within(r.route.local, e.Path)); keyErr == nil {
				if h, ok := v.hint(key); ok {
					hinted = &h
				}
			}
			since := r.group.waiting[e.Path]
			op := planEgress(r.route, e, known, hinted, r.now, since, s)
			if (op.Kind == opTransfer || op.Kind == opCompare) && s.mayBeWritten(r.now, e.changed(), since) &&
				r.volume.beingWritten(e.Path) {
				op.Kind = opWait
			}
			fresh = fresh || known == nil && (op.Kind == opTransfer || op.Kind == opCompare)
			ops = append(ops, op)
		}
		return nil
	})
	return ops, hits, fresh, err
}

func listPrefix(r route) string {
	if r.prefix == "" {
		return ""
	}
	return r.prefix + "/"
}

// dispatch has an operation made, or settles it at once. A file stays marked
// until nothing is left to do for it.
func (r *egressRun) dispatch(ctx context.Context, op egressOp) {
	name := op.Entry.Path
	if op.Kind != opNone {
		r.linked(op.Entry)
	}
	switch op.Kind {
	case opNone:
		r.settled(name)
	case opSkip:
		r.skipFile(name, op.Entry.Kind)
	case opRefuse:
		r.out.strange(name, oddRefused)
		r.out.marks.done(name, r.moment)
		r.report.once(reasonFileRefused, name, "the name "+op.Why.Error())
	case opWait:
		r.out.marks.hold(name, r.moment)
		since := r.group.waiting[name]
		if since.IsZero() {
			since = r.now
		}
		r.waiting[name] = since
		r.count(&r.pending, 1)
	case opCompare, opTransfer:
		r.out.marks.hold(name, r.moment)
		if !r.due(name) || ctx.Err() != nil {
			return
		}
		r.launch(ctx, launched{
			path: name, size: op.Entry.Size, changed: op.Entry.changed(),
			do: func(ctx context.Context, moved func(int64)) error { return r.send(ctx, op, moved) },
			settle: func(ctx context.Context, err error) {
				r.settleItem(ctx, name, err)
				switch {
				case err == nil:
					r.settled(name)
				case errors.Is(err, errNotRegular):
					r.out.marks.touch([]byte(name)) // whatever it is by now
				}
			},
		})
	}
}

// settled notes that nothing is left to do for a file.
func (r *egressRun) settled(name string) {
	r.out.forgetOdd(name)
	r.out.marks.done(name, r.moment)
}

// skipFile notes something that is no file.
func (r *egressRun) skipFile(name string, kind fileKind) {
	r.out.strange(name, oddSkipped)
	r.out.marks.done(name, r.moment)
	r.report.once(reasonFileSkipped, name, "is a "+kind.String())
}

func (c *cycle) skip(name string, kind fileKind) {
	c.count(&c.skipped, 1)
	c.report.once(reasonFileSkipped, name, "is a "+kind.String())
}

// due reports whether an item that failed before may be tried again.
func (c *cycle) due(name string) bool {
	if c.ask.eager || c.retries.due(name, c.now) {
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
func (r *egressRun) send(ctx context.Context, op egressOp, moved func(bytes int64)) error {
	name := op.Entry.Path
	f, e, err := r.volume.openRegular(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // gone again
	}
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // read only.
	opened, writer := time.Now(), hasWriter(f)
	c, err := readContent(ctx, f, e.Size, op.hinted())
	if err != nil {
		return err
	}
	rec := record{fingerprint: e.fingerprint, SHA256: c.sha256, When: opened.Unix()}
	// What is written through a mapping need not show in the times.
	if writer || racy(e.fingerprint, opened) {
		rec.CTime = 0 // so that the next look compares the content
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
		Moved: r.engine.paced(ctx, egress, moved), Piece: r.engine.limits.piece(),
	}
	if r.retries.changes(name) >= maxUnstable {
		u.SHA256 = nil
	}
	if op.Hint != nil {
		// From now on the bucket may hold something else than was listed.
		if err := r.index.dropHint(r.id, op.Key); err != nil {
			return err
		}
	}
	if rec.ETag, err = r.put(ctx, f, e, u); err != nil {
		if ctx.Err() == nil && !unchanged(f, e) {
			return errChanged
		}
		return err
	}
	now := time.Now()
	r.worked()
	r.transferred(e.Size)
	r.engine.ledger.uploaded(r.key.workload, now)
	// A folder above it may have been replaced as well.
	there, err := r.volume.lstat(name)
	if err == nil && there.Kind == kindAbsent {
		return nil // gone again
	}
	if err != nil || there.fingerprint != e.fingerprint || !unchanged(f, e) {
		return errChanged
	}
	r.rec.add(name, rec, now)
	return nil
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
