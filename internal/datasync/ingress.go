package datasync

import (
	"context"
	"crypto/md5" //nolint:gosec // the ETag of an object is one; it protects nothing.
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"path"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/project-flotta/flotta-agent/internal/datasync/s3"
)

// ingressRun is one cycle over one route.
type ingressRun struct {
	*cycle

	route  route
	id     string
	volume volume
	rec    *recorder
	hits   int // objects seen that have a record
}

// ingress downloads what changed under one prefix.
func (c *cycle) ingress(ctx context.Context, r route) error {
	v, err := makeVolume(c.engine.cfg.VolumesDir, c.key.workload, c.engine.cfg.Owner)
	if err != nil {
		return err
	}
	defer v.close()
	id := routeID(c.key.workload, ingress, c.storeID, r)
	run := &ingressRun{cycle: c, route: r, id: id, volume: v}
	run.rec = newRecorder(c, id)
	run.rec.prepare = run.syncFolders
	recorded := c.index.count(id)
	if !c.cleaned {
		run.clean(ctx)
	}

	pool, poolCtx := errgroup.WithContext(ctx)
	pool.SetLimit(c.engine.cfg.Transfers)
	filter := &keyFilter{route: r}
	err = c.store.List(ctx, listPrefix(r), func(page []s3.Object) error {
		ops, err := run.plan(filter, page)
		if err != nil {
			return err
		}
		for _, op := range ops {
			run.dispatch(poolCtx, pool, op)
		}
		return ctx.Err()
	})
	_ = pool.Wait() // items report their own failures
	run.rec.close()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		c.surrender(err)
		return nil
	}
	c.worked()
	return c.sweep(v, id, recorded-run.hits)
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

// clean removes the unfinished downloads of a process that is no more. None of
// this process can be there: a group does so before its first download, and the
// index is locked against other processes.
func (r *ingressRun) clean(ctx context.Context) {
	_ = r.volume.walk(ctx, r.route.local, func(batch []entry) error {
		for _, e := range batch {
			if e.Kind == kindRegular && isTemp(path.Base(e.Path)) {
				if err := r.volume.root.Remove(e.Path); err != nil && !errors.Is(err, fs.ErrNotExist) {
					r.fail(e.Path, fmt.Errorf("remove unfinished download: %w", err))
				}
			}
		}
		return nil
	}, func(string, error) {}) // what can't be read holds nothing of ours
}

// plan decides about one page of a listing.
func (r *ingressRun) plan(filter *keyFilter, page []s3.Object) ([]ingressOp, error) {
	ops := make([]ingressOp, 0, len(page))
	err := r.index.view(r.id, func(v indexView) error {
		for _, o := range page {
			name, err := filter.path(o)
			if err == nil && name == "" {
				continue
			}
			var local entry
			if err == nil {
				local, err = r.volume.lstat(name)
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
			ops = append(ops, planIngress(o, local, known))
		}
		return nil
	})
	return ops, err
}

// dispatch hands an operation to the pool or settles it at once.
func (r *ingressRun) dispatch(ctx context.Context, pool *errgroup.Group, op ingressOp) {
	switch op.Kind {
	case opRefuse:
		r.refuse(op.Object.Key, op.Why)
	case opCompare, opTransfer:
		if !r.due(op.Path) || ctx.Err() != nil {
			return
		}
		r.expect(1)
		pool.Go(func() error {
			defer r.expect(-1)
			release, err := r.slot(ctx)
			if err != nil {
				return nil //nolint:nilerr // the cycle ends, which is no failure of the object.
			}
			defer release()
			r.settleObject(ctx, op, r.fetch(ctx, op))
			return nil
		})
	}
}

func (r *ingressRun) refuse(key string, why error) {
	r.count(&r.refused, 1)
	r.report.once(reasonObjectRefused, key, why.Error())
}

// settleObject notes how the download of one object went.
func (r *ingressRun) settleObject(ctx context.Context, op ingressOp, err error) {
	var blocked *inTheWayError
	switch {
	case errors.As(err, &blocked), isEscape(err), errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.EISDIR),
		errors.Is(err, unix.EEXIST), errors.Is(err, unix.ENAMETOOLONG), errors.Is(err, unix.ELOOP):
		// The workload put something where the object or its folder belongs.
		r.refuse(op.Object.Key, err)
	case errors.Is(err, s3.ErrNotFound):
		r.retries.worked(op.Path) // gone since it was listed
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		r.block(err.Error())
	default:
		r.settleItem(ctx, op.Path, err)
	}
}

// fetch makes the local file equal to the object, and records it.
func (r *ingressRun) fetch(ctx context.Context, op ingressOp) error {
	if op.Kind == opCompare {
		if done, err := r.adopt(ctx, op); done || err != nil {
			return err
		}
	}
	release, err := r.engine.space.claim(r.volume, op.Object.Size)
	if err != nil {
		return err
	}
	defer release()
	o, body, err := r.store.Get(ctx, op.Object.Key)
	if err != nil {
		return err
	}
	defer body.Close() //nolint:errcheck // read to its end, or given up.
	if o.Size > op.Object.Size {
		return errChanged // more than there was room made for
	}
	l, err := r.volume.land(op.Path, r.engine.cfg.Owner)
	if err != nil {
		return err
	}
	defer l.discard()
	sum, err := r.receive(ctx, l, o, body, op.Path)
	if err != nil {
		return err
	}
	r.worked()
	if err := l.seal(landedMode(o.Mode), landedTime(o)); err != nil {
		return err
	}
	if err := r.makeWay(ctx, l, op); err != nil {
		return err
	}
	e, err := l.put(op.Path)
	if err != nil {
		return err
	}
	r.transferred(o.Size)
	r.rec.add(op.Path, record{
		fingerprint: e.fingerprint, SHA256: sum, ETag: o.ETag, When: time.Now().Unix(),
	}, time.Time{})
	return nil
}

// landedMode lets everybody in the pod read what came down.
func landedMode(stored uint32) uint32 { return stored&0o777 | 0o644 }

func landedTime(o s3.Object) time.Time {
	if !o.MTime.IsZero() {
		return o.MTime
	}
	return o.LastModified
}

// adopt records a local file that turns out to be the object, without a download.
func (r *ingressRun) adopt(ctx context.Context, op ingressOp) (bool, error) {
	f, e, err := r.volume.openRegular(op.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer f.Close() //nolint:errcheck // read only.
	if e.Size != op.Object.Size {
		return false, nil
	}
	c, err := readContent(ctx, f, e.Size, true)
	if err != nil {
		return false, err
	}
	o, ok, err := same(ctx, r.store, op.Object.Key, op.Object.ETag, c)
	if err != nil || !ok || o.ETag != op.Object.ETag || !unchanged(f, e) {
		return false, err
	}
	r.rec.add(op.Path, record{
		fingerprint: e.fingerprint, SHA256: c.sha256, ETag: o.ETag, When: time.Now().Unix(),
	}, time.Time{})
	return true, nil
}

var errDamaged = errors.New("content does not match the object's digest")

// receive writes the object's content and checks it against all that is known.
func (r *ingressRun) receive(ctx context.Context, l *landing, o s3.Object, body io.Reader, name string) ([32]byte, error) {
	var digest [32]byte
	sha, weak := sha256.New(), md5.New() //nolint:gosec // as above.
	limited := io.LimitReader(&endingReader{ctx: ctx, r: body}, o.Size+1)
	n, err := io.Copy(io.MultiWriter(l.file, sha, weak), limited)
	if err != nil {
		return digest, err
	}
	if n != o.Size {
		return digest, fmt.Errorf("read %d of %d bytes: %w", n, o.Size, s3.ErrUnavailable)
	}
	sha.Sum(digest[:0])
	etag, isMD5 := o.MD5()
	switch {
	case isMD5 && string(etag) == string(weak.Sum(nil)):
	case len(o.SHA256) > 0 && string(o.SHA256) == string(digest[:]):
	case !isMD5 && len(o.SHA256) == 0:
	default:
		// Some stores have ETags that only look like a digest, and some tools
		// copy metadata to other content: what arrives twice the same is real.
		if !r.retries.damaged(name, digest) {
			return digest, errDamaged
		}
	}
	return digest, nil
}

// makeWay keeps what the workload wrote where the object will be.
func (r *ingressRun) makeWay(ctx context.Context, l *landing, op ingressOp) error {
	now, err := l.current()
	if err != nil || now.Kind == kindAbsent {
		return err
	}
	if now.Kind != kindRegular {
		return &inTheWayError{kind: now.Kind}
	}
	if op.Known != nil && (now.fingerprint == op.Known.fingerprint || r.untouched(ctx, op)) {
		return nil
	}
	if err := l.keepAside(); err != nil {
		return fmt.Errorf("keep local file: %w", err)
	}
	r.log.Info("kept local file aside", slog.String("path", op.Path))
	r.report.once(reasonFileKept, op.Path, "was changed on the device and in the bucket; the device's is kept as "+
		path.Base(op.Path)+asideSuffix)
	return nil
}

// untouched reports whether a file has the content that was downloaded, although
// its times or its mode changed.
func (r *ingressRun) untouched(ctx context.Context, op ingressOp) bool {
	f, e, err := r.volume.openRegular(op.Path)
	if err != nil {
		return false
	}
	defer f.Close() //nolint:errcheck // read only.
	if e.Size != op.Known.Size {
		return false
	}
	c, err := readContent(ctx, f, e.Size, false)
	return err == nil && c.sha256 == op.Known.SHA256
}

// syncFolders puts the names of new files on disk before they are recorded, and
// drops the records of those for which that fails.
func (r *ingressRun) syncFolders(records map[string]record) {
	done := map[string]error{}
	for name := range records {
		dir := path.Dir(name)
		err, ok := done[dir]
		if !ok {
			err = r.volume.syncFolder(dir)
			done[dir] = err
		}
		if err != nil {
			delete(records, name)
		}
	}
}
