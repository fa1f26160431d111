package apply

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"regexp"
	"sync"
	"time"

	"github.com/project-flotta/flotta-agent/internal/desired"
	"github.com/project-flotta/flotta-agent/internal/host/mounts"
	"github.com/project-flotta/flotta-agent/internal/systemd"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// Config is what a Reconciler needs. Desired, Manager and Log are required.
type Config struct {
	Desired Desired
	Manager Manager // of the system, not of a user
	Log     *slog.Logger
	Event   func(protocol.EventInfo) // may be nil; must not block

	// UnitDir is where the units are written; default /etc/systemd/system.
	UnitDir string
	// Allowed are the folders below which something may be mounted; default
	// DefaultAllowed. CheckAllowed says what may be in it.
	Allowed []string
	// Protected are folders at, above and below which nothing is ever mounted,
	// in addition to the system's own.
	Protected []string
	// Before is the unit that waits for the mounts at boot, for DeviceTimeout at
	// most: that below which workloads run. Empty: none.
	Before string
	// DeviceTimeout is how long a start may wait for a device, from 1 s to 10
	// min; default 15 s.
	DeviceTimeout time.Duration
	// Former returns mounts that were made before there were units of this agent, by
	// a program that it replaces; nil: none. What is mounted so is given a unit, if it
	// is configured in the same way.
	Former func() []protocol.Mount
	// Resync is how long a change by hand may last; default 60 s.
	Resync time.Duration
}

// Desired is where the configured mounts come from. A *desired.Store is one.
type Desired interface{ Current() *desired.Snapshot }

// Manager mounts and unmounts. A *systemd.Client is one.
type Manager interface {
	Unit(ctx context.Context, name string) (systemd.Unit, error)
	Start(ctx context.Context, unit string) error
	Stop(ctx context.Context, unit string) error
	Enable(ctx context.Context, units ...string) error
	Disable(ctx context.Context, units ...string) error
	Reload(ctx context.Context) error
	ResetFailed(ctx context.Context, unit string) error
	Output(ctx context.Context, unit string, since time.Time, lines int) ([]string, error)
}

const (
	defaultUnitDir       = "/etc/systemd/system"
	defaultDeviceTimeout = 15 * time.Second
	maxDeviceTimeout     = 10 * time.Minute
	defaultResync        = time.Minute

	// devicePoll is how often a device is looked for that is not there.
	devicePoll = 5 * time.Second
	// Failed attempts are repeated after a pause, doubled up to the long one.
	shortPause = 5 * time.Second
	longPause  = 5 * time.Minute
)

// before is what Config.Before may be.
var before = regexp.MustCompile(`^[A-Za-z0-9:_.@-]{1,200}\.(service|slice|target)$`)

// Reconciler makes the mounts be those that are configured.
type Reconciler struct {
	cfg    Config
	kernel kernel
	step   func(point string) // nil but in tests: called between any two steps
	wake   chan struct{}

	mu       sync.Mutex // held while anything is looked at or changed
	attempts map[string]*attempt
	watched  []watched // what the latest round was about
	print    string    // of watched, as of then
	full     time.Time // of that round

	board   sync.Mutex
	status  Status
	changed chan struct{}
}

// New returns a Reconciler; it touches nothing.
func New(cfg Config) (*Reconciler, error) {
	if cfg.UnitDir == "" {
		cfg.UnitDir = defaultUnitDir
	}
	if cfg.Allowed == nil {
		cfg.Allowed = DefaultAllowed()
	}
	if cfg.DeviceTimeout == 0 {
		cfg.DeviceTimeout = defaultDeviceTimeout
	}
	if cfg.Resync == 0 {
		cfg.Resync = defaultResync
	}
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("mounts config: %w", err)
	}
	return &Reconciler{
		cfg: cfg, kernel: newKernel(mounts.New(mounts.Default)), wake: make(chan struct{}, 1),
		attempts: map[string]*attempt{}, changed: make(chan struct{}),
	}, nil
}

func (c Config) validate() error {
	switch {
	case c.Desired == nil, c.Manager == nil, c.Log == nil:
		return errors.New("Desired, Manager and Log are required")
	case !filepath.IsAbs(c.UnitDir):
		return fmt.Errorf("not an absolute path in UnitDir: %q", c.UnitDir)
	case c.DeviceTimeout < time.Second || c.DeviceTimeout > maxDeviceTimeout:
		return fmt.Errorf("not between 1s and %[2]s in DeviceTimeout: %[1]s", c.DeviceTimeout, maxDeviceTimeout)
	case c.Resync < 0:
		return fmt.Errorf("negative Resync %s", c.Resync)
	case c.Before != "" && !before.MatchString(c.Before):
		return fmt.Errorf("not the name of a service, slice or target in Before: %q", c.Before)
	}
	for _, dir := range c.Protected {
		if !filepath.IsAbs(dir) {
			return fmt.Errorf("not an absolute path in Protected: %q", dir)
		}
	}
	return CheckAllowed(c.Allowed)
}
