// Package s3 speaks to one bucket of an S3-compatible store. It owns the
// connection (TLS with the bucket's own CA, time-outs, stall detection), the
// signing, the checksums and the multipart uploads, and it turns every failure
// into one *Error that callers branch on with errors.Is.
//
// Invariants: nothing is read from the environment or from shared AWS files;
// a body is never buffered whole, so memory does not depend on object sizes;
// nothing is ever deleted in the store, except the parts of an upload that
// this process began and gave up.
//
// It may not know what a workload, a volume or an index is.
package s3
