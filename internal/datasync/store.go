package datasync

import (
	"context"
	"io"

	"github.com/project-flotta/flotta-agent/internal/datasync/s3"
	"github.com/project-flotta/flotta-agent/internal/desired"
)

// Store is the little that the engine needs of a bucket. *s3.Client is one. All
// methods may be called from several goroutines, and their errors match the
// kinds of package s3 or the context's error.
type Store interface {
	// List calls page with what is stored under prefix, in the order of the
	// keys' bytes where the store has one, until page fails.
	List(ctx context.Context, prefix string, page func([]s3.Object) error) error
	// Head returns what is stored under key.
	Head(ctx context.Context, key string) (s3.Object, error)
	// Get returns what is stored under key and its content, to be closed.
	Get(ctx context.Context, key string) (s3.Object, io.ReadCloser, error)
	// Put stores an object whole or not at all, and returns its ETag.
	Put(ctx context.Context, u s3.Upload) (etag string, err error)
	// Close drops idle connections.
	Close()
}

// openS3 returns the store that a device was told to use.
func openS3(s desired.Storage) (Store, error) {
	return s3.New(s3.Config{
		Host:            s.Host,
		Port:            s.Port,
		Bucket:          s.Bucket,
		Region:          s.Region,
		AccessKeyID:     s.AccessKeyID,
		SecretAccessKey: s.SecretAccessKey,
		CABundle:        s.CABundle,
	})
}
