// Package s3 speaks to one bucket of an S3-compatible store. It owns the
// connection (TLS with the bucket's own CA, time-outs, stall detection), the
// signing, the checksums and the multipart uploads, and it turns every failure
// into one *Error that callers branch on with errors.Is.
//
// Invariants: nothing but a proxy is read from the environment, and nothing from
// shared AWS files; a body is never buffered whole, so memory does not depend on object sizes;
// nothing is ever deleted in the store, except the parts of an upload that
// was given up, by this process or at the caller's word (Abort).
//
// It may not know what a workload, a volume or an index is.
package s3
