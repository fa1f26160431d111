package s3

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"
)

// The kinds of failure that callers treat differently. Every error of Client
// matches exactly one of them, or the context's own error, or what reading the
// content to be sent failed with.
var (
	// ErrNotFound says that there is no object under the key.
	ErrNotFound = errors.New("object not found")
	// ErrNoBucket says that the bucket does not exist.
	ErrNoBucket = errors.New("bucket not found")
	// ErrCredentials says that the store does not know the key pair.
	ErrCredentials = errors.New("credentials refused")
	// ErrDenied says that the key pair may not do this.
	ErrDenied = errors.New("access denied")
	// ErrDigest says that the bytes that travelled were not those announced:
	// the file changed while it was read, or the line corrupted them.
	ErrDigest = errors.New("content differs from its digest")
	// ErrUnavailable says that the store did not answer, or answered that it
	// is not able to serve now: network, TLS, time-out, 5xx, slow-down.
	ErrUnavailable = errors.New("store unavailable")
	// ErrCertificate says that the server's certificate is not one of the
	// bucket's authority. It is an ErrUnavailable as well.
	ErrCertificate = fmt.Errorf("%w: certificate refused", ErrUnavailable)
	// ErrChanged says that the object is not the version that was asked for.
	ErrChanged = errors.New("object is another one by now")
	// ErrRefused is every other answer: the store will not take this request.
	ErrRefused = errors.New("request refused")
)

// Error is a failed call on the bucket.
type Error struct {
	Op     string // the S3 operation
	Key    string // the object's key or the listed prefix
	Code   string // the store's error code; empty when it did not answer
	Status int    // the HTTP status; 0 when the store did not answer

	kind error
	err  error
}

// Error names the operation, the key and the cause.
func (e *Error) Error() string {
	if e.Code != "" {
		return fmt.Sprintf("%s %q: %v (%s, status %d)", e.Op, e.Key, e.kind, e.Code, e.Status)
	}
	return fmt.Sprintf("%s %q: %v: %v", e.Op, e.Key, e.kind, e.err)
}

// Unwrap returns the kind and the cause.
func (e *Error) Unwrap() []error { return []error{e.kind, e.err} }

// codeKinds maps the error codes of S3 and of its imitations.
var codeKinds = map[string]error{
	"NoSuchKey":                   ErrNotFound,
	"NotFound":                    ErrNotFound,
	"NoSuchUpload":                ErrNotFound,
	"PreconditionFailed":          ErrChanged,
	"InvalidRange":                ErrChanged,
	"NoSuchBucket":                ErrNoBucket,
	"InvalidAccessKeyId":          ErrCredentials,
	"SignatureDoesNotMatch":       ErrCredentials,
	"ExpiredToken":                ErrCredentials,
	"InvalidToken":                ErrCredentials,
	"TokenRefreshRequired":        ErrCredentials,
	"XAdminUserNotFound":          ErrCredentials, // of versitygw
	"AccessDenied":                ErrDenied,
	"AllAccessDisabled":           ErrDenied,
	"BadDigest":                   ErrDigest,
	"InvalidDigest":               ErrDigest,
	"XAmzContentSHA256Mismatch":   ErrDigest,
	"XAmzContentChecksumMismatch": ErrDigest,
	"IncompleteBody":              ErrDigest,
	"SlowDown":                    ErrUnavailable,
	"RequestTimeout":              ErrUnavailable,
	"RequestTimeTooSkewed":        ErrUnavailable,
	"InternalError":               ErrUnavailable,
	"ServiceUnavailable":          ErrUnavailable,
}

// failure turns what the SDK returned into an *Error. A cancelled context stays
// recognisable, because a cycle that was stopped has not failed.
func failure(ctx context.Context, op, key string, err error) error {
	if err == nil {
		return nil
	}
	if cause := ctx.Err(); cause != nil {
		return fmt.Errorf("%s %q: %w", op, key, cause)
	}
	if unread, ok := errors.AsType[*readError](err); ok {
		return fmt.Errorf("%s %q: %w", op, key, unread)
	}
	e := &Error{Op: op, Key: key, err: err}
	if answered, ok := errors.AsType[*awshttp.ResponseError](err); ok {
		e.Status = answered.HTTPStatusCode()
	}
	if api, ok := errors.AsType[smithy.APIError](err); ok {
		e.Code = api.ErrorCode()
	}
	if unsent, ok := errors.AsType[*smithyhttp.RequestSendError](err); ok {
		e.err = unsent.Err // without the SDK's layers, which say nothing
	}
	if e.kind = kindOf(e.Code, e.Status); certificateRefused(err) == aws.FalseTernary {
		e.kind = ErrCertificate
	}
	return e
}

func kindOf(code string, status int) error {
	if kind, ok := codeKinds[code]; ok {
		return kind
	}
	switch {
	case status == http.StatusNotFound && code == "":
		return ErrNotFound
	case status == http.StatusUnauthorized:
		return ErrCredentials
	case status == http.StatusForbidden:
		return ErrDenied
	case status == 0, status == http.StatusTooManyRequests, status == http.StatusRequestTimeout,
		status >= 500 && status != http.StatusNotImplemented:
		return ErrUnavailable
	}
	return ErrRefused
}
