package datasync

import (
	"bytes"
	"context"
	"errors"
	"log/slog"

	"go.etcd.io/bbolt"

	"github.com/project-flotta/flotta-agent/internal/datasync/s3"
)

// hintStep is how many hints are written or removed in one transaction.
const hintStep = 8192

// seed lists the bucket once for a route that the index knows nothing of.
func (r *egressRun) seed(ctx context.Context) error {
	r.out.hinted = true
	err := r.putAllHints(ctx)
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

// putAllHints lists the bucket into the index.
func (r *egressRun) putAllHints(ctx context.Context) error {
	hints := map[string]hint{}
	err := r.store.List(ctx, listPrefix(r.route), func(page []s3.Object) error {
		for _, o := range page {
			if _, err := relPath(r.route.prefix, o.Key); err == nil {
				hints[o.Key] = hint{Size: o.Size, ETag: o.ETag}
			}
		}
		if len(hints) < hintStep {
			return nil
		}
		defer clear(hints)
		return r.index.putHints(r.id, hints)
	})
	if err == nil && len(hints) > 0 {
		err = r.index.putHints(r.id, hints)
	}
	return err
}

// forgetHints makes a route that still has hints list the bucket again: they are
// an earlier run's, or came with an index that was put back, and the bucket may
// have changed since.
func (ix *index) forgetHints(id string) error {
	have := false
	err := ix.view(id, func(v indexView) error {
		have = v.hints != nil
		return nil
	})
	if err != nil || !have {
		return err
	}
	// In this order: what is left of the hints after a crash is forgotten then.
	err = ix.update(id, func(b *bbolt.Bucket) error { return b.Delete(keySeeded) })
	if err != nil {
		return err
	}
	return ix.dropAllHints(id)
}

// dropHint removes what is known of the object under key from a listing.
func (ix *index) dropHint(id, key string) error {
	return ix.update(id, func(b *bbolt.Bucket) error {
		if hints := b.Bucket(bucketHints); hints != nil {
			return hints.Delete([]byte(key))
		}
		return nil
	})
}

// dropAllHints is dropHints in steps, each of which reads only a part of them.
func (ix *index) dropAllHints(id string) error {
	for {
		var keys [][]byte
		err := ix.view(id, func(v indexView) error {
			if v.hints == nil {
				return nil
			}
			c := v.hints.Cursor()
			for k, _ := c.First(); k != nil && len(keys) < hintStep; k, _ = c.Next() {
				keys = append(keys, bytes.Clone(k))
			}
			return nil
		})
		if err != nil {
			return err
		}
		if len(keys) < hintStep {
			return ix.dropHints(id)
		}
		err = ix.update(id, func(b *bbolt.Bucket) error {
			hints := b.Bucket(bucketHints)
			for _, k := range keys {
				if err := hints.Delete(k); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		ix.unload()
	}
}
