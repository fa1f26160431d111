package s3

import (
	"context"
	"encoding/hex"
	"errors"
	"io"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awss3 "github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
)

// The user metadata of an object that was uploaded from a device.
const (
	metaMTime  = "flotta-mtime"  // seconds since 1970 with nine decimals
	metaMode   = "flotta-mode"   // octal permission bits
	metaSHA256 = "flotta-sha256" // hexadecimal digest of the content
)

// Object is what the store says about one object.
type Object struct {
	Key          string
	Size         int64
	ETag         string // without quotes; compared, never interpreted, except by MD5
	LastModified time.Time

	// What follows is known from Head and Get only.

	// SHA256 is the digest that the uploader stored beside the content, nil
	// when it stored none. It is a claim until compared with the content.
	SHA256 []byte
	MTime  time.Time // zero: not stored
	Mode   uint32    // permission bits; 0: not stored
	// Opaque says that the store encrypted the object in a way that makes its
	// ETag something else than a digest.
	Opaque bool
}

// MD5 returns the digest of the content that the ETag is, if it is one: an
// upload in parts has an ETag of another form.
func (o Object) MD5() ([]byte, bool) {
	if o.Opaque || len(o.ETag) != 32 {
		return nil, false
	}
	sum, err := hex.DecodeString(o.ETag)
	return sum, err == nil
}

// List calls page with the objects under prefix, in the store's order, which is
// by key bytes for all but a few stores. It stops at the first error of page.
func (c *Client) List(ctx context.Context, prefix string, page func([]Object) error) error {
	in := &awss3.ListObjectsV2Input{
		Bucket: &c.bucket,
		Prefix: &prefix,
		// A key may hold characters that XML is unable to carry.
		EncodingType: types.EncodingTypeUrl,
	}
	for {
		out, err := c.api.ListObjectsV2(ctx, in)
		if err != nil {
			return failure(ctx, "ListObjectsV2", prefix, err)
		}
		objects := make([]Object, 0, len(out.Contents))
		for _, o := range out.Contents {
			objects = append(objects, Object{
				Key:          listedKey(aws.ToString(o.Key), out.EncodingType),
				Size:         aws.ToInt64(o.Size),
				ETag:         trimETag(o.ETag),
				LastModified: aws.ToTime(o.LastModified),
			})
		}
		if err := page(objects); err != nil {
			return err
		}
		next := aws.ToString(out.NextContinuationToken)
		// A store that says "truncated" without a new token would be asked for
		// the same page for ever.
		if !aws.ToBool(out.IsTruncated) || next == "" || next == aws.ToString(in.ContinuationToken) {
			return nil
		}
		in.ContinuationToken = &next
	}
}

// listedKey undoes the encoding that was asked for, when the store applied it.
func listedKey(key string, encoding types.EncodingType) string {
	if encoding != types.EncodingTypeUrl {
		return key
	}
	plain, err := url.QueryUnescape(key)
	if err != nil {
		return key
	}
	return plain
}

// Head returns what the store knows about the object.
func (c *Client) Head(ctx context.Context, key string) (Object, error) {
	out, err := c.api.HeadObject(ctx, &awss3.HeadObjectInput{Bucket: &c.bucket, Key: &key})
	if err != nil {
		return Object{}, failure(ctx, "HeadObject", key, err)
	}
	o := Object{
		Key:          key,
		Size:         aws.ToInt64(out.ContentLength),
		ETag:         trimETag(out.ETag),
		LastModified: aws.ToTime(out.LastModified),
		Opaque:       opaque(out.ServerSideEncryption, out.SSECustomerAlgorithm),
	}
	o.addMetadata(out.Metadata)
	return o, nil
}

// Get returns the object and its content, which the caller closes. A read of
// the content fails when the store's checksum does not match.
func (c *Client) Get(ctx context.Context, key string) (Object, io.ReadCloser, error) {
	out, err := c.api.GetObject(ctx, &awss3.GetObjectInput{Bucket: &c.bucket, Key: &key})
	if err != nil {
		return Object{}, nil, failure(ctx, "GetObject", key, err)
	}
	o := Object{
		Key:          key,
		Size:         aws.ToInt64(out.ContentLength),
		ETag:         trimETag(out.ETag),
		LastModified: aws.ToTime(out.LastModified),
		Opaque:       opaque(out.ServerSideEncryption, out.SSECustomerAlgorithm),
	}
	o.addMetadata(out.Metadata)
	return o, &content{ctx: ctx, key: key, body: out.Body}, nil
}

// GetFrom returns the content of exactly the version o of an object, as List or
// Head described it, from byte from on. It is ErrChanged when the object is
// another one by now.
func (c *Client) GetFrom(ctx context.Context, o Object, from int64) (io.ReadCloser, error) {
	out, err := c.api.GetObject(ctx, &awss3.GetObjectInput{
		Bucket: &c.bucket, Key: &o.Key,
		Range:   aws.String("bytes=" + strconv.FormatInt(from, 10) + "-"),
		IfMatch: aws.String(strconv.Quote(o.ETag)),
	})
	if err != nil {
		return nil, failure(ctx, "GetObject", o.Key, err)
	}
	body := &content{ctx: ctx, key: o.Key, body: out.Body}
	// A store may not know conditions, or ranges.
	if trimETag(out.ETag) != o.ETag || aws.ToInt64(out.ContentLength) != o.Size-from {
		_ = body.Close()
		return nil, &Error{Op: "GetObject", Key: o.Key, kind: ErrChanged, err: errors.New("another version, or not the range asked for")}
	}
	return body, nil
}

// content gives the errors of a body the form of all other errors.
type content struct {
	ctx  context.Context //nolint:containedctx // the body's reads belong to the call that made it.
	key  string
	body io.ReadCloser
}

func (c *content) Read(p []byte) (int, error) {
	n, err := c.body.Read(p)
	if err != nil && err != io.EOF { //nolint:errorlint // io.EOF is never wrapped by a Reader.
		err = failure(c.ctx, "GetObject", c.key, err)
	}
	return n, err
}

func (c *content) Close() error { return c.body.Close() }

func opaque(sse types.ServerSideEncryption, customer *string) bool {
	return customer != nil || (sse != "" && sse != types.ServerSideEncryptionAes256)
}

func trimETag(etag *string) string { return strings.Trim(aws.ToString(etag), `"`) }

// addMetadata takes over what is well-formed; metadata is foreign input.
func (o *Object) addMetadata(meta map[string]string) {
	for name, value := range meta {
		switch strings.ToLower(name) {
		case metaSHA256:
			if sum, err := hex.DecodeString(value); err == nil && len(sum) == 32 {
				o.SHA256 = sum
			}
		case metaMode:
			if mode, err := strconv.ParseUint(value, 8, 32); err == nil {
				o.Mode = uint32(mode) & 0o777
			}
		case metaMTime:
			o.MTime = parseMTime(value)
		}
	}
}

func parseMTime(value string) time.Time {
	whole, fraction, _ := strings.Cut(value, ".")
	sec, err := strconv.ParseInt(whole, 10, 64)
	// Beyond these a time does not fit into nanoseconds since 1970.
	if err != nil || sec < -9e9 || sec > 9e9 || len(fraction) > 9 {
		return time.Time{}
	}
	nsec, err := strconv.ParseUint((fraction + "000000000")[:9], 10, 32)
	if err != nil {
		return time.Time{}
	}
	return time.Unix(sec, int64(nsec))
}

func formatMTime(t time.Time) string {
	nsec := strconv.Itoa(t.Nanosecond() + 1e9)
	return strconv.FormatInt(t.Unix(), 10) + "." + nsec[1:]
}
