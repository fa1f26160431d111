package follow

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"time"
)

// child is one journalctl that writes the export format.
type child struct {
	cmd    *exec.Cmd
	ctx    context.Context
	cancel context.CancelFunc
	export *exportReader
	stderr tailBuffer
	wait   sync.WaitGroup // of those that read

	once  sync.Once
	ended error // valid after failure or stop
	err   error // of reading
}

// stopDelay is how long a journalctl that was killed may keep its pipes open.
const stopDelay = 5 * time.Second

func (j *Journal) start(ctx context.Context, args ...string) (*child, error) {
	ctx, cancel := context.WithCancel(ctx)
	c := &child{ctx: ctx, cancel: cancel}
	c.cmd = j.cfg.Command(ctx, append([]string{
		"--quiet", "--no-pager", "--output=export",
		"--output-fields=MESSAGE,PRIORITY,CONTAINER_ID_FULL,CONTAINER_NAME,CONTAINER_PARTIAL_MESSAGE,_SOURCE_REALTIME_TIMESTAMP",
	}, uidFirst(j.cfg.UID, args)...)...)
	c.cmd.WaitDelay = stopDelay
	c.cmd.Stderr = &c.stderr
	out, err := c.cmd.StdoutPipe()
	if err == nil {
		err = c.cmd.Start()
	}
	if err != nil {
		cancel()
		return nil, fmt.Errorf("run journalctl: %w", err)
	}
	c.export = newExportReader(out, "__CURSOR", "__REALTIME_TIMESTAMP", "MESSAGE", "PRIORITY", "CONTAINER_ID_FULL",
		"CONTAINER_NAME", "CONTAINER_PARTIAL_MESSAGE", "_SOURCE_REALTIME_TIMESTAMP")
	return c, nil
}

// uidFirst adds the match on the user to the others; without any there is none
// on the user either, because then a place is looked for.
func uidFirst(uid int, args []string) []string {
	for _, a := range args {
		if !strings.HasPrefix(a, "-") {
			return append([]string{"_UID=" + strconv.Itoa(uid)}, args...)
		}
	}
	return args
}

// read sends entries until there are no more, and closes the channel.
func (c *child) read(entries chan<- entry) {
	defer close(entries)
	for {
		e, err := c.export.next()
		if err != nil {
			c.err = err
			return
		}
		select {
		case entries <- e:
		case <-c.ctx.Done():
			c.err = c.ctx.Err()
			return
		}
	}
}

// failure says why there is no more to read, once reading has ended. It is
// io.EOF when journalctl just came to its end.
func (c *child) failure() error {
	if !errors.Is(c.err, io.EOF) {
		c.cancel() // it may write on, and nobody reads
	}
	c.end()
	switch said := c.stderr.String(); {
	case said != "":
		return fmt.Errorf("run journalctl: %s", said)
	case c.err != nil && !errors.Is(c.err, io.EOF):
		return fmt.Errorf("read journal: %w", c.err)
	case c.ended != nil:
		return fmt.Errorf("run journalctl: %w", c.ended)
	}
	return fmt.Errorf("run journalctl: it ended: %w", io.EOF)
}

func (c *child) end() {
	c.once.Do(func() { c.ended = c.cmd.Wait() })
}

// stop ends journalctl and those that read from it.
func (c *child) stop() {
	c.cancel()
	c.end()
	c.wait.Wait()
}

// tailBuffer keeps the beginning of what is written into it.
type tailBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

const maxStderr = 500

func (t *tailBuffer) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if room := maxStderr - t.b.Len(); room > 0 {
		t.b.Write(p[:min(room, len(p))])
	}
	return len(p), nil
}

func (t *tailBuffer) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.TrimSpace(strings.ToValidUTF8(t.b.String(), "?"))
}
