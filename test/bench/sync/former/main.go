// Command former synchronises the way flotta v0.2 did, for comparison: each
// cycle lists the whole prefix into a map, walks the whole folder, and transfers
// what differs in size or has a later time, with 16 workers, parts of 5 MiB and
// five of them at once, and downloads written in place. Nothing is remembered
// between two cycles.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"golang.org/x/sync/errgroup"
)

const (
	workers   = 16
	partBytes = 5 << 20
	partsOnce = 5
)

type former struct {
	api            *s3.Client
	bucket, prefix string
	dir            string
}

// version is what decides whether two files are the same.
type version struct {
	size  int64
	mtime time.Time
}

func main() {
	endpoint := flag.String("endpoint", "", "URL of the store")
	bucket := flag.String("bucket", "", "bucket")
	prefix := flag.String("prefix", "p", "prefix of the objects")
	dir := flag.String("dir", "", "folder")
	down := flag.Bool("down", false, "download")
	flag.Parse()
	transport := http.DefaultTransport.(*http.Transport).Clone() //nolint:forcetypeassert // it is.
	transport.MaxIdleConnsPerHost = workers * partsOnce
	f := former{bucket: *bucket, prefix: *prefix + "/", dir: *dir, api: s3.New(s3.Options{
		BaseEndpoint: endpoint, Region: "us-east-1", UsePathStyle: true,
		Credentials: credentials.NewStaticCredentialsProvider(os.Getenv("AWS_ACCESS_KEY_ID"), os.Getenv("AWS_SECRET_ACCESS_KEY"), ""),
		HTTPClient:  &http.Client{Transport: transport},
		// What the first SDK did: no checksums beyond the signature.
		RequestChecksumCalculation: aws.RequestChecksumCalculationWhenRequired,
		ResponseChecksumValidation: aws.ResponseChecksumValidationWhenRequired,
	})}
	if err := f.cycle(context.Background(), *down); err != nil {
		fmt.Fprintln(os.Stderr, "former:", err)
		os.Exit(1)
	}
}

func (f former) cycle(ctx context.Context, down bool) error {
	remote, err := f.list(ctx)
	if err != nil {
		return err
	}
	local, err := f.walk()
	if err != nil {
		return err
	}
	from, to, move := local, remote, f.upload
	if down {
		from, to, move = remote, local, f.download
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(workers)
	for name, is := range from {
		if has, ok := to[name]; ok && has.size == is.size && !is.mtime.After(has.mtime) {
			continue
		}
		group.Go(func() error { return move(ctx, name, is.size) })
	}
	return group.Wait()
}

func (f former) list(ctx context.Context) (map[string]version, error) {
	all := map[string]version{}
	pages := s3.NewListObjectsV2Paginator(f.api, &s3.ListObjectsV2Input{Bucket: &f.bucket, Prefix: &f.prefix})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return nil, err
		}
		for _, o := range page.Contents {
			all[strings.TrimPrefix(*o.Key, f.prefix)] = version{*o.Size, *o.LastModified}
		}
	}
	return all, nil
}

func (f former) walk() (map[string]version, error) {
	all := map[string]version{}
	err := filepath.WalkDir(f.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := os.Stat(path)
		if err != nil {
			return err
		}
		name, err := filepath.Rel(f.dir, path)
		all[name] = version{info.Size(), info.ModTime()}
		return err
	})
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return all, err
}

func (f former) upload(ctx context.Context, name string, size int64) error {
	file, err := os.Open(filepath.Join(f.dir, name))
	if err != nil {
		return err
	}
	defer file.Close() //nolint:errcheck // read only.
	key := f.prefix + name
	if size <= partBytes {
		_, err = f.api.PutObject(ctx, &s3.PutObjectInput{Bucket: &f.bucket, Key: &key, Body: file})
		return err
	}
	begun, err := f.api.CreateMultipartUpload(ctx, &s3.CreateMultipartUploadInput{Bucket: &f.bucket, Key: &key})
	if err != nil {
		return err
	}
	parts := make([]types.CompletedPart, (size+partBytes-1)/partBytes)
	group, partCtx := errgroup.WithContext(ctx)
	group.SetLimit(partsOnce)
	for i := range parts {
		group.Go(func() error {
			number := int32(i + 1) //nolint:gosec // at most 10,000.
			at := int64(i) * partBytes
			out, err := f.api.UploadPart(partCtx, &s3.UploadPartInput{
				Bucket: &f.bucket, Key: &key, UploadId: begun.UploadId, PartNumber: &number,
				Body: io.NewSectionReader(file, at, min(partBytes, size-at)),
			})
			if err == nil {
				parts[i] = types.CompletedPart{PartNumber: &number, ETag: out.ETag}
			}
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	_, err = f.api.CompleteMultipartUpload(ctx, &s3.CompleteMultipartUploadInput{
		Bucket: &f.bucket, Key: &key, UploadId: begun.UploadId, MultipartUpload: &types.CompletedMultipartUpload{Parts: parts},
	})
	return err
}

func (f former) download(ctx context.Context, name string, size int64) error {
	path := filepath.Join(f.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(partsOnce)
	key := f.prefix + name
	for at := int64(0); at < max(size, 1); at += partBytes {
		group.Go(func() error {
			in := &s3.GetObjectInput{Bucket: &f.bucket, Key: &key}
			if size > 0 {
				in.Range = aws.String(fmt.Sprintf("bytes=%d-%d", at, min(at+partBytes, size)-1))
			}
			out, err := f.api.GetObject(ctx, in)
			if err != nil {
				return err
			}
			defer out.Body.Close() //nolint:errcheck // read to its end.
			_, err = io.Copy(io.NewOffsetWriter(file, at), out.Body)
			return err
		})
	}
	return errors.Join(group.Wait(), file.Close())
}
