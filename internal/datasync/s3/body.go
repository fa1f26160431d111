package s3

import (
	"errors"
	"fmt"
	"io"

	"github.com/aws/aws-sdk-go-v2/aws"
)

// fileBody is what is sent: a piece of a file that is read from its beginning at
// every attempt.
type fileBody struct {
	*io.SectionReader
}

func newFileBody(from io.ReaderAt, offset, size int64) fileBody {
	return fileBody{io.NewSectionReader(from, offset, size)}
}

// Read marks failures of the file as such, also the end of one that was longer
// when the upload began: they are not the store's.
func (b fileBody) Read(p []byte) (int, error) {
	n, err := b.SectionReader.Read(p)
	if err == nil {
		return n, nil
	}
	if errors.Is(err, io.EOF) {
		if at, _ := b.Seek(0, io.SeekCurrent); at >= b.Size() {
			return n, io.EOF
		}
		err = io.ErrUnexpectedEOF
	}
	return n, &readError{err}
}

// readError is a failure to read what is to be sent.
type readError struct{ err error }

func (e *readError) Error() string { return fmt.Sprintf("read content: %v", e.err) }

func (e *readError) Unwrap() error { return e.err }

// unreadable makes an end of content that can't be read: asking the store again
// does not mend it.
func unreadable(err error) aws.Ternary {
	if _, ok := errors.AsType[*readError](err); ok {
		return aws.FalseTernary
	}
	return aws.UnknownTernary
}
