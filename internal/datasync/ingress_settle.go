package datasync

import (
	"context"
	"errors"
	"log/slog"
	"path"

	"golang.org/x/sys/unix"

	"github.com/project-flotta/flotta-agent/internal/datasync/s3"
)

func (r *ingressRun) settleHeld(op ingressOp, err error) {
	var space *noSpaceError
	var quota *noQuotaError
	switch {
	case errors.As(err, &quota):
		r.mu.Lock()
		r.quota = true
		r.mu.Unlock()
		r.block(err.Error())
	case errors.As(err, &space), diskFull(err):
		r.block(err.Error())
	default:
		r.fail(op.Path, err)
	}
}

func (r *ingressRun) refuse(key string, why error) {
	r.count(&r.refused, 1)
	if errors.Is(why, errSpelling) {
		r.report.once(reasonCollision, key, why.Error())
		return
	}
	r.report.once(reasonObjectRefused, key, why.Error())
}

// inTheWayOf reports whether an error says that the workload put something where
// an object or its folder belongs.
func inTheWayOf(err error) bool {
	var blocked *inTheWayError
	return errors.As(err, &blocked) || isEscape(err) || errors.Is(err, errSpelling) ||
		errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.EISDIR) || errors.Is(err, unix.ENOTEMPTY) ||
		errors.Is(err, unix.EEXIST) || errors.Is(err, unix.ENAMETOOLONG) || errors.Is(err, unix.ELOOP)
}

// settleObject notes how the download of one object went.
func (r *ingressRun) settleObject(ctx context.Context, op ingressOp, err error) {
	var quota *noQuotaError
	switch {
	case inTheWayOf(err):
		r.retries.failed(op.Path, r.now, err) // what is there may stay, and is not found out anew in every cycle
		r.refuse(op.Object.Key, err)
	case errors.Is(err, s3.ErrNotFound):
		r.retries.worked(op.Path) // gone since it was listed
	case errors.Is(err, s3.ErrChanged):
		r.settleItem(ctx, op.Path, errChanged)
	case errors.As(err, &quota):
		r.settleHeld(op, err)
	case diskFull(err):
		r.retries.failed(op.Path, r.now, err) // what it wrote is gone, and not for every cycle
		r.block(err.Error())
	default:
		r.settleItem(ctx, op.Path, err)
	}
}

// expendable says of what is in an object's place whether it may go: it is what
// was downloaded before, which another cycle may have done, or just now.
func (r *ingressRun) expendable(ctx context.Context, item *landed) func(entry) (bool, error) {
	op, fresh := item.op, record{fingerprint: fingerprint{Size: item.object.Size}, SHA256: item.sha256}
	return func(now entry) (bool, error) {
		if op.Known != nil && now.fingerprint == op.Known.fingerprint {
			return true, nil
		}
		var known record
		var ok bool
		err := r.index.view(r.id, func(v indexView) error {
			known, ok = v.record(op.Path)
			return nil
		})
		switch {
		case err != nil:
			return false, err
		case !ok:
			return r.untouched(ctx, op.Path, fresh)
		case now.fingerprint == known.fingerprint:
			return true, nil
		}
		if same, err := r.untouched(ctx, op.Path, known); same || err != nil {
			return same, err
		}
		return r.untouched(ctx, op.Path, fresh)
	}
}

// untouched reports whether a file has the content that was downloaded, whatever
// its times and its mode are.
func (r *ingressRun) untouched(ctx context.Context, name string, known record) (bool, error) {
	f, e, err := r.volume.openRegular(name)
	if err != nil {
		return false, nil //nolint:nilerr // what can't be read is kept, whatever it is.
	}
	defer f.Close() //nolint:errcheck // read only.
	if e.Size != known.Size {
		return false, nil
	}
	c, err := readContent(ctx, f, e.Size, "")
	if ctx.Err() != nil {
		return false, ctx.Err()
	}
	return err == nil && c.sha256 == known.SHA256, nil
}

// keptAside tells that a conflict was settled.
func (r *ingressRun) keptAside(name string) {
	aside := asideName(path.Base(name))
	r.log.Info("kept local file aside", slog.String("path", name), slog.String("as", aside))
	r.report.once(reasonFileKept, name, "was changed on the device and in the bucket; the device's is kept as "+aside)
}
