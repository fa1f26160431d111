package datasync

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"github.com/project-flotta/flotta-agent/internal/datasync/s3"
)

// smallFile is the size up to which a file is read once into memory: what is
// hashed is then what is sent. Larger ones are read twice, in pieces.
const smallFile = 256 << 10

// errChanged says that a file is not what it was when reading it began.
var errChanged = errors.New("changed while it was read")

// content is what can be sent of an open file: the bytes it had when it was
// opened, and no byte that was appended since.
type content struct {
	body   io.ReaderAt
	size   int64
	sha256 [sha256.Size]byte
	etags  []string // that an object with this content may have, of the form asked for
}

// readContent hashes the first size bytes of f, also in the way in which an ETag of
// the form of like is made, if it is one of a known form.
func readContent(ctx context.Context, f *os.File, size int64, like string) (content, error) {
	c := content{body: f, size: size}
	var src io.Reader = io.NewSectionReader(f, 0, size)
	if size <= smallFile {
		buf := make([]byte, size)
		if _, err := io.ReadFull(src, buf); err != nil {
			return c, shortRead(err)
		}
		c.body, src = bytes.NewReader(buf), bytes.NewReader(buf)
	}
	sha := sha256.New()
	sums := []io.Writer{sha}
	var guesses []*etagHash
	for _, piece := range partSizes(like, size) {
		g := newETagHash(piece)
		guesses, sums = append(guesses, g), append(sums, g)
	}
	n, err := io.Copy(io.MultiWriter(sums...), &endingReader{ctx: ctx, r: src})
	if err == nil && n != size {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return c, shortRead(err)
	}
	sha.Sum(c.sha256[:0])
	for _, g := range guesses {
		c.etags = append(c.etags, g.etag())
	}
	return c, nil
}

// shortRead makes errChanged of a file that became shorter.
func shortRead(err error) error {
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		return errChanged
	}
	return err
}

// endingReader ends with the context: hashing 20 GiB must not hold up a stop.
type endingReader struct {
	ctx context.Context //nolint:containedctx // lives as long as one copy.
	r   io.Reader
}

func (r *endingReader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.Read(p)
}

// same reports whether an object has the given content, and asks the store for
// the object's metadata when its ETag does not tell.
func same(ctx context.Context, store Store, key, etag string, c content) (s3.Object, bool, error) {
	listed := s3.Object{Key: key, ETag: etag, Size: c.size}
	if slices.Contains(c.etags, etag) {
		return listed, true, nil
	}
	o, err := store.Head(ctx, key)
	if errors.Is(err, s3.ErrNotFound) || errors.Is(err, s3.ErrDenied) {
		return o, false, nil // then it is not known to be the same
	}
	if err != nil {
		return o, false, fmt.Errorf("compare object: %w", err)
	}
	return o, o.Size == c.size && bytes.Equal(o.SHA256, c.sha256[:]), nil
}

// alreadyThere reports whether the object has this content, and its ETag.
func (r *egressRun) alreadyThere(ctx context.Context, op egressOp, c content) (string, bool, error) {
	switch {
	case op.Kind != opCompare:
		return "", false, nil
	case op.Known != nil:
		if op.Known.SHA256 != c.sha256 || op.Known.Size != c.size {
			return "", false, nil
		}
		if racyOnly(op.Known.fingerprint, op.Entry.fingerprint) {
			return op.Known.ETag, true, nil
		}
		return r.stillThere(ctx, op)
	}
	o, ok, err := same(ctx, r.store, op.Key, op.Hint.ETag, c)
	return o.ETag, ok, err
}

// stillThere asks the store for what is recorded of a file whose content is as
// recorded again: something else may have arrived there in between, and the
// answer, or the process, got lost before it was recorded.
func (r *egressRun) stillThere(ctx context.Context, op egressOp) (string, bool, error) {
	o, err := r.store.Head(ctx, op.Key)
	if errors.Is(err, s3.ErrNotFound) || errors.Is(err, s3.ErrDenied) {
		return "", false, nil // then it is sent
	}
	if err != nil {
		return "", false, fmt.Errorf("compare object: %w", err)
	}
	return o.ETag, o.ETag == op.Known.ETag && o.Size == op.Known.Size, nil
}

// unchanged reports whether an open file still is what it was.
func unchanged(f *os.File, before entry) bool {
	after, err := fstat(f, before.Path)
	return err == nil && after.fingerprint == before.fingerprint
}

// clockTick is no less than the steps in which file systems count time: a file
// that changed within it can change again without its times showing that.
const clockTick = 20 * time.Millisecond

// racyOnly reports whether a file is compared only because it was racy when it
// was recorded: nothing was written to it long enough to be sent in between.
func racyOnly(known, now fingerprint) bool {
	now.CTime = 0
	return known == now
}

func racy(f fingerprint, opened time.Time) bool {
	return opened.Sub(time.Unix(0, f.CTime)) < clockTick
}
