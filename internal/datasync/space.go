package datasync

import (
	"cmp"
	"context"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// maxDefaultReserve bounds the default reserve on large disks.
const maxDefaultReserve = 1 << 30

// space keeps a part of the disk free of downloads. It is shared by all groups.
type space struct {
	reserve int64   // bytes, as configured
	share   float64 // of the disk, when reserve is 0; 0: the default

	checkpoint int64 // bytes; 0: checkpointBytes

	folds  func(volume) bool // whether names have several spellings; nil: it is tried
	sealed func()            // called before downloads are put into their places; nil: nobody is

	mu      sync.Mutex
	claimed int64 // by downloads under way
	seen    room
}

const (
	// roomyFor and roomyBytes say how long and with how much room to spare the
	// disk is not looked at again.
	roomyFor   = 200 * time.Millisecond
	roomyBytes = 1 << 30
)

// room is what a look at a disk showed.
type room struct {
	name         string // of the volume
	at           time.Time
	avail, total int64 // bytes
	since        int64 // bytes written since, as far as this package did
}

// stride returns how many bytes of a large download a kill may cost.
func (s *space) stride() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return cmp.Or(s.checkpoint, checkpointBytes)
}

// noSpaceError says that a download would use up the reserve.
type noSpaceError struct{ need, avail, reserve int64 }

func (e *noSpaceError) Error() string {
	return fmt.Sprintf("a download of %d bytes would leave less than %d of %d free bytes", e.need, e.reserve, e.avail)
}

// keeps returns what has to stay free of a disk.
func (s *space) keeps(total int64) int64 {
	switch {
	case s.reserve < 0:
		return 0
	case s.reserve > 0:
		return s.reserve
	case s.share > 0:
		return int64(float64(total) * s.share)
	}
	return min(total/10, maxDefaultReserve)
}

// claim reserves size bytes of the volume's disk for a download, or returns a
// *noSpaceError. What is claimed has to be released.
func (s *space) claim(v volume, size int64) (release func(), err error) {
	if !s.roomy(v, size) {
		avail, total, err := v.free()
		if err != nil {
			return nil, err
		}
		if err := s.grant(v, size, avail, total); err != nil {
			return nil, err
		}
	}
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.claimed -= size
		s.seen.since += size
	}, nil
}

// roomy claims for a small file without a look at the disk, if there was far more
// room than it needs a moment ago.
func (s *space) roomy(v volume, size int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	left := s.seen.avail - s.seen.since - s.claimed - size - s.keeps(s.seen.total)
	if s.seen.name != v.root.Name() || time.Since(s.seen.at) > roomyFor || left < roomyBytes {
		return false
	}
	s.claimed += size
	return true
}

func (s *space) grant(v volume, size, avail, total int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.check(size, avail, total); err != nil {
		return err
	}
	s.claimed += size
	s.seen = room{name: v.root.Name(), at: time.Now(), avail: avail, total: total}
	return nil
}

func (s *space) allow(size, avail, total int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.check(size, avail, total)
}

func (s *space) check(size, avail, total int64) error {
	// Bytes of a claim that are written already count twice; this errs on the
	// side of the reserve, and only until the download ends.
	if reserve := s.keeps(total); avail-s.claimed-size < reserve {
		return &noSpaceError{need: size, avail: avail - s.claimed, reserve: reserve}
	}
	return nil
}

// exhausted reports whether less is free than has to stay so.
func (s *space) exhausted(v volume) bool {
	avail, total, err := v.free()
	s.mu.Lock()
	defer s.mu.Unlock()
	return err == nil && avail < s.keeps(total)
}

// free returns how many bytes an unprivileged user can still write to the
// volume's file system, and how many it has in all.
func (v volume) free() (avail, total int64, err error) {
	f, err := v.openDir(".")
	if err != nil {
		return 0, 0, err
	}
	defer f.Close() //nolint:errcheck // read only.
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &st); err != nil {
		return 0, 0, fmt.Errorf("read free space: %w", err)
	}
	return int64(st.Bavail) * st.Bsize, int64(st.Blocks) * st.Bsize, nil //nolint:gosec // no disk has 2^63 blocks.
}

// claim makes room for size bytes of an object, on the disk and within the
// workload's quota.
func (r *ingressRun) claim(ctx context.Context, op ingressOp, size int64) (release func(), err error) {
	within, err := r.inflow.quota.claim(ctx, r.volume, size-op.frees())
	if err != nil {
		return nil, err
	}
	onDisk, err := r.engine.space.claim(r.volume, size)
	if err != nil {
		within()
		return nil, err
	}
	return func() {
		onDisk()
		within()
	}, nil
}

// fits returns why there is no room for a whole object now.
func (r *ingressRun) fits(ctx context.Context, op ingressOp) error {
	if err := r.inflow.quota.fits(ctx, r.volume, op.Object.Size-op.frees()); err != nil {
		return err
	}
	avail, total, err := r.volume.free()
	if err != nil {
		return err
	}
	return r.engine.space.allow(op.Object.Size, avail, total)
}

// frees returns the bytes of a file that will be replaced, and not kept.
func (o ingressOp) frees() int64 {
	if o.Known != nil && o.Local.fingerprint == o.Known.fingerprint {
		return o.Local.Size
	}
	return 0
}
