package datasync

import (
	"bytes"
	"context"
	"crypto/md5" //nolint:gosec // the ETag of an object is one; it protects nothing.
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"

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
	md5    []byte // nil unless asked for
}

// readContent hashes the first size bytes of f.
func readContent(ctx context.Context, f *os.File, size int64, withMD5 bool) (content, error) {
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
	sum := io.Writer(sha)
	weak := md5.New() //nolint:gosec // as above.
	if withMD5 {
		sum = io.MultiWriter(sha, weak)
	}
	n, err := io.Copy(sum, &endingReader{ctx: ctx, r: src})
	if err == nil && n != size {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return c, shortRead(err)
	}
	sha.Sum(c.sha256[:0])
	if withMD5 {
		c.md5 = weak.Sum(nil)
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
	if sum, ok := listed.MD5(); ok && bytes.Equal(sum, c.md5) {
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
