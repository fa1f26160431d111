package follow

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Bounds of what is kept of an entry. Journald's own bound of a field is 768 MiB;
// conmon writes 8 KiB.
const (
	maxField = MaxLine
	maxName  = 256
)

// ErrNoExport says that bytes are not in the journal's export format. Where the
// next entry begins is not known then.
var ErrNoExport = errors.New("not in the journal's export format")

// entry is one entry of the journal; of fields that occur twice, the last.
type entry map[string][]byte

// exportReader reads the journal's export format: an entry is a number of
// fields and an empty line. A field is `NAME=value`, or, when the value has
// control characters in it, `NAME`, a line feed, its length as 64 bits in little
// endian, the value and a line feed.
type exportReader struct {
	r    *bufio.Reader
	want map[string]bool // fields that are kept
}

func newExportReader(r io.Reader, want ...string) *exportReader {
	e := &exportReader{r: bufio.NewReaderSize(r, 64<<10), want: map[string]bool{}}
	for _, name := range want {
		e.want[name] = true
	}
	return e
}

// next returns the next entry. The error is io.EOF at a regular end,
// io.ErrUnexpectedEOF inside of an entry, ErrNoExport, or of the reader.
func (e *exportReader) next() (entry, error) {
	fields := entry{}
	for n := 0; ; {
		name, value, inline, err := e.line()
		switch {
		case errors.Is(err, io.EOF) && n == 0 && len(name) == 0:
			return nil, io.EOF
		case errors.Is(err, io.EOF):
			return nil, io.ErrUnexpectedEOF
		case err != nil:
			return nil, err
		case len(name) == 0 && !inline && n == 0:
			continue // a second empty line between entries
		case len(name) == 0 && !inline:
			return fields, nil
		case len(name) == 0:
			return nil, fmt.Errorf("%w: a field without a name", ErrNoExport)
		}
		if n++; !inline {
			if value, err = e.binary(e.want[name]); err != nil {
				return nil, err
			}
		}
		if e.want[name] {
			fields[name] = value[:min(len(value), maxField)]
		}
	}
}

// line reads up to a line feed. Inline says that there was a value in it.
func (e *exportReader) line() (name string, value []byte, inline bool, err error) {
	var b []byte
	for {
		piece, err := e.r.ReadSlice('\n')
		if room := maxName + maxField - len(b); len(piece) > room && !errors.Is(err, bufio.ErrBufferFull) {
			b = append(b, piece[:room]...)
			b = append(b, '\n')
		} else if len(piece) > room {
			b = append(b, piece[:room]...)
		} else {
			b = append(b, piece...)
		}
		if err == nil {
			break
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return string(b[:min(len(b), maxName)]), nil, false, err
		}
	}
	b = bytes.TrimSuffix(b, []byte{'\n'})
	head, value, inline := bytes.Cut(b, []byte{'='})
	if len(head) > maxName {
		return "", nil, false, fmt.Errorf("%w: a field's name of more than %d bytes", ErrNoExport, maxName)
	}
	return string(head), value, inline, nil
}

// binary reads a value with its length in front of it.
func (e *exportReader) binary(keep bool) ([]byte, error) {
	var size [8]byte
	if _, err := io.ReadFull(e.r, size[:]); err != nil {
		return nil, inside(err)
	}
	length := binary.LittleEndian.Uint64(size[:])
	if length > 1<<30 { // beyond what journald takes
		return nil, fmt.Errorf("%w: a value of %d bytes", ErrNoExport, length)
	}
	var value []byte
	if keep {
		var b bytes.Buffer // grows with what is there, not with what is claimed
		if _, err := io.CopyN(&b, e.r, int64(min(length, maxField))); err != nil {
			return nil, inside(err)
		}
		value = b.Bytes()
	}
	if rest := int64(length) - int64(len(value)); rest > 0 {
		if _, err := io.CopyN(io.Discard, e.r, rest); err != nil {
			return nil, inside(err)
		}
	}
	end, err := e.r.ReadByte()
	if err != nil {
		return nil, inside(err)
	}
	if end != '\n' {
		return nil, fmt.Errorf("%w: no line feed behind a value", ErrNoExport)
	}
	return value, nil
}

// inside turns the end of the input into what it is inside of an entry.
func inside(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
