package playbook

import (
	"bytes"
	"fmt"
	"os"
	"sync"

	"github.com/project-flotta/flotta-agent/internal/durable"
)

// How much of what a playbook prints is kept: its beginning, its end, and as
// much of the end in memory as it takes to say how it ended.
const (
	keepHead = 256 << 10
	keepTail = 768 << 10
	keepEnd  = 8 << 10
)

// output keeps the beginning and the end of what is written to it in a file that
// does not grow beyond that. It never fails the writer: a full disk must not be
// what makes a playbook fail.
type output struct {
	path string

	mu    sync.Mutex
	file  *os.File
	total int64
	end   []byte
	err   error // the first one
}

func newOutput(path string) (*output, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("keep output: %w", err)
	}
	return &output{path: path, file: f}, nil
}

// Write implements io.Writer.
func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.end = append(o.end, p[max(0, len(p)-keepEnd):]...)
	o.end = append(o.end[:0], o.end[max(0, len(o.end)-keepEnd):]...)
	for rest := p; len(rest) > 0; {
		at, room := o.place()
		n := min(int64(len(rest)), room)
		if o.err == nil {
			_, o.err = o.file.WriteAt(rest[:n], at)
		}
		o.total += n
		rest = rest[n:]
	}
	return len(p), nil
}

// place returns where in the file the next byte goes, and how many fit there.
func (o *output) place() (at, room int64) {
	if o.total < keepHead {
		return o.total, keepHead - o.total
	}
	ring := (o.total - keepHead) % keepTail
	return keepHead + ring, keepTail - ring
}

// reset forgets what was written so far.
func (o *output) reset() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.total, o.end, o.err = 0, nil, o.file.Truncate(0)
}

// tail returns the end of what was written so far.
func (o *output) tail() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return string(o.end)
}

// close puts the file in order, with a line where something is left out.
func (o *output) close() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.total > keepHead+keepTail && o.err == nil {
		o.err = o.straighten()
	}
	if err := o.file.Close(); o.err == nil {
		o.err = err
	}
	if o.err != nil {
		return fmt.Errorf("keep output: %w", o.err)
	}
	return nil
}

func (o *output) straighten() error {
	all := make([]byte, keepHead+keepTail)
	if _, err := o.file.ReadAt(all, 0); err != nil {
		return err
	}
	at, _ := o.place()
	head, older, newer := all[:keepHead], all[at:], all[keepHead:at]
	mark := fmt.Appendf(nil, "\n[%d bytes are left out here]\n", o.total-keepHead-keepTail)
	return durable.WriteFile(o.path, bytes.Join([][]byte{head, mark, older, newer}, nil), 0o600)
}
