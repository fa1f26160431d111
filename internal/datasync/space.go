package datasync

import (
	"fmt"
	"sync"
)

// maxDefaultReserve bounds the default reserve on large disks.
const maxDefaultReserve = 1 << 30

// space keeps a part of the disk free of downloads. It is shared by all groups.
type space struct {
	reserve int64 // as configured

	mu      sync.Mutex
	claimed int64 // by downloads under way
}

// noSpaceError says that a download would use up the reserve.
type noSpaceError struct{ need, avail, reserve int64 }

func (e *noSpaceError) Error() string {
	return fmt.Sprintf("a download of %d bytes would leave less than %d of %d free bytes", e.need, e.reserve, e.avail)
}

// claim reserves size bytes of the volume's disk for a download, or returns a
// *noSpaceError. What is claimed has to be released.
func (s *space) claim(v volume, size int64) (release func(), err error) {
	avail, total, err := v.free()
	if err != nil {
		return nil, err
	}
	reserve := max(s.reserve, 0)
	if s.reserve == 0 {
		reserve = min(total/10, maxDefaultReserve)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	// Bytes of a claim that are written already count twice; this errs on the
	// side of the reserve, and only until the download ends.
	if avail-s.claimed-size < reserve && s.reserve >= 0 {
		return nil, &noSpaceError{need: size, avail: avail - s.claimed, reserve: reserve}
	}
	s.claimed += size
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.claimed -= size
	}, nil
}
