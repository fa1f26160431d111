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
	// GetFrom returns the content of exactly the version o from byte from on;
	// s3.ErrChanged when the object is another one by now.
	GetFrom(ctx context.Context, o s3.Object, from int64) (io.ReadCloser, error)
	// Put stores an object whole or not at all, and returns its ETag. A large
	// one travels in parts, see s3.Resume.
	Put(ctx context.Context, u s3.Upload) (etag string, err error)
	// Uploads calls page with the uploads in parts below prefix that nobody
	// finished, until page fails.
	Uploads(ctx context.Context, prefix string, page func([]s3.Begun) error) error
	// Abort frees the parts of such an upload; one that is not known any more is
	// no error.
	Abort(ctx context.Context, key, id string) error
	// Close drops idle connections.
	Close()
}

// openS3 returns the store that a device was told to use.
func openS3(s desired.Storage) (Store, error) {
	return s3.New(s3.Config{
		Host:            s.Host,
		Port:            s.Port,
		PlainHTTP:       s.PlainHTTP,
		Bucket:          s.Bucket,
		Region:          s.Region,
		AccessKeyID:     s.AccessKeyID,
		SecretAccessKey: s.SecretAccessKey,
		CABundle:        s.CABundle,
	})
}
