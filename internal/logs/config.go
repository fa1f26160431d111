package logs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/project-flotta/flotta-agent/internal/containers"
	"github.com/project-flotta/flotta-agent/internal/desired"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// Containers is what there is of containers; known is false until that is known.
// Changed is closed by the next change; it is taken before Current.
type Containers interface {
	Current() (list []containers.Container, known bool)
	Changed() <-chan struct{}
}

// Config is what an Engine works with.
type Config struct {
	// Desired gives the newest snapshot.
	Desired interface{ Current() *desired.Snapshot }
	// Containers gives the containers that there are.
	Containers Containers
	// Dir is where spools and places are kept; made when missing.
	Dir string
	// DeviceID is in each message, as its host name and as a parameter.
	DeviceID string
	// OwnerUID is the user whose containers they are; 0 is root.
	OwnerUID int
	// SpoolBytes bounds the spool of each target; 0: 64 MiB, at least 2 MiB.
	SpoolBytes int64
	// SpoolAge is how old a line may become in a spool; 0: any age.
	SpoolAge time.Duration
	// SyncEvery is how long lines may have been read and not be safe yet; a
	// power cut repeats that much. 0: 1 s.
	SyncEvery time.Duration
	// Settle is how long a connection has to live after the receiver has all
	// lines of a batch, before they are forgotten; 0: 250 ms. By udp it is 20 ms at
	// most.
	Settle time.Duration
	// MessageBytes bounds a message by tcp and tls; 0: 8 KiB.
	MessageBytes int
	// SDID is the name of the structured data; "": flotta@32473.
	SDID string
	// Journalctl makes the command that runs journalctl; nil: that of the machine.
	Journalctl func(ctx context.Context, args ...string) *exec.Cmd
	// Log receives changes of state; nil: nothing is logged.
	Log *slog.Logger
	// Event is told what happened; it may be called from any goroutine and must
	// not block; nil: nobody is.
	Event func(protocol.EventInfo)

	retry time.Duration // of the first attempt to connect again, but for tests
}

const (
	defaultSpoolBytes = 64 << 20
	minSpoolBytes     = 2 << 20 // so that the longest line fits into one of its segments
	defaultSyncEvery  = time.Second
	defaultSettle     = 250 * time.Millisecond
	defaultRetry      = time.Second
	defaultBufferKiB  = 12
)

func (c Config) withDefaults() Config {
	if c.SpoolBytes == 0 {
		c.SpoolBytes = defaultSpoolBytes
	}
	if c.SyncEvery == 0 {
		c.SyncEvery = defaultSyncEvery
	}
	if c.Settle == 0 {
		c.Settle = defaultSettle
	}
	if c.retry == 0 {
		c.retry = defaultRetry
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Event == nil {
		c.Event = func(protocol.EventInfo) {}
	}
	return c
}

// Validate names the field that is missing or out of range.
func (c Config) Validate() error {
	switch {
	case c.Desired == nil:
		return errors.New("logs config: Desired is nil")
	case c.Containers == nil:
		return errors.New("logs config: Containers is nil")
	case !filepath.IsAbs(c.Dir):
		return fmt.Errorf("logs config: Dir %q is not absolute", c.Dir)
	case c.OwnerUID < 0:
		return errors.New("logs config: OwnerUID is negative")
	case c.SpoolBytes != 0 && c.SpoolBytes < minSpoolBytes:
		return fmt.Errorf("logs config: SpoolBytes is %d, less than %d", c.SpoolBytes, minSpoolBytes)
	case c.SpoolAge < 0 || c.SyncEvery < 0 || c.Settle < 0 || c.MessageBytes < 0:
		return errors.New("logs config: SpoolAge, SyncEvery, Settle or MessageBytes is negative")
	}
	return nil
}
