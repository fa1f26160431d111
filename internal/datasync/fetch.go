package datasync

import (
	"context"
	"crypto/md5" //nolint:gosec // the ETag of an object is one; it protects nothing.
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"path"
	"time"

	"golang.org/x/sys/unix"

	"github.com/project-flotta/flotta-agent/internal/datasync/s3"
)

// fetch makes the local file equal to the object, and records it.
func (r *ingressRun) fetch(ctx context.Context, op ingressOp, moved func(bytes int64)) error {
	if op.Kind == opCompare {
		if done, err := r.adopt(ctx, op); done || err != nil {
			return err
		}
	}
	// Before the request: an answer that nobody reads costs the connection.
	if err := r.folders.reach(path.Dir(op.Path)); err != nil {
		return err
	}
	if op.Object.Size >= partialBytes {
		return r.fetchLarge(ctx, op, moved)
	}
	release, err := r.claim(ctx, op, op.Object.Size)
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
	if op.Known != nil && op.Known.ETag == o.ETag && op.Local.Kind == kindRegular {
		return nil // the listing was an older one: this version is there, or what the workload made of it
	}
	l, err := r.folders.land(op.Path, "")
	if err != nil {
		return err
	}
	in := newIntake(l, o)
	buf := make([]byte, min(o.Size+1, pieceBytes))
	src := r.engine.throttle(ctx, ingress, body, moved)
	err = in.copy(src, buf)
	if err == nil {
		r.worked()
		err = in.check(&r.retries, op.Path)
	}
	if err == nil {
		err = l.seal(landedMode(o.Mode), landedTime(o))
	}
	if err == nil {
		err = r.batch.add(ctx, &landed{landing: l, op: op, object: o, sha256: in.digest()})
	}
	if err != nil && !errors.Is(err, errBatched) {
		l.discard()
	}
	return err
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
	opened := time.Now()
	c, err := readContent(ctx, f, e.Size, op.Object.ETag)
	if errors.Is(err, errChanged) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	o, ok, err := same(ctx, r.store, op.Object.Key, op.Object.ETag, c)
	if err != nil || !ok || o.ETag != op.Object.ETag || !unchanged(f, e) {
		return false, err
	}
	rec := record{fingerprint: e.fingerprint, SHA256: c.sha256, ETag: o.ETag, When: opened.Unix()}
	if racy(e.fingerprint, opened) {
		rec.CTime = 0 // so that the content is compared before it is replaced
	}
	r.rec.add(op.Path, rec, time.Time{})
	return true, nil
}

const (
	// pieceBytes is read and written at once.
	pieceBytes = 256 << 10
	// holeBytes is the size and the alignment of what is not written when it is
	// all zeros: any run of twice that is found.
	holeBytes = 32 << 10
)

// intake receives the content of one object.
type intake struct {
	landing *landing
	object  s3.Object
	at      int64 // bytes received
	hole    bool  // the last of them were not written
	sha     hash.Hash
	weak    hash.Hash // MD5; nil: nothing to compare it with
}

func newIntake(l *landing, o s3.Object) *intake {
	in := &intake{landing: l, object: o, sha: sha256.New()}
	if _, ok := o.MD5(); ok {
		in.weak = md5.New() //nolint:gosec // as above.
	}
	return in
}

// hash adds bytes that are in the file to the digests.
func (in *intake) hash(p []byte) {
	_, _ = in.sha.Write(p) // never fails
	if in.weak != nil {
		_, _ = in.weak.Write(p)
	}
}

func (in *intake) digest() (sum [32]byte) {
	in.sha.Sum(sum[:0])
	return sum
}

// copy takes all of a small object.
func (in *intake) copy(src io.Reader, buf []byte) error {
	for in.at <= in.object.Size {
		n, err := io.ReadFull(src, buf)
		if n > 0 {
			if err := in.take(buf[:n]); err != nil {
				return err
			}
		}
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return in.whole()
		case err != nil:
			return err
		}
	}
	return in.whole()
}

// whole reports whether all of the object is there, and gives the file its size.
func (in *intake) whole() error {
	if in.at != in.object.Size {
		return fmt.Errorf("read %d of %d bytes: %w", in.at, in.object.Size, s3.ErrUnavailable)
	}
	return in.stretch()
}

// stretch makes the file as long as what was received.
func (in *intake) stretch() error {
	if !in.hole {
		return nil
	}
	in.hole = false
	return in.landing.file.Truncate(in.at)
}

// take writes the next bytes and adds them to the digests.
func (in *intake) take(p []byte) error {
	in.hash(p)
	return in.write(p)
}

// write writes the next bytes, and none that are zeros for long: the file has
// holes where the object has nothing.
func (in *intake) write(p []byte) error {
	for len(p) > 0 {
		n, zero := run(p, in.at)
		if !zero {
			if _, err := in.landing.file.WriteAt(p[:n], in.at); err != nil {
				return err
			}
		}
		in.hole = zero
		in.at += int64(n)
		p = p[n:]
	}
	return nil
}

// run returns the length of what p, which is at the given offset, begins with:
// whole blocks of zeros, or bytes before such.
func run(p []byte, offset int64) (n int, zero bool) {
	for n < len(p) {
		end := min(len(p), n+holeBytes-int((offset+int64(n))%holeBytes))
		empty := end-n == holeBytes && isZero(p[n:end])
		if n > 0 && empty != zero {
			return n, zero
		}
		n, zero = end, empty
	}
	return n, zero
}

func isZero(p []byte) bool {
	for len(p) >= 8 {
		if p[0]|p[1]|p[2]|p[3]|p[4]|p[5]|p[6]|p[7] != 0 {
			return false
		}
		p = p[8:]
	}
	for _, b := range p {
		if b != 0 {
			return false
		}
	}
	return true
}

var errDamaged = errors.New("content does not match the object's digest")

// check compares what was received with all that is known about it.
func (in *intake) check(r *retries, name string) error {
	digest := in.digest()
	etag, isMD5 := in.object.MD5()
	switch {
	case isMD5 && string(etag) == string(in.weak.Sum(nil)):
	case len(in.object.SHA256) > 0 && string(in.object.SHA256) == string(digest[:]):
	case !isMD5 && len(in.object.SHA256) == 0:
	default:
		// Some stores have ETags that only look like a digest, and some tools
		// copy metadata to other content: what arrives twice the same is real.
		if !r.damaged(name, digest) {
			return errDamaged
		}
	}
	return nil
}

func diskFull(err error) bool { return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) }
