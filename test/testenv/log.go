package testenv

import (
	"bytes"
	"sync"
)

// maxLog bounds what a Log keeps.
const maxLog = 1 << 20

// Log keeps the end of what is written to it, for when a test fails. Written to
// the standard error while tests run, it would tear the lines that say which test
// failed.
type Log struct {
	mu  sync.Mutex
	buf []byte
}

// Write implements io.Writer.
func (l *Log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.buf = append(l.buf, p...)
	if over := len(l.buf) - maxLog; over > 0 {
		l.buf = bytes.Clone(l.buf[over:])
	}
	return len(p), nil
}

// Tail returns the last n lines.
func (l *Log) Tail(n int) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	lines := bytes.SplitAfter(l.buf, []byte("\n"))
	return string(bytes.Join(lines[max(0, len(lines)-n-1):], nil))
}
