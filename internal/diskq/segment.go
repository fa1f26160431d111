package diskq

import (
	"cmp"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"
)

const (
	segmentName = "%016x-%08x.q1"
	// asideExt ends the name of a damaged segment that is kept for a look, after
	// what could be read of it was delivered.
	asideExt  = ".damaged"
	keepAside = 2
)

// segment is one file of frames. The first sequence number and the salt are in
// its name, which a damaged disk rarely hits.
type segment struct {
	path    string
	first   uint64
	salt    uint32
	size    int64
	last    time.Time // not before the time of its newest entry
	damaged bool
}

func parseSegmentName(name string) (first uint64, salt uint32, ok bool) {
	if n, err := fmt.Sscanf(name, segmentName, &first, &salt); n != 2 || err != nil {
		return 0, 0, false
	}
	// Numbers that no device reaches are not ours, and would overflow.
	return first, salt, fmt.Sprintf(segmentName, first, salt) == name && first > 0 && first < 1<<62
}

// createSegment makes an empty segment that begins with first, durably.
func createSegment(dir string, first uint64) (*segment, *os.File, error) {
	var b [4]byte
	_, _ = rand.Read(b[:]) // never fails
	salt := binary.LittleEndian.Uint32(b[:])
	path := filepath.Join(dir, fmt.Sprintf(segmentName, first, salt))
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, nil, err
	}
	if err := syncDir(dir); err != nil {
		return nil, nil, errors.Join(err, f.Close(), os.Remove(path))
	}
	return &segment{path: path, first: first, salt: salt}, f, nil
}

// listSegments returns the segments of dir, the oldest first.
func listSegments(dir string) ([]*segment, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var segs []*segment
	for _, e := range entries {
		first, salt, ok := parseSegmentName(e.Name())
		if !ok || !e.Type().IsRegular() {
			continue
		}
		info, err := e.Info()
		if err != nil {
			return nil, err
		}
		segs = append(segs, &segment{
			path: filepath.Join(dir, e.Name()), first: first, salt: salt, size: info.Size(), last: info.ModTime(),
		})
	}
	slices.SortFunc(segs, func(a, b *segment) int {
		return cmp.Or(cmp.Compare(a.first, b.first), cmp.Compare(a.salt, b.salt))
	})
	return segs, nil
}

// discard removes the file, or keeps it under another name when it is damaged.
func (s *segment) discard() error {
	if !s.damaged {
		if err := os.Remove(s.path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		return nil
	}
	if err := os.Rename(s.path, s.path+asideExt); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	old, err := filepath.Glob(filepath.Join(filepath.Dir(s.path), "*"+asideExt))
	if err != nil {
		return err
	}
	slices.Sort(old)
	for len(old) > keepAside {
		if err := os.Remove(old[0]); err != nil {
			return err
		}
		old = old[1:]
	}
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
