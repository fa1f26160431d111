// Package durable owns the ways of writing to disk that survive a crash at any
// instruction: replacing a file atomically, checksummed and versioned documents,
// setting a damaged file aside, and locking a folder against a second process.
//
// Invariants: a path written by WriteFile holds either all of its old or all of
// its new content, never a mixture and never nothing. A document is either
// returned as it was saved or refused with a typed error; it is never returned
// in part. All functions may be called from any goroutine.
//
// It is a leaf: it does not know what it stores.
package durable
