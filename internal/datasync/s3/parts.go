package s3

import (
	"context"
	"crypto/md5" //nolint:gosec // the ETag of a part is one; it protects nothing.
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"strconv"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awss3 "github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"golang.org/x/sync/errgroup"
)

// The protocol's bounds.
const (
	maxParts       = 10_000
	maxObjectBytes = 5 << 40
	minPartBytes   = 5 << 20
	maxPartBytes   = 5 << 30
)

const (
	// parallelParts is how many parts of one object travel at once. They are
	// read from the file as they go, so this costs connections, not memory.
	parallelParts = 3
	abortTimeout  = 5 * time.Second
	hashBuffer    = 64 << 10
)

var (
	errTooLarge  = errors.New("more than 5 TiB")
	errForgotten = errors.New("an earlier upload is not known any more")
)

// Parts is an upload in parts that was begun.
type Parts struct {
	ID        string // the store's name for it; empty: there is none
	PartBytes int64  // size of all parts but the last
	// Plain says that it was begun without checksums, so that its parts can
	// have none.
	Plain bool
}

// Resume lets an upload in parts go on after it failed or the process ended.
type Resume struct {
	// Parts is what an earlier Put of the same key, content, times and mode
	// began; zero: nothing.
	Parts Parts
	// Begun is called before the first part of a new upload travels, in place
	// of the one before; when it fails, the new one is aborted.
	Begun func(Parts) error
}

// putParts uploads u in parts that are read from the file as they are sent.
func (c *Client) putParts(ctx context.Context, u Upload, checksums bool) (string, error) {
	parts, err := c.begin(ctx, u, !checksums)
	if err != nil {
		return "", err
	}
	return c.finish(ctx, u, parts, nil)
}

// goOn sends what the store does not have of an earlier upload; errForgotten:
// there is none to go on with.
func (c *Client) goOn(ctx context.Context, u Upload) (string, error) {
	if u.Resume == nil || u.Resume.Parts.ID == "" || u.Size <= c.partBytes {
		return "", errForgotten
	}
	parts := u.Resume.Parts
	if parts.PartBytes < minPartBytes || parts.PartBytes > maxPartBytes ||
		(u.Size+parts.PartBytes-1)/parts.PartBytes > maxParts {
		return "", errForgotten
	}
	have, err := c.listParts(ctx, u.Key, parts.ID)
	if err == nil {
		return c.finish(ctx, u, parts, have)
	}
	if !uploadUnknown(err) {
		return "", err
	}
	// The answer to its completion may have been lost.
	if o, ok := c.stored(ctx, u); ok {
		return o.ETag, nil
	}
	return "", errForgotten
}

// stored reports whether the store has the object as u would make it.
func (c *Client) stored(ctx context.Context, u Upload) (Object, bool) {
	if len(u.SHA256) == 0 {
		return Object{}, false
	}
	o, err := c.Head(ctx, u.Key)
	return o, err == nil && o.Size == u.Size && string(o.SHA256) == string(u.SHA256) && o.MTime.Equal(u.MTime)
}

// uploadUnknown reports whether the store does not know an upload. One that it
// does not let look at its parts is as good as unknown.
func uploadUnknown(err error) bool {
	e, ok := errors.AsType[*Error](err)
	if !ok || e.Status == 0 {
		return false
	}
	return errors.Is(err, ErrNotFound) || errors.Is(err, ErrDenied) || errors.Is(err, ErrRefused)
}

// begin starts a new upload.
func (c *Client) begin(ctx context.Context, u Upload, plain bool) (Parts, error) {
	in := &awss3.CreateMultipartUploadInput{Bucket: &c.bucket, Key: &u.Key, Metadata: u.metadata()}
	if !plain {
		in.ChecksumAlgorithm = types.ChecksumAlgorithmCrc32
	}
	begun, err := c.api.CreateMultipartUpload(ctx, in, checksumOption(!plain))
	if err != nil {
		return Parts{}, failure(ctx, "CreateMultipartUpload", u.Key, err)
	}
	parts := Parts{ID: aws.ToString(begun.UploadId), PartBytes: partSize(u.Size, c.partBytes), Plain: plain}
	if u.Resume == nil || u.Resume.Begun == nil {
		return parts, nil
	}
	if err := u.Resume.Begun(parts); err != nil {
		c.giveUp(ctx, u.Key, parts.ID)
		return Parts{}, fmt.Errorf("remember upload of %q: %w", u.Key, err)
	}
	return parts, nil
}

// finish sends the parts that the store does not have and makes them an object.
func (c *Client) finish(ctx context.Context, u Upload, parts Parts, have map[int32]types.Part) (string, error) {
	list, err := c.sendParts(ctx, u, parts, have)
	if err != nil {
		c.leave(ctx, u, parts, err)
		return "", err
	}
	out, err := c.api.CompleteMultipartUpload(ctx, &awss3.CompleteMultipartUploadInput{
		Bucket: &c.bucket, Key: &u.Key, UploadId: &parts.ID,
		MultipartUpload: &types.CompletedMultipartUpload{Parts: list},
	}, checksumOption(!parts.Plain))
	if err == nil {
		return trimETag(out.ETag), nil
	}
	err = failure(ctx, "CompleteMultipartUpload", u.Key, err)
	if uploadUnknown(err) {
		// A repeated request finds that the first one did it.
		if o, ok := c.stored(ctx, u); ok {
			return o.ETag, nil
		}
	}
	c.leave(ctx, u, parts, err)
	return "", err
}

// leave aborts an upload that failed, unless it can go on later: then the line,
// the store, the file or the key pair was what failed, or a part was damaged on
// its way.
func (c *Client) leave(ctx context.Context, u Upload, parts Parts, err error) {
	_, unread := errors.AsType[*readError](err)
	goesOn := unread || ctx.Err() != nil || errors.Is(err, ErrUnavailable) || errors.Is(err, ErrCredentials) ||
		errors.Is(err, ErrDenied) || errors.Is(err, ErrDigest)
	if u.Resume == nil || !goesOn {
		c.giveUp(ctx, u.Key, parts.ID)
	}
}

func (c *Client) sendParts(
	ctx context.Context, u Upload, parts Parts, have map[int32]types.Part,
) ([]types.CompletedPart, error) {
	list := make([]types.CompletedPart, (u.Size+parts.PartBytes-1)/parts.PartBytes)
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(parallelParts)
	for i := range list {
		if ctx.Err() != nil {
			break
		}
		offset := int64(i) * parts.PartBytes
		p := part{
			upload: u, number: int32(i + 1), offset: offset,
			size: min(parts.PartBytes, u.Size-offset), plain: parts.Plain,
		}
		group.Go(func() error {
			had, ok := have[p.number]
			sums, err := p.hash(ctx, c.secure, ok && had.ChecksumCRC32 == nil)
			if err != nil {
				return failure(ctx, "UploadPart", u.Key, err)
			}
			if ok && p.is(had, sums) {
				if u.Moved != nil {
					u.Moved(p.size)
				}
				list[i] = completed(p.number, had.ETag, had.ChecksumCRC32)
				return nil
			}
			list[i], err = c.sendPart(ctx, p, parts.ID, sums)
			return err
		})
	}
	return list, group.Wait()
}

func completed(number int32, etag, crc *string) types.CompletedPart {
	return types.CompletedPart{PartNumber: &number, ETag: etag, ChecksumCRC32: crc}
}

func (c *Client) sendPart(ctx context.Context, p part, id string, sums partSums) (types.CompletedPart, error) {
	in := &awss3.UploadPartInput{
		Bucket: &c.bucket, Key: &p.upload.Key, UploadId: &id, PartNumber: &p.number,
		Body: p.body(), ContentLength: &p.size,
	}
	opts := []func(*awss3.Options){checksumOption(!p.plain)}
	if !p.plain {
		in.ChecksumCRC32 = aws.String(base64.StdEncoding.EncodeToString(sums.crc))
	}
	if sums.sha256 != nil {
		opts = append(opts, signedDigest(hex.EncodeToString(sums.sha256)))
	}
	out, err := c.api.UploadPart(ctx, in, opts...)
	if err != nil {
		return types.CompletedPart{}, failure(ctx, "UploadPart", p.upload.Key, err)
	}
	return completed(p.number, out.ETag, out.ChecksumCRC32), nil
}

// part is one part of an upload.
type part struct {
	upload       Upload
	number       int32
	offset, size int64
	plain        bool
}

func (p part) body() fileBody { return newFileBody(p.upload.Body, p.offset, p.size) }

// partSums are the digests of one part; those that nobody asks for are nil.
type partSums struct{ crc, md5, sha256 []byte }

// hash reads the part once for all digests that are needed: what is sent is
// checked by its CRC; without TLS the signature has to cover the content too;
// and what the store has already is known by its MD5 when it has no CRC.
func (p part) hash(ctx context.Context, secure, compare bool) (partSums, error) {
	var sums partSums
	into := map[*[]byte]hash.Hash{}
	if !p.plain {
		into[&sums.crc] = crc32.NewIEEE()
	}
	if !secure {
		into[&sums.sha256] = sha256.New()
	}
	if compare {
		into[&sums.md5] = md5.New() //nolint:gosec // as above.
	}
	if len(into) == 0 {
		return sums, nil
	}
	buf := make([]byte, hashBuffer)
	for src := p.body(); ; {
		n, err := src.Read(buf)
		for _, h := range into {
			h.Write(buf[:n])
		}
		if err == nil {
			err = ctx.Err()
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return sums, err
		}
	}
	for sum, h := range into {
		*sum = h.Sum(nil)
	}
	return sums, nil
}

// is reports whether what the store has under the part's number is the part: an
// earlier run may have read other bytes from the file than are in it now.
func (p part) is(had types.Part, sums partSums) bool {
	if aws.ToInt64(had.Size) != p.size || trimETag(had.ETag) == "" {
		return false
	}
	if had.ChecksumCRC32 != nil {
		return !p.plain && *had.ChecksumCRC32 == base64.StdEncoding.EncodeToString(sums.crc)
	}
	sum, ok := Object{ETag: trimETag(had.ETag)}.MD5()
	return ok && string(sum) == string(sums.md5)
}

// listParts returns what the store has of an upload.
func (c *Client) listParts(ctx context.Context, key, id string) (map[int32]types.Part, error) {
	have := map[int32]types.Part{}
	in := &awss3.ListPartsInput{Bucket: &c.bucket, Key: &key, UploadId: &id}
	for {
		out, err := c.api.ListParts(ctx, in)
		if err != nil {
			return nil, failure(ctx, "ListParts", key, err)
		}
		for _, p := range out.Parts {
			if n := aws.ToInt32(p.PartNumber); n > 0 && n <= maxParts {
				have[n] = p
			}
		}
		next := aws.ToString(out.NextPartNumberMarker)
		if !aws.ToBool(out.IsTruncated) || !later(next, aws.ToString(in.PartNumberMarker)) {
			return have, nil
		}
		in.PartNumberMarker = &next
	}
}

// later reports whether a marker lies behind the one before, so that a store
// that repeats itself is not asked for ever.
func later(next, before string) bool {
	n, err := strconv.Atoi(next)
	b, _ := strconv.Atoi(before)
	return err == nil && n > b
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
