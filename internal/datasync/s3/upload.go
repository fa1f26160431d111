package s3

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"io"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	awss3 "github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/smithy-go/middleware"
)

// Upload is one object to be stored.
type Upload struct {
	Key   string
	Body  io.ReaderAt // read once per attempt, by several goroutines at once
	Size  int64       // exactly this many bytes of Body are sent
	MTime time.Time
	Mode  uint32 // permission bits
	// SHA256 is the digest of Body, when it is known: it is stored beside the
	// content, and for an upload in one request the store checks it.
	SHA256 []byte
	// Moved, when set, is told how many more bytes of Body travelled, by several
	// goroutines at once; a negative number takes back those of an attempt that
	// is repeated. It may block to slow the upload down.
	Moved func(bytes int64)
	// Piece is the most that Moved is told of at once; 0: what the transport reads.
	// Who holds up small pieces lets no connection stand still for long.
	Piece int
	// Resume lets an upload in parts go on after it failed or the process
	// ended; nil: what failed is aborted.
	Resume *Resume
}

func (u Upload) metadata() map[string]string {
	meta := map[string]string{
		metaMTime: formatMTime(u.MTime),
		metaMode:  strconv.FormatUint(uint64(u.Mode&0o777), 8),
	}
	if len(u.SHA256) > 0 {
		meta[metaSHA256] = hex.EncodeToString(u.SHA256)
	}
	return meta
}

// Put stores the object, in parts when it is large, and returns its ETag. The
// object appears in the store whole or not at all.
func (c *Client) Put(ctx context.Context, u Upload) (string, error) {
	if u.Size > maxObjectBytes {
		return "", &Error{Op: "PutObject", Key: u.Key, kind: ErrRefused, err: errTooLarge}
	}
	ctx = metered(ctx, u)
	if etag, err := c.goOn(ctx, u); !errors.Is(err, errForgotten) {
		return etag, err
	}
	if c.plain.Load() {
		return c.put(ctx, u, false)
	}
	etag, err := c.put(ctx, u, true)
	taken := c.form(u)
	if err == nil {
		taken.Store(true)
	}
	if taken.Load() || !checksumRefused(err) {
		return etag, err
	}
	etag, plainErr := c.put(ctx, u, false)
	if plainErr != nil {
		return "", err
	}
	c.plain.Store(true)
	return etag, nil
}

// form returns what is known about uploads of the form that u takes.
func (c *Client) form(u Upload) *atomic.Bool {
	if u.Size > c.partBytes {
		return &c.inParts
	}
	return &c.whole
}

// checksumRefused reports whether err may be the answer of a store that does
// not know the SDK's checksums. Stores answer that with whatever they make of
// the unknown headers or of the unknown body encoding.
func checksumRefused(err error) bool {
	var e *Error
	if !errors.As(err, &e) || e.Status == 0 {
		return false
	}
	switch e.Code {
	case "NoSuchBucket", "NoSuchKey", "NoSuchUpload", "InvalidAccessKeyId", "AccessDenied",
		"EntityTooLarge", "KeyTooLongError", "QuotaExceeded", "BadDigest":
		return false
	}
	return e.Status == http.StatusNotImplemented ||
		e.Status == http.StatusBadRequest || e.Status == http.StatusForbidden ||
		e.Status == http.StatusLengthRequired || e.Status == http.StatusUnsupportedMediaType
}

func (c *Client) put(ctx context.Context, u Upload, checksums bool) (string, error) {
	if u.Size > c.partBytes {
		return c.putParts(ctx, u, checksums)
	}
	in := &awss3.PutObjectInput{
		Bucket:        &c.bucket,
		Key:           &u.Key,
		Body:          newFileBody(u.Body, 0, u.Size),
		ContentLength: &u.Size,
		Metadata:      u.metadata(),
	}
	opts := []func(*awss3.Options){checksumOption(checksums)}
	if len(u.SHA256) > 0 {
		opts = append(opts, signedDigest(hex.EncodeToString(u.SHA256)))
		if checksums {
			in.ChecksumSHA256 = aws.String(base64.StdEncoding.EncodeToString(u.SHA256))
		}
	}
	out, err := c.api.PutObject(ctx, in, opts...)
	if err != nil {
		return "", failure(ctx, "PutObject", u.Key, err)
	}
	return trimETag(out.ETag), nil
}

func checksumOption(on bool) func(*awss3.Options) {
	return func(o *awss3.Options) {
		if !on {
			o.RequestChecksumCalculation = aws.RequestChecksumCalculationWhenRequired
		}
	}
}

// signedDigest signs the request with the digest that is known already: every
// store checks it, whatever it knows of checksums, and the body is not read
// once more to compute it.
func signedDigest(digest string) func(*awss3.Options) {
	set := middleware.InitializeMiddlewareFunc("FlottaSignedDigest", func(
		ctx context.Context, in middleware.InitializeInput, next middleware.InitializeHandler,
	) (middleware.InitializeOutput, middleware.Metadata, error) {
		return next.HandleInitialize(v4.SetPayloadHash(ctx, digest), in)
	})
	return func(o *awss3.Options) {
		o.APIOptions = append(o.APIOptions, func(s *middleware.Stack) error {
			return s.Initialize.Add(set, middleware.After)
		})
	}
}
