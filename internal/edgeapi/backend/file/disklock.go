package file

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/project-flotta/flotta-agent/internal/durable"
)

// diskLock lets one goroutine of one process change state files at a time.
type diskLock struct {
	path string
	mu   sync.Mutex
}

// diskLockRetry is how often a lock held by another process is tried again. It
// is held for the time of one or two fsyncs.
const diskLockRetry = 2 * time.Millisecond

// acquire waits for the lock, at most until ctx ends.
func (l *diskLock) acquire(ctx context.Context) (release func(), err error) {
	l.mu.Lock()
	for {
		held, err := durable.Lock(l.path)
		if err == nil {
			return func() {
				_ = held.Close() // the lock ends with the descriptor in any case
				l.mu.Unlock()
			}, nil
		}
		if other := new(durable.LockedError); !errors.As(err, &other) {
			l.mu.Unlock()
			return nil, fmt.Errorf("lock state: %w", err)
		}
		select {
		case <-ctx.Done():
			l.mu.Unlock()
			return nil, fmt.Errorf("lock state: %w", ctx.Err())
		case <-time.After(diskLockRetry):
		}
	}
}
