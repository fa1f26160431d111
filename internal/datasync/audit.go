package datasync

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"go.etcd.io/bbolt"

	"github.com/project-flotta/flotta-agent/internal/datasync/s3"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

const (
	// auditBatch bounds what an audit holds of its findings.
	auditBatch = 4096
	// auditAgain is when an audit that failed is tried again.
	auditAgain = time.Hour
	// auditFresh is how old a transfer has to be that an audit doubts: a store
	// may list what it held a moment ago.
	auditFresh = time.Minute
)

var keyAudited = []byte("audited")

// Audit lists what the workload's egress has put into the bucket, and sends
// again what vanished there or is no longer what was sent. It returns when that
// is done, with the count of the objects that were so found, or why the bucket
// could not be listed or the files not be sent.
//
// What somebody else put in the place of an object is replaced too: of what a
// workload sends, the file on the device is the truth.
func (e *Engine) Audit(ctx context.Context, workload string) (missing int, err error) {
	var found atomic.Int64 // a cycle may go on when nobody waits for it any more
	err = e.ask(ctx, groupKey{workload, egress}, ask{full: true, audit: true, found: &found})
	return int(found.Load()), err
}

// auditIfDue audits a route when it is time or somebody asked for it. Only who
// asked is told that it failed; otherwise it is tried again later.
func (r *egressRun) auditIfDue(ctx context.Context) error {
	every := r.engine.cfg.Audit
	if r.out.audit.IsZero() && every > 0 {
		r.out.audit = r.firstAudit(every)
	}
	if !r.ask.audit && (every <= 0 || r.now.Before(r.out.audit)) {
		return nil
	}
	found, err := r.audit(ctx)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if r.ask.found != nil {
		r.ask.found.Add(int64(found))
	}
	r.out.audit = r.now.Add(jitter(max(every, 0)))
	switch {
	case errors.Is(err, s3.ErrDenied):
		r.log.Warn("list bucket denied; what vanishes from it is not noticed", slog.Any("err", err))
	case err != nil:
		r.log.Warn("bucket not audited", slog.Any("err", err))
		r.out.audit = r.now.Add(jitter(min(max(every, 0), auditAgain)))
	}
	if err == nil || errors.Is(err, s3.ErrDenied) {
		if markErr := r.index.setAudited(r.id, r.now); markErr != nil {
			err = errors.Join(err, markErr)
		}
	}
	if err != nil && r.ask.audit {
		return err
	}
	return nil
}

// firstAudit returns when the bucket is to be listed, after a start: a restart
// must not put it off for ever, nor have all devices list at once.
func (r *egressRun) firstAudit(every time.Duration) time.Time {
	last := r.index.audited(r.id)
	if last.IsZero() || last.After(r.now) {
		last = r.now.Add(-rand.N(every))
		if err := r.index.setAudited(r.id, last); err != nil {
			r.log.Debug("time of the audit not kept", slog.Any("err", err))
		}
	}
	return last.Add(jitter(every))
}

// audit lists the bucket and marks what has to be sent again.
func (r *egressRun) audit(ctx context.Context) (found int, err error) {
	if r.index.count(r.id) == 0 {
		return 0, nil
	}
	a := &audit{egressRun: r, busy: map[string]bool{}}
	// What is not at rest is looked at anyway, and may be on its way just now.
	open, _ := r.out.marks.begin()
	for _, name := range open {
		a.busy[name] = true
	}
	err = r.store.List(ctx, listPrefix(r.route), a.page)
	if errors.Is(err, errUnsorted) {
		r.out.hinted = true
		if err = r.putAllHints(ctx); err == nil {
			err = a.compareHints()
		}
	} else if err == nil {
		err = a.rest()
	}
	if err == nil {
		err = a.apply()
	}
	if err != nil {
		return a.found, fmt.Errorf("audit bucket: %w", err)
	}
	r.worked()
	if a.found > 0 {
		r.log.Warn("objects vanished or changed in the bucket; they are sent again", slog.Int("count", a.found))
		r.report.send(reasonMissing, protocol.EventWarnType,
			fmt.Sprintf("%d objects vanished or changed in the bucket; they are sent again", a.found))
	}
	return a.found, nil
}

// errUnsorted says that a store does not list in the order of the keys.
var errUnsorted = errors.New("listing is not in order")

// audit compares a listing with the index while it arrives: both are in the
// order of the keys, so that neither is held in memory.
type audit struct {
	*egressRun

	busy  map[string]bool // paths that are not judged
	last  string          // key
	after string          // path that was judged last
	found int
	gone  []doubt
}

// doubt is an object that is not what was sent.
type doubt struct {
	path string
	key  string
	was  record
	is   *hint // nil: it vanished
}

// page judges what comes before the end of a page.
func (a *audit) page(page []s3.Object) error {
	err := a.index.view(a.id, func(v indexView) error {
		c := v.cursor(a.after)
		_, single := v.record(a.route.local) // the route is a file
		for _, o := range page {
			if o.Key <= a.last {
				return errUnsorted
			}
			a.last = o.Key
			rel, err := relPath(a.route.prefix, o.Key)
			if err != nil {
				continue // never ours
			}
			name := below(a.route.local, rel)
			if single {
				if rel != within(a.route.local, a.route.local) {
					continue
				}
				name = a.route.local
			}
			for c.valid() && c.path() < name {
				a.judge(c, nil)
				c.next()
			}
			if c.valid() && c.path() == name {
				a.judge(c, &hint{Size: o.Size, ETag: o.ETag})
				c.next()
			}
			a.after = max(a.after, name)
		}
		return nil
	})
	if err == nil && len(a.gone) >= auditBatch {
		err = a.apply()
	}
	return err
}

// rest judges what comes after the last object.
func (a *audit) rest() error {
	for {
		more := false
		err := a.index.view(a.id, func(v indexView) error {
			c := v.cursor(a.after)
			for ; c.valid(); c.next() {
				if more = len(a.gone) >= auditBatch; more {
					return nil
				}
				a.judge(c, nil)
				a.after = c.path()
			}
			return nil
		})
		if err == nil && more {
			err = a.apply()
		}
		if err != nil || !more {
			return err
		}
	}
}

// compareHints judges all records by what was listed into the index.
func (a *audit) compareHints() error {
	a.after, a.found, a.gone = "", 0, nil
	for {
		more := false
		err := a.index.view(a.id, func(v indexView) error {
			c := v.cursor(a.after)
			for ; c.valid(); c.next() {
				if more = len(a.gone) >= auditBatch; more {
					return nil
				}
				var is *hint
				if key, err := objectKey(a.route.prefix, within(a.route.local, c.path())); err == nil {
					if h, ok := v.hint(key); ok {
						is = &h
					}
				}
				a.judge(c, is)
				a.after = c.path()
			}
			return nil
		})
		if err == nil && more {
			err = a.apply()
		}
		if err != nil || !more {
			return err
		}
	}
}

// judge compares one record with what the bucket holds; nil: nothing.
func (a *audit) judge(c *recordCursor, is *hint) {
	rec, ok := decodeRecord(c.v)
	if !ok || a.busy[c.path()] || a.now.Sub(time.Unix(rec.When, 0)) < auditFresh && !a.ask.audit {
		return
	}
	if is != nil && is.Size == rec.Size && is.ETag == rec.ETag {
		return
	}
	key, err := objectKey(a.route.prefix, within(a.route.local, c.path()))
	if err != nil {
		return
	}
	a.gone = append(a.gone, doubt{path: c.path(), key: key, was: rec, is: is})
}

// apply drops the records of the findings and marks their files. Of an object
// that is there the listing is kept: if only its ETag is another one, as after a
// bucket was copied, its file need not travel.
func (a *audit) apply() error {
	if len(a.gone) == 0 {
		return nil
	}
	removed := 0
	err := a.index.update(a.id, func(b *bbolt.Bucket) error {
		removed = 0
		files := b.Bucket(bucketFiles)
		hints, err := b.CreateBucketIfNotExists(bucketHints)
		if err != nil || files == nil {
			return err
		}
		for _, g := range a.gone {
			if now, ok := decodeRecord(files.Get([]byte(g.path))); !ok || now != g.was {
				continue // it was sent meanwhile
			}
			removed++
			if err := files.Delete([]byte(g.path)); err != nil {
				return err
			}
			if g.is == nil {
				err = hints.Delete([]byte(g.key))
			} else {
				err = hints.Put([]byte(g.key), g.is.encode())
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	a.index.add(a.id, -removed)
	a.out.hinted = true
	a.found += removed
	for _, g := range a.gone {
		a.out.marks.touch([]byte(g.path))
	}
	a.gone = a.gone[:0]
	return nil
}

// recordCursor goes through the records of a route.
type recordCursor struct {
	c    *bbolt.Cursor
	k, v []byte
}

// cursor returns one that stands behind the path; it may stand nowhere.
func (v indexView) cursor(after string) *recordCursor {
	if v.files == nil {
		return &recordCursor{}
	}
	c := &recordCursor{c: v.files.Cursor()}
	c.k, c.v = c.c.Seek([]byte(after))
	if c.valid() && after != "" && string(c.k) == after {
		c.next()
	}
	return c
}

func (c *recordCursor) valid() bool  { return c.k != nil }
func (c *recordCursor) path() string { return string(c.k) }
func (c *recordCursor) next()        { c.k, c.v = c.c.Next() }

// audited returns when the route was audited last; zero: that is not known.
func (ix *index) audited(id string) (at time.Time) {
	_ = ix.db.View(func(tx *bbolt.Tx) error {
		if b := tx.Bucket(bucketRoutes).Bucket([]byte(id)); b != nil {
			if s, n := binary.Varint(b.Get(keyAudited)); n > 0 {
				at = time.Unix(s, 0)
			}
		}
		return nil
	})
	return at
}

func (ix *index) setAudited(id string, at time.Time) error {
	return ix.update(id, func(b *bbolt.Bucket) error {
		return b.Put(keyAudited, binary.AppendVarint(nil, at.Unix()))
	})
}
