package datasync

import (
	"errors"
	"fmt"
	"sync"
	"time"
)

const (
	// maxRetryItems bounds the memory for items that fail; beyond it some are
	// tried in every cycle.
	maxRetryItems = 4096
	retryStep     = 15 * time.Second
)

// retry is what is known about one item that failed.
type retry struct {
	failures int
	changes  int // how often it changed while it was transferred
	next     time.Time
	digest   [32]byte // of content that was refused as damaged
	err      error    // of the last attempt
}

// retries spaces out the attempts at single items that fail while others work.
type retries struct {
	mu    sync.Mutex
	items map[string]retry
}

// due reports whether the item may be tried.
func (r *retries) due(path string, now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return !now.Before(r.items[path].next)
}

// failed notes one more failure. A file that changes is tried again in the next
// cycle, and so is anything after its first failure.
func (r *retries) failed(path string, now time.Time, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	item := r.entry(path)
	item.failures++
	if errors.Is(err, errChanged) {
		item.changes++
	}
	item.err = err
	if later := time.Now(); later.After(now) {
		now = later // the cycle that launched it may be long over
	}
	if !errors.Is(err, errChanged) && item.failures > 1 {
		item.next = now.Add(backoff(retryStep, item.failures-2))
	}
	r.items[path] = item
}

// entry returns what is known of an item, and makes room for it.
func (r *retries) entry(path string) retry {
	item, known := r.items[path]
	if !known && len(r.items) >= maxRetryItems {
		for other := range r.items { // whichever: it is tried again and fails
			delete(r.items, other)
			break
		}
	}
	return item
}

// lastErr returns why the item failed.
func (r *retries) lastErr(path string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return fmt.Errorf("%q: %w", path, r.items[path].err)
}

// damaged notes the digest of content that did not match, and reports whether
// the same content was refused the time before.
func (r *retries) damaged(path string, digest [32]byte) (again bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	item := r.entry(path)
	again = item.digest == digest
	item.digest = digest
	r.items[path] = item
	return again
}

// failures returns how often the item failed since it last worked.
func (r *retries) failures(path string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.items[path].failures
}

// changes returns how often the item changed while it was transferred, since it
// last worked.
func (r *retries) changes(path string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.items[path].changes
}

func (r *retries) worked(path string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.items, path)
}
