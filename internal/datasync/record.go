package datasync

import (
	"encoding/binary"
	"hash/crc32"
)

// fingerprint is what the file system says about a file's content without
// reading it. Any difference means that the content may differ; ctime cannot be
// set back by a workload, so equality means that it does not.
type fingerprint struct {
	Size  int64
	MTime int64 // nanoseconds since 1970
	CTime int64 // nanoseconds since 1970
	Inode uint64
}

// record is one transferred file.
type record struct {
	fingerprint

	SHA256 [32]byte
	ETag   string // of the object
	When   int64  // of the transfer, Unix seconds
}

// doubted is the ETag of a record whose file is about to be replaced: no object
// has it, so that a kill in between leads to a comparison.
const doubted = "?"

// hint is what a listing said about an object.
type hint struct {
	Size int64
	ETag string
}

const (
	formatRecord = 1
	formatHint   = 2
	maxETagBytes = 1024 // far beyond any real one; bounds what damage can claim
)

func (r record) encode() []byte {
	b := make([]byte, 0, 128)
	b = append(b, formatRecord)
	b = binary.AppendVarint(b, r.Size)
	b = binary.AppendVarint(b, r.MTime)
	b = binary.AppendVarint(b, r.CTime)
	b = binary.AppendUvarint(b, r.Inode)
	b = append(b, r.SHA256[:]...)
	b = appendText(b, r.ETag)
	b = binary.AppendVarint(b, r.When)
	return binary.LittleEndian.AppendUint32(b, crc32.ChecksumIEEE(b))
}

// decodeRecord returns false for what is no record; nil is none.
func decodeRecord(b []byte) (record, bool) {
	d := newDecoder(b, formatRecord)
	var r record
	r.Size = d.varint()
	r.MTime = d.varint()
	r.CTime = d.varint()
	r.Inode = d.uvarint()
	copy(r.SHA256[:], d.bytes(len(r.SHA256)))
	r.ETag = d.text()
	r.When = d.varint()
	return r, d.done()
}

// has reports whether a file is recorded as it is now. It allocates nothing but
// for key, which is reused.
func (v indexView) has(key *[]byte, e entry) bool {
	if v.files == nil {
		return false
	}
	*key = append((*key)[:0], e.Path...)
	var d decoder
	d.begin(v.files.Get(*key), formatRecord)
	f := fingerprint{Size: d.varint(), MTime: d.varint(), CTime: d.varint(), Inode: d.uvarint()}
	return !d.bad && f == e.fingerprint
}

func (h hint) encode() []byte {
	b := []byte{formatHint}
	b = binary.AppendVarint(b, h.Size)
	b = appendText(b, h.ETag)
	return binary.LittleEndian.AppendUint32(b, crc32.ChecksumIEEE(b))
}

func decodeHint(b []byte) (hint, bool) {
	d := newDecoder(b, formatHint)
	h := hint{Size: d.varint(), ETag: d.text()}
	return h, d.done()
}

// appendText cuts what is too long: the text then equals nothing in the store,
// which costs a comparison of contents and is never wrong.
func appendText(b []byte, s string) []byte {
	s = s[:min(len(s), maxETagBytes)]
	b = binary.AppendUvarint(b, uint64(len(s)))
	return append(b, s...)
}

// decoder reads fields until one is missing; from then on all are zero.
type decoder struct {
	rest []byte
	bad  bool
}

func newDecoder(b []byte, format byte) *decoder {
	d := &decoder{}
	d.begin(b, format)
	return d
}

func (d *decoder) begin(b []byte, format byte) {
	const frame = 1 + 4
	d.rest, d.bad = nil, true
	if len(b) < frame || b[0] != format {
		return
	}
	body, sum := b[:len(b)-4], b[len(b)-4:]
	if crc32.ChecksumIEEE(body) == binary.LittleEndian.Uint32(sum) {
		d.rest, d.bad = body[1:], false
	}
}

func (d *decoder) varint() int64 {
	v, n := binary.Varint(d.rest)
	return v * d.advance(n)
}

func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.rest)
	if d.advance(n) == 0 {
		return 0
	}
	return v
}

// advance skips n bytes and returns 1, or notes that there is no field and
// returns 0.
func (d *decoder) advance(n int) int64 {
	if d.bad || n <= 0 {
		d.bad = true
		return 0
	}
	d.rest = d.rest[n:]
	return 1
}

func (d *decoder) bytes(n int) []byte {
	if d.bad || n < 0 || n > len(d.rest) {
		d.bad = true
		return nil
	}
	b := d.rest[:n]
	d.rest = d.rest[n:]
	return b
}

func (d *decoder) text() string {
	n := d.uvarint()
	if n > maxETagBytes {
		d.bad = true
		return ""
	}
	return string(d.bytes(int(n)))
}

func (d *decoder) done() bool { return !d.bad && len(d.rest) == 0 }
