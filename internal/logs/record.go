package logs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/project-flotta/flotta-agent/internal/logs/follow"
)

// recordVersion is the first byte of an entry of a spool. What follows is
//
//	flags      1 byte: 1 standard error, 2 the line goes on in the next record
//	time       varint, microseconds since 1970
//	workload   uvarint length, bytes
//	container  uvarint length, bytes; the name in the manifest
//	text       the rest
const recordVersion = 1

const (
	flagStderr = 1 << iota
	flagMore
)

// maxNameBytes is beyond every name of a workload or a container.
const maxNameBytes = 4 << 10

var errRecord = errors.New("not a line of a log spool")

// encodeRecord returns the entry of a line.
func encodeRecord(l follow.Line) []byte {
	b := make([]byte, 0, 24+len(l.Workload)+len(l.Container)+len(l.Text))
	var flags byte
	if l.Stderr {
		flags |= flagStderr
	}
	if l.More {
		flags |= flagMore
	}
	b = append(b, recordVersion, flags)
	b = binary.AppendVarint(b, l.Time.UnixMicro())
	for _, s := range []string{l.Workload, l.Container} {
		b = binary.AppendUvarint(b, uint64(len(s)))
		b = append(b, s...)
	}
	return append(b, l.Text...)
}

// decodeRecord returns the line of an entry; its text is of b.
func decodeRecord(b []byte) (follow.Line, error) {
	if len(b) < 2 {
		return follow.Line{}, errRecord
	}
	if b[0] != recordVersion {
		return follow.Line{}, fmt.Errorf("%w: version %d", errRecord, b[0])
	}
	l := follow.Line{Stderr: b[1]&flagStderr != 0, More: b[1]&flagMore != 0}
	b = b[2:]
	us, n := binary.Varint(b)
	if n <= 0 {
		return follow.Line{}, errRecord
	}
	l.Time = time.UnixMicro(us)
	b = b[n:]
	for _, s := range []*string{&l.Workload, &l.Container} {
		length, n := binary.Uvarint(b)
		if n <= 0 || length > maxNameBytes || int(length) > len(b)-n {
			return follow.Line{}, errRecord
		}
		end := n + int(length)
		*s, b = string(b[n:end]), b[end:]
	}
	l.Text = b
	return l, nil
}
