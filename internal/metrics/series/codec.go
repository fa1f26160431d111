package series

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/golang/snappy"
)

// An entry is one byte of version, 1, and a block of Snappy with
//
//	strings   number, then length and bytes of each
//	shared    number of labels that every sample has, then name and value of
//	          each, both as the number of a string; sorted by name
//	samples   number, then of each: milliseconds since the sample before (since
//	          1970 for the first), the value, the number of its own labels, and
//	          those as above
//
// Numbers are varints, signed ones in zigzag. A value that is an integer below
// 2^53 is that integer in zigzag, shifted left by one bit; any other is a 1 and
// its 64 bits, little endian, so every NaN and both zeros come back as they were.
const version = 1

// Limits of an entry, for whoever writes and for whoever reads. They bound what
// decoding can cost to about 50 MiB, whatever the bytes say.
const (
	MaxSamples = 1 << 16
	maxLabels  = 256     // of one sample
	maxCells   = 1 << 19 // labels of all samples together
	maxStrings = 1 << 18
	maxRaw     = 4 << 20 // bytes before compression
)

// ErrTooLarge says that samples do not fit into one entry.
var ErrTooLarge = errors.New("samples do not fit into one entry")

// Append encodes samples as one entry behind dst. It is ErrTooLarge when they
// exceed MaxSamples, 256 labels each or eight on average, or 4 MiB; dst is
// returned as it was then.
func Append(dst []byte, samples []Sample) ([]byte, error) {
	if len(samples) > MaxSamples {
		return dst, fmt.Errorf("encode %d samples: %w", len(samples), ErrTooLarge)
	}
	cells := 0
	for _, s := range samples {
		cells += len(s.Labels)
		if len(s.Labels) > maxLabels || cells > maxCells {
			return dst, fmt.Errorf("encode %d labels of a sample, %d together: %w", len(s.Labels), cells, ErrTooLarge)
		}
	}
	raw, texts := encode(samples)
	if len(raw) > maxRaw || texts > maxStrings {
		return dst, fmt.Errorf("encode %d bytes, %d names and values: %w", len(raw), texts, ErrTooLarge)
	}
	start := len(dst) + 1
	dst = slices.Grow(append(dst, version), snappy.MaxEncodedLen(len(raw)))
	packed := snappy.Encode(dst[start:cap(dst)], raw)
	return dst[:start+len(packed)], nil
}

// encode returns the block before compression and how many strings are in it.
func encode(samples []Sample) (raw []byte, texts int) {
	t := table{index: map[string]uint64{}}
	shared := sharedLabels(samples)
	var body []byte
	body = binary.AppendUvarint(body, uint64(len(shared)))
	for _, l := range shared {
		body = t.append(body, l)
	}
	body = binary.AppendUvarint(body, uint64(len(samples)))
	var last int64
	for _, s := range samples {
		body = binary.AppendVarint(body, s.Millis-last) // wraps around, and back again
		last = s.Millis
		body = appendValue(body, s.Value)
		body = binary.AppendUvarint(body, uint64(len(s.Labels)-len(shared))) //nolint:gosec // shared is a subset
		rest := shared
		for _, l := range s.Labels {
			if len(rest) > 0 && l == rest[0] {
				rest = rest[1:]
				continue
			}
			body = t.append(body, l)
		}
	}
	raw = binary.AppendUvarint(nil, uint64(len(t.strings)))
	for _, s := range t.strings {
		raw = binary.AppendUvarint(raw, uint64(len(s)))
		raw = append(raw, s...)
	}
	return append(raw, body...), len(t.strings)
}

// table gives strings numbers, in the order in which they come.
type table struct {
	index   map[string]uint64
	strings []string
}

func (t *table) append(b []byte, l Label) []byte {
	return binary.AppendUvarint(binary.AppendUvarint(b, t.number(l.Name)), t.number(l.Value))
}

func (t *table) number(s string) uint64 {
	n, known := t.index[s]
	if !known {
		n = uint64(len(t.strings))
		t.index[s] = n
		t.strings = append(t.strings, s)
	}
	return n
}

// sharedLabels returns the labels that all samples have.
func sharedLabels(samples []Sample) []Label {
	if len(samples) == 0 {
		return nil
	}
	shared := slices.Clone(samples[0].Labels)
	for _, s := range samples[1:] {
		rest := s.Labels
		shared = slices.DeleteFunc(shared, func(l Label) bool {
			for len(rest) > 0 && rest[0].Name < l.Name {
				rest = rest[1:]
			}
			return len(rest) == 0 || rest[0] != l
		})
	}
	return shared
}

const maxInteger = 1 << 53

func appendValue(b []byte, v float64) []byte {
	if n := int64(v); v > -maxInteger && v < maxInteger && math.Float64bits(float64(n)) == math.Float64bits(v) {
		zigzag := uint64(n<<1) ^ uint64(n>>63) //nolint:gosec // bits
		return binary.AppendUvarint(b, zigzag<<1)
	}
	return binary.LittleEndian.AppendUint64(append(b, 1), math.Float64bits(v))
}
