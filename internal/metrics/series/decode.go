package series

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"github.com/golang/snappy"
)

// ErrMalformed says that bytes are not an entry, or one of a newer version.
var ErrMalformed = errors.New("malformed entry of samples")

// Decode returns the samples of an entry, in the order they were given to
// Append. It takes only what Append makes: labels are sorted, without duplicates
// and not empty. The error is ErrMalformed. The samples share no memory with
// entry.
func Decode(entry []byte) ([]Sample, error) {
	samples, err := decode(entry)
	if err != nil {
		return nil, fmt.Errorf("decode samples: %w: %w", ErrMalformed, err)
	}
	return samples, nil
}

func decode(entry []byte) ([]Sample, error) {
	if len(entry) == 0 {
		return nil, errors.New("no version")
	}
	if entry[0] != version {
		return nil, fmt.Errorf("version %d", entry[0])
	}
	n, err := snappy.DecodedLen(entry[1:])
	if err != nil {
		return nil, err
	}
	if n > maxRaw {
		return nil, fmt.Errorf("%d bytes", n)
	}
	raw, err := snappy.Decode(nil, entry[1:])
	if err != nil {
		return nil, err
	}
	d := decoder{rest: raw}
	samples := d.samples()
	if d.err == nil && len(d.rest) > 0 {
		d.fail("bytes behind the end")
	}
	if d.err != nil {
		return nil, d.err
	}
	return samples, nil
}

// decoder takes apart the block. After its first error it returns zeros.
type decoder struct {
	rest    []byte
	strings []string
	cells   []Label // of all samples, in one piece
	err     error
}

func (d *decoder) fail(what string) {
	if d.err == nil {
		d.err = errors.New(what)
	}
	d.rest = nil
}

func (d *decoder) number() uint64 {
	v, n := binary.Uvarint(d.rest)
	if n <= 0 {
		d.fail("cut, or a number too large")
		return 0
	}
	d.rest = d.rest[n:]
	return v
}

// count reads how many things follow, each of size bytes at least.
func (d *decoder) count(size, limit int) int {
	n := d.number()
	if n > uint64(limit) || n > uint64(len(d.rest)/size) { //nolint:gosec // both are positive
		d.fail("more than there can be")
		return 0
	}
	return int(n) //nolint:gosec // below limit
}

func (d *decoder) samples() []Sample {
	// One text holds all strings, so they cost one allocation.
	d.strings = make([]string, d.count(1, maxStrings))
	text, whole := string(d.rest), len(d.rest)
	for i := range d.strings {
		n := d.count(1, maxRaw)
		at := whole - len(d.rest)
		if d.err != nil {
			return nil
		}
		d.strings[i], d.rest = text[at:at+n], d.rest[n:]
	}
	shared := make([]Label, d.count(2, maxLabels))
	for i := range shared {
		shared[i] = d.label()
	}
	samples := make([]Sample, d.count(3, MaxSamples))
	var last int64
	for i := range samples {
		zigzag := d.number()
		last += int64(zigzag>>1) ^ -int64(zigzag&1)
		samples[i] = Sample{Millis: last, Value: d.value()}
		samples[i].Labels = d.labels(shared)
		if d.err != nil {
			return nil
		}
	}
	return samples
}

func (d *decoder) label() Label {
	name, value := d.number(), d.number()
	if n := uint64(len(d.strings)); name >= n || value >= n {
		d.fail("no such string")
		return Label{}
	}
	return Label{Name: d.strings[name], Value: d.strings[value]}
}

// labels returns the labels of the next sample: its own merged with the shared.
func (d *decoder) labels(shared []Label) []Label {
	own := d.count(2, maxLabels-min(maxLabels, len(shared)))
	start := len(d.cells)
	if start+own+len(shared) > maxCells {
		d.fail("too many labels")
		return nil
	}
	for range own {
		l := d.label()
		for len(shared) > 0 && shared[0].Name < l.Name {
			d.cells, shared = append(d.cells, shared[0]), shared[1:]
		}
		d.cells = append(d.cells, l)
	}
	d.cells = append(d.cells, shared...)
	labels := d.cells[start:len(d.cells):len(d.cells)]
	for i, l := range labels {
		if l.Name == "" || l.Value == "" || i > 0 && labels[i-1].Name >= l.Name {
			d.fail("labels that are empty, not sorted, or there twice")
		}
	}
	return labels
}

func (d *decoder) value() float64 {
	tag := d.number()
	if tag&1 == 0 {
		tag >>= 1
		return float64(int64(tag>>1) ^ -int64(tag&1))
	}
	if tag != 1 || len(d.rest) < 8 {
		d.fail("cut, or an unknown kind of value")
		return 0
	}
	v := math.Float64frombits(binary.LittleEndian.Uint64(d.rest))
	d.rest = d.rest[8:]
	return v
}
