package s3

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	awss3 "github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/smithy-go/middleware"
	"golang.org/x/sync/errgroup"
)

const (
	maxParts = 10_000 // the protocol's bound
	// parallelParts is how many parts of one object travel at once. They are
	// read from the file as they go, so this costs connections, not memory.
	parallelParts = 3
	abortTimeout  = 5 * time.Second
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
	if !c.plain.Load() {
		etag, err := c.put(ctx, u, true)
		if !checksumRefused(err) {
			return etag, err
		}
		etag, plainErr := c.put(ctx, u, false)
		if plainErr != nil {
			return "", err
		}
		c.plain.Store(true)
		return etag, nil
	}
	return c.put(ctx, u, false)
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
		Body:          io.NewSectionReader(u.Body, 0, u.Size),
		ContentLength: &u.Size,
		Metadata:      u.metadata(),
	}
	opts := []func(*awss3.Options){checksumOption(checksums)}
	if len(u.SHA256) > 0 {
		opts = append(opts, signedDigest(u.SHA256))
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
func signedDigest(sum []byte) func(*awss3.Options) {
	digest := hex.EncodeToString(sum)
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

// putParts uploads u in parts that are read from the file as they are sent.
func (c *Client) putParts(ctx context.Context, u Upload, checksums bool) (string, error) {
	option := checksumOption(checksums)
	begun, err := c.api.CreateMultipartUpload(ctx, &awss3.CreateMultipartUploadInput{
		Bucket: &c.bucket, Key: &u.Key, Metadata: u.metadata(),
	}, option)
	if err != nil {
		return "", failure(ctx, "CreateMultipartUpload", u.Key, err)
	}
	parts, err := c.sendParts(ctx, u, begun.UploadId, option)
	if err != nil {
		c.abort(ctx, u.Key, begun.UploadId)
		return "", err
	}
	out, err := c.api.CompleteMultipartUpload(ctx, &awss3.CompleteMultipartUploadInput{
		Bucket: &c.bucket, Key: &u.Key, UploadId: begun.UploadId,
		MultipartUpload: &types.CompletedMultipartUpload{Parts: parts},
	}, option)
	if err != nil {
		c.abort(ctx, u.Key, begun.UploadId)
		return "", failure(ctx, "CompleteMultipartUpload", u.Key, err)
	}
	return trimETag(out.ETag), nil
}

func (c *Client) sendParts(
	ctx context.Context, u Upload, id *string, option func(*awss3.Options),
) ([]types.CompletedPart, error) {
	size := partSize(u.Size, c.partBytes)
	parts := make([]types.CompletedPart, (u.Size+size-1)/size)
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(parallelParts)
	for i := range parts {
		if ctx.Err() != nil {
			break
		}
		group.Go(func() error {
			offset := int64(i) * size
			length := min(size, u.Size-offset)
			number := int32(i + 1) //nolint:gosec // at most maxParts.
			out, err := c.api.UploadPart(ctx, &awss3.UploadPartInput{
				Bucket: &c.bucket, Key: &u.Key, UploadId: id, PartNumber: &number,
				Body: io.NewSectionReader(u.Body, offset, length), ContentLength: &length,
			}, option)
			if err != nil {
				return failure(ctx, "UploadPart", u.Key, err)
			}
			parts[i] = types.CompletedPart{
				PartNumber: &number, ETag: out.ETag, ChecksumCRC32: out.ChecksumCRC32,
			}
			return nil
		})
	}
	return parts, group.Wait()
}

// partSize returns the least size of at least wanted bytes, in whole MiB, with
// which an object of total bytes has no more parts than the protocol allows.
func partSize(total, wanted int64) int64 {
	least := (total + maxParts - 1) / maxParts
	if least <= wanted {
		return wanted
	}
	const mib = 1 << 20
	return (least + mib - 1) / mib * mib
}

// abort frees the parts of an upload that was given up. It works after ctx
// ended, because that is when most uploads are given up.
func (c *Client) abort(ctx context.Context, key string, id *string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), abortTimeout)
	defer cancel()
	// A store that is out of reach keeps the parts until its own rules for
	// incomplete uploads remove them; there is nobody to tell.
	_, _ = c.api.AbortMultipartUpload(ctx, &awss3.AbortMultipartUploadInput{
		Bucket: &c.bucket, Key: &key, UploadId: id,
	})
}
