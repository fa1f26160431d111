package follow

import (
	"bytes"
	"errors"
	"time"
)

// record is one record of a file of the driver k8s-file.
type record struct {
	time    time.Time
	stderr  bool
	partial bool
	text    []byte // of the bytes that were parsed
}

var errNoRecord = errors.New("no record of a k8s-file log")

// parseRecord parses `TIME STREAM F TEXT` or `TIME STREAM P TEXT`, without the
// line feed behind it. TIME is RFC 3339 with nanoseconds, STREAM is stdout or
// stderr, and P says that the next record of the stream continues the line.
func parseRecord(b []byte) (record, error) {
	at, rest, ok := bytes.Cut(b, []byte{' '})
	if !ok {
		return record{}, errNoRecord
	}
	name, rest, ok := bytes.Cut(rest, []byte{' '})
	if !ok {
		return record{}, errNoRecord
	}
	var r record
	switch string(name) {
	case "stdout":
	case "stderr":
		r.stderr = true
	default:
		return record{}, errNoRecord
	}
	// An empty line may come without the space behind its tag.
	tag, text, _ := bytes.Cut(rest, []byte{' '})
	switch string(tag) {
	case "F":
	case "P":
		r.partial = true
	default:
		return record{}, errNoRecord
	}
	var err error
	if r.time, err = time.Parse(time.RFC3339Nano, string(at)); err != nil {
		return record{}, errNoRecord
	}
	r.text = text
	return r, nil
}
