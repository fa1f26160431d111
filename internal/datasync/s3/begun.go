package s3

import (
	"context"
	"errors"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awss3 "github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
)

// Begun is an upload in parts that somebody began and nobody finished yet.
type Begun struct {
	Key   string
	ID    string
	Since time.Time // by the store's clock; zero: it does not say
}

// Uploads calls page with the unfinished uploads of keys under prefix. It stops
// at the first error of page.
func (c *Client) Uploads(ctx context.Context, prefix string, page func([]Begun) error) error {
	in := &awss3.ListMultipartUploadsInput{
		Bucket: &c.bucket, Prefix: &prefix, EncodingType: types.EncodingTypeUrl,
	}
	for {
		out, err := c.api.ListMultipartUploads(ctx, in)
		if err != nil {
			return failure(ctx, "ListMultipartUploads", prefix, err)
		}
		uploads := make([]Begun, 0, len(out.Uploads))
		for _, u := range out.Uploads {
			uploads = append(uploads, Begun{
				Key: listedKey(aws.ToString(u.Key), out.EncodingType),
				ID:  aws.ToString(u.UploadId), Since: aws.ToTime(u.Initiated),
			})
		}
		if err := page(uploads); err != nil {
			return err
		}
		key := listedKey(aws.ToString(out.NextKeyMarker), out.EncodingType)
		id := aws.ToString(out.NextUploadIdMarker)
		if !aws.ToBool(out.IsTruncated) || key == "" ||
			key == aws.ToString(in.KeyMarker) && id == aws.ToString(in.UploadIdMarker) {
			return nil
		}
		in.KeyMarker, in.UploadIdMarker = &key, &id
	}
}

// Abort frees the parts of an unfinished upload. One that is not known any more
// is no error.
func (c *Client) Abort(ctx context.Context, key, id string) error {
	_, err := c.api.AbortMultipartUpload(ctx, &awss3.AbortMultipartUploadInput{
		Bucket: &c.bucket, Key: &key, UploadId: &id,
	})
	if err = failure(ctx, "AbortMultipartUpload", key, err); errors.Is(err, ErrNotFound) {
		return nil
	}
	return err
}

// giveUp aborts an upload. It works after ctx ended, because that is when most
// uploads are given up.
func (c *Client) giveUp(ctx context.Context, key, id string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), abortTimeout)
	defer cancel()
	// A store that is out of reach keeps the parts until they are a week old;
	// there is nobody to tell.
	_ = c.Abort(ctx, key, id)
}
