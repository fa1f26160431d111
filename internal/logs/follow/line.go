package follow

import (
	"context"
	"errors"
	"time"
)

// MaxLine is the length, in bytes, from which on a line comes in pieces.
const MaxLine = 64 << 10

// Line is a line that a container wrote, without its end.
type Line struct {
	ID        string // Podman's, of the container; 64 hex digits
	Name      string // Podman's
	Workload  string
	Container string // the name in the manifest
	Time      time.Time
	Stderr    bool
	Text      []byte // any bytes; the receiver's
	More      bool   // the line goes on in the next one of its container and stream
}

// Mark is a place in one source, behind everything that was handed on. One of
// the fields is set.
type Mark struct {
	Journal *JournalMark
	File    *FileMark
}

// ErrRefused says that a line cannot be taken now: it is read again.
var ErrRefused = errors.New("nobody takes the line now")

// Sink takes lines. Take may be called from any goroutine, one at a time for
// each source, and may block: reading waits then, and Podman and the journal keep
// what comes meanwhile. Its error is that of ctx, or ErrRefused: then it comes
// again, for which it is looked at what is wanted first.
type Sink interface {
	Take(ctx context.Context, line Line, mark Mark) error
	// Skipped says that lines may be missing that cannot be read any more, or
	// are no lines.
	Skipped(reason string)
}

// stream is one of the two that a container writes.
type stream struct {
	id     string
	stderr bool
}

// joiner puts the pieces together in which conmon writes a line that is longer
// than its buffer. P is where a source stands before the piece.
type joiner[P any] struct {
	waits map[stream]*piece[P]
}

type piece[P any] struct {
	line   Line
	before P         // where the source stands in front of the line
	came   time.Time // the first piece, by the reader's clock
}

// patience is how long the rest of a line may take. A process that ends in the
// middle of a line never writes it.
const patience = 2 * time.Second

func newJoiner[P any]() *joiner[P] {
	return &joiner[P]{waits: map[stream]*piece[P]{}}
}

// add takes a piece, and returns the line when it is whole or too long to be
// kept, or else nil. Partial says that more follows. Before is the place in front
// of it.
func (j *joiner[P]) add(l Line, partial bool, before P, now time.Time) *piece[P] {
	key := stream{l.ID, l.Stderr}
	waiting := j.waits[key]
	if waiting == nil {
		waiting = &piece[P]{line: l, before: before, came: now}
		if partial && len(l.Text) < MaxLine {
			waiting.line.Text = append(make([]byte, 0, 2*len(l.Text)), l.Text...)
			j.waits[key] = waiting
			return nil
		}
		waiting.line.More = partial
		return waiting
	}
	waiting.line.Text = append(waiting.line.Text, l.Text...)
	if partial && len(waiting.line.Text) < MaxLine {
		return nil
	}
	delete(j.waits, key)
	waiting.line.More = partial
	return waiting
}

// overdue returns the oldest line that waited too long for its rest, and nil when
// there is none.
func (j *joiner[P]) overdue(now time.Time, patience time.Duration) *piece[P] {
	var oldest *piece[P]
	var of stream
	for key, p := range j.waits {
		if now.Sub(p.came) >= patience && (oldest == nil || p.came.Before(oldest.came)) {
			oldest, of = p, key
		}
	}
	if oldest != nil {
		delete(j.waits, of)
	}
	return oldest
}

// held returns the place in front of the first piece that waits, by less.
func (j *joiner[P]) held(less func(a, b P) bool) (P, bool) {
	var first *piece[P]
	for _, p := range j.waits {
		if first == nil || less(p.before, first.before) {
			first = p
		}
	}
	if first == nil {
		var none P
		return none, false
	}
	return first.before, true
}
