package diskq

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"io"
	"time"
)

const (
	headerSize = 32
	// windowSize is how much is read at once; a frame that is larger is read
	// whole.
	windowSize = 64 << 10
)

var (
	marker     = []byte{0xf1, 0x0a, 0x77, 0xa5} //nolint:gochecknoglobals // a constant
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
)

// frame is one entry with where it lies: in [off, end) of its segment.
type frame struct {
	Entry

	off, end int64
}

// appendFrame appends the bytes of an entry to b. Both checksums start from the
// segment's salt, so that whoever chooses payloads cannot forge a frame.
func appendFrame(b []byte, salt uint32, seq uint64, at time.Time, payload []byte) []byte {
	start := len(b)
	b = append(b, marker...)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(payload))) //nolint:gosec // bounded by Append
	b = binary.LittleEndian.AppendUint64(b, seq)
	b = binary.LittleEndian.AppendUint64(b, uint64(at.UnixNano()))
	b = binary.LittleEndian.AppendUint32(b, sum(salt, b[start+4:start+24]))
	b = binary.LittleEndian.AppendUint32(b, sum(salt, payload))
	return append(b, payload...)
}

func sum(salt uint32, data []byte) uint32 { return crc32.Update(salt, castagnoli, data) }

// scanner finds frames in the first size bytes of a segment whose sequence
// numbers are in [first, limit).
type scanner struct {
	r            io.ReaderAt
	size         int64
	salt         uint32
	first, limit uint64

	window []byte
	base   int64
	err    error // the disk's
}

// at returns n bytes at off, or nil when there are not so many. They are valid
// until the next call.
func (s *scanner) at(off, n int64) []byte {
	if off < 0 || n < 0 || off+n > s.size {
		return nil
	}
	if off < s.base || off+n > s.base+int64(len(s.window)) {
		want := min(max(n, windowSize), s.size-off)
		if int64(cap(s.window)) < want {
			s.window = make([]byte, want)
		}
		s.window, s.base = s.window[:want], off
		got, err := s.r.ReadAt(s.window, off)
		if int64(got) < want { // shorter than it was, or unreadable
			s.window = s.window[:got]
			if err != io.EOF {
				s.err = err
			}
		}
		if int64(len(s.window)) < n {
			return nil
		}
	}
	return s.window[off-s.base : off-s.base+n]
}

// header decodes the header at off; end is where the frame would end.
func (s *scanner) header(off int64) (f frame, payloadSum uint32, ok bool) {
	return s.parse(s.at(off, headerSize), off)
}

// parse is header with its bytes in hand; nil is no header.
func (s *scanner) parse(h []byte, off int64) (f frame, payloadSum uint32, ok bool) {
	if h == nil || !bytes.Equal(h[:4], marker) || sum(s.salt, h[4:24]) != binary.LittleEndian.Uint32(h[24:]) {
		return frame{}, 0, false
	}
	f.off = off
	f.end = off + headerSize + int64(binary.LittleEndian.Uint32(h[4:]))
	f.Seq = binary.LittleEndian.Uint64(h[8:])
	f.Time = time.Unix(0, int64(binary.LittleEndian.Uint64(h[16:]))) //nolint:gosec // two's complement
	ok = f.end <= s.size && f.Seq >= s.first && f.Seq < s.limit
	return f, binary.LittleEndian.Uint32(h[28:]), ok
}

// next returns the first intact frame at or after off. damaged says that bytes
// were skipped before it, or before the end when there is none.
func (s *scanner) next(off int64) (f frame, damaged, ok bool) {
	for off < s.size && s.err == nil {
		f, want, ok := s.header(off)
		if !ok {
			damaged = true
			off = s.resync(off + 1)
			continue
		}
		payload := s.at(f.off+headerSize, f.end-f.off-headerSize)
		if payload == nil || sum(s.salt, payload) != want {
			damaged = true
			off = f.end // the header is intact: the next frame begins there
			continue
		}
		f.Data = bytes.Clone(payload)
		return f, damaged, true
	}
	return frame{}, damaged || s.err != nil, false
}

// resync returns where the next intact header begins, or the size. Payloads full
// of markers cost it no more than others: each byte is read once.
func (s *scanner) resync(off int64) int64 {
	for off+headerSize <= s.size && s.err == nil {
		window := s.at(off, min(windowSize, s.size-off))
		i := 0
		for len(window)-i >= headerSize {
			j := bytes.Index(window[i:], marker)
			if j < 0 {
				// The first bytes of a marker may be the last ones here.
				i = max(i, len(window)-headerSize+1)
				break
			}
			if i += j; len(window)-i < headerSize {
				break // go on with a window that begins here
			}
			if _, _, ok := s.parse(window[i:i+headerSize], off+int64(i)); ok {
				return off + int64(i)
			}
			i++
		}
		if i == 0 { // nothing was readable
			return s.size
		}
		off += int64(i)
	}
	return s.size
}
