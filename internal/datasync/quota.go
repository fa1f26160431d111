package datasync

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/project-flotta/flotta-agent/internal/desired"
)

const (
	// quotaWalk is how long the size of a volume is believed. A volume is looked
	// at only when there is something to download, and a quota.
	quotaWalk = 2 * time.Minute
	// maxLinked bounds the memory for files with several names; those beyond
	// count once for each name.
	maxLinked = 1 << 16
)

// usage is what a volume holds, and what it may hold.
type usage struct {
	limit atomic.Int64 // bytes; 0: no limit

	mu      sync.Mutex
	at      time.Time // when the volume was walked; zero: not yet
	walked  int64     // bytes it held then
	since   int64     // bytes downloaded since
	claimed int64     // by downloads under way
}

// quota returns what the volume of a workload may hold; 0: there is no limit.
func (e *Engine) quota(state desired.State, workload string) int64 {
	for _, w := range state.Workloads {
		if w.Name == workload && w.QuotaBytes > 0 {
			return w.QuotaBytes
		}
	}
	return max(e.cfg.Quota, 0)
}

// noQuotaError says that a volume would hold more than it may.
type noQuotaError struct{ need, used, quota int64 }

func (e *noQuotaError) Error() string {
	return fmt.Sprintf("a download of %d bytes does not fit: the volume holds %d bytes of its quota of %d", e.need, e.used, e.quota)
}

// claim makes room for bytes within the quota, or returns a *noQuotaError. What
// is claimed has to be released, and stays counted until the volume is looked at
// again.
func (u *usage) claim(ctx context.Context, v volume, bytes int64) (release func(), err error) {
	quota := u.limit.Load()
	if quota <= 0 {
		return func() {}, nil
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if err := u.check(ctx, v, bytes, quota); err != nil {
		return nil, err
	}
	u.claimed += bytes
	return func() {
		u.mu.Lock()
		defer u.mu.Unlock()
		u.claimed -= bytes
		u.since += bytes
	}, nil
}

// fits is claim without a claim.
func (u *usage) fits(ctx context.Context, v volume, bytes int64) error {
	quota := u.limit.Load()
	if quota <= 0 {
		return nil
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.check(ctx, v, bytes, quota)
}

func (u *usage) check(ctx context.Context, v volume, bytes, quota int64) error {
	if u.at.IsZero() || time.Since(u.at) >= quotaWalk {
		// Whoever else wants to claim waits: without the size nothing is known.
		walked, err := v.usage(ctx)
		if err != nil {
			return err
		}
		u.at, u.walked, u.since = time.Now(), walked, 0
	}
	used := u.walked + u.since + u.claimed
	if bytes > 0 && used+bytes > quota {
		return &noQuotaError{need: bytes, used: used, quota: quota}
	}
	return nil
}

// usage returns the bytes on disk of all that is in the volume.
func (v volume) usage(ctx context.Context) (int64, error) {
	total, linked := int64(0), map[uint64]bool{}
	pending := []string{"."}
	for len(pending) > 0 {
		dir := pending[len(pending)-1]
		pending = pending[:len(pending)-1]
		f, err := v.openDir(dir)
		switch {
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENOTDIR), isEscape(err):
			continue // it was replaced a moment ago
		case err != nil:
			return 0, fmt.Errorf("measure volume: %w", err)
		}
		for err == nil {
			if err = ctx.Err(); err != nil {
				break
			}
			var names []string
			names, err = f.Readdirnames(walkBatch)
			for _, name := range names {
				var st unix.Stat_t
				if unix.Fstatat(int(f.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW) != nil {
					continue // gone
				}
				kind := modeKind(st.Mode)
				if kind == kindDir && len(dir) < maxKeyBytes {
					pending = append(pending, path.Join(dir, name))
				}
				if kind != kindDir && st.Nlink > 1 {
					if linked[st.Ino] {
						continue
					}
					if len(linked) < maxLinked {
						linked[st.Ino] = true
					}
				}
				total += st.Blocks * 512
			}
		}
		_ = f.Close()
		if !errors.Is(err, io.EOF) {
			return 0, fmt.Errorf("measure volume: %w", err)
		}
	}
	return total, nil
}
