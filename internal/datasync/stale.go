package datasync

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"time"

	"github.com/project-flotta/flotta-agent/internal/datasync/s3"
)

const (
	// staleAfter is how old an upload has to be that this device knows nothing
	// of: another one may be writing below the same prefix, slowly.
	staleAfter = 7 * 24 * time.Hour
	// tidyEvery is how often the bucket is asked for unfinished uploads.
	tidyEvery = 24 * time.Hour
)

// tidyUploads frees what unfinished uploads of this device occupy in the bucket:
// those of files that are gone or changed, those of routes that are gone, and,
// below this route's prefix, those that nobody works on any more. It does so
// after the first walk and then once a day. A store that does not let a device
// do that is left alone from then on.
func (r *egressRun) tidyUploads(ctx context.Context) {
	if !r.now.After(r.tidied[r.id].Add(tidyEvery)) {
		return
	}
	r.tidied[r.id] = r.now
	err := r.tidy(ctx)
	switch {
	case err == nil || ctx.Err() != nil:
	case errors.Is(err, s3.ErrDenied), errors.Is(err, s3.ErrRefused), errors.Is(err, s3.ErrNotFound):
		const never = 100 * 365 * 24 * time.Hour
		r.tidied[r.id] = r.now.Add(never)
		r.log.Debug("unfinished uploads stay in the bucket", slog.Any("err", err))
	default:
		delete(r.tidied, r.id) // with the next walk
	}
}

func (r *egressRun) tidy(ctx context.Context) error {
	journal, err := r.index.begunIn(r.storeID)
	if err != nil {
		return err
	}
	mine := map[string]bool{}
	for id, of := range journal {
		for path, u := range of {
			if r.wants(id, path, u) {
				mine[u.Parts.ID] = true
				continue
			}
			if err := r.store.Abort(ctx, u.Key, u.Parts.ID); err != nil {
				return err
			}
			if err := r.index.dropBegun(id, path, u.Parts.ID); err != nil {
				return err
			}
		}
	}
	if err := r.tidyOrphans(ctx); err != nil {
		return err
	}
	return r.store.Uploads(ctx, listPrefix(r.route), func(page []s3.Begun) error {
		for _, u := range page {
			if mine[u.ID] || u.Since.IsZero() || r.now.Sub(u.Since) < staleAfter {
				continue
			}
			if err := r.store.Abort(ctx, u.Key, u.ID); err != nil {
				return err
			}
		}
		return nil
	})
}

// wants reports whether an upload in the journal is of use to somebody: to this
// route because the file is the same, or to any other route that is in force.
func (r *egressRun) wants(id, path string, u begun) bool {
	if id == r.id {
		e, err := r.volume.lstat(path)
		return err != nil || e.fingerprint == u.fingerprint
	}
	if !strings.HasPrefix(id, r.key.workload+"\x00"+string(egress)+"\x00") {
		return true // the group of that workload takes care of it
	}
	for _, other := range r.routes {
		if routeID(r.key.workload, egress, r.storeID, other) == id {
			return true
		}
	}
	return false
}

// tidyOrphans aborts uploads of routes that the index forgot.
func (r *egressRun) tidyOrphans(ctx context.Context) error {
	orphans, err := r.index.orphans(r.storeID)
	if err != nil {
		return err
	}
	for _, o := range orphans {
		if err := r.store.Abort(ctx, o[0], o[1]); err != nil {
			return err
		}
		if err := r.index.dropOrphan(r.storeID, o[0], o[1]); err != nil {
			return err
		}
	}
	return nil
}
