package identity

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/project-flotta/flotta-agent/internal/pki"
	"github.com/project-flotta/flotta-agent/internal/transport"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

const (
	defaultRetry   = 10 * time.Second
	defaultRenewAt = 2.0 / 3
	// Later than this there would be no room for devices to come one after the
	// other, nor for failures.
	maxRenewAt = 0.95
)

// Sender posts messages; transport.Transport is one.
type Sender interface {
	Send(ctx context.Context, m transport.Message) (transport.Reply, error)
}

// Config says who the device is to be, and how it can ask for that.
type Config struct {
	Settings transport.Settings
	Sender   Sender
	// TagsFile is yggdrasil's tags.toml; its tag "namespace" says where the
	// device is to be placed. Without the file or the tag it is "default".
	TagsFile string
	Hardware func() *protocol.HardwareInfo // nil, or returning nil: nothing is told
	// Retry is the time between attempts before jitter; default 10 s.
	Retry time.Duration
	// RenewAt is the part of its life time from which on a certificate is
	// renewed, above 0 and at most 0.95; default two thirds.
	RenewAt float64
	// Held reports that the device must not ask for a certificate now, because
	// what is left of its former life is being cleared away; nil: never.
	Held func() bool
	// Unnoticed is called from Run after a renewal that yggd may not notice,
	// because no file of authorities is configured; nil: nobody is told.
	Unnoticed func(context.Context)

	Log   *slog.Logger
	Event func(protocol.EventInfo) // never blocks; may be nil
}

func (c *Config) validate() error {
	switch {
	case c.Settings.DeviceID == "":
		return errors.New("device id: missing")
	case strings.EqualFold(c.Settings.DeviceID, pki.RegisterName):
		// yggd falls back to the name in its certificate.
		return fmt.Errorf("device id: %q is the name of the register certificate; set client-id in yggdrasil's config.toml", c.Settings.DeviceID)
	case c.Settings.CertFile == "" || c.Settings.KeyFile == "":
		return errors.New("credential: no certificate or key file is configured")
	case c.Sender == nil:
		return errors.New("sender: missing")
	case c.Log == nil:
		return errors.New("log: missing")
	case c.Retry < 0:
		return errors.New("retry: negative")
	case c.RenewAt < 0 || c.RenewAt > maxRenewAt || math.IsNaN(c.RenewAt):
		return fmt.Errorf("renewal at %v of the life time: must be above 0 and at most %v", c.RenewAt, maxRenewAt)
	}
	return nil
}

func (c Config) withDefaults() Config {
	if c.Retry == 0 {
		c.Retry = defaultRetry
	}
	if c.RenewAt == 0 {
		c.RenewAt = defaultRenewAt
	}
	if c.Held == nil {
		c.Held = func() bool { return false }
	}
	if c.Unnoticed == nil {
		c.Unnoticed = func(context.Context) {}
	}
	if c.Hardware == nil {
		c.Hardware = func() *protocol.HardwareInfo { return nil }
	}
	if c.Event == nil {
		c.Event = func(protocol.EventInfo) {}
	}
	return c
}

// Device is this device's identity.
type Device struct {
	cfg        Config
	credential credential

	mu         sync.Mutex    // held while the credential in place is changed
	registered chan struct{} // closed by Run
	once       sync.Once     // closes registered
	refused    chan struct{} // has one: the control plane did not accept the certificate
	changed    chan struct{} // has one: another credential was put in place
	problem    atomic.Pointer[string]

	// Only Run's.
	said    map[string]string // by subject, what was logged last
	renewal renewal
}

// New checks c. It touches no file.
func New(c Config) (*Device, error) {
	if err := c.validate(); err != nil {
		return nil, fmt.Errorf("identity: %w", err)
	}
	c = c.withDefaults()
	return &Device{
		cfg: c,
		credential: credential{
			certPath: c.Settings.CertFile,
			keyPath:  c.Settings.KeyFile,
			caPaths:  c.Settings.CAFiles,
			log:      c.Log,
			step:     func(step) {},
		},
		registered: make(chan struct{}),
		refused:    make(chan struct{}, 1),
		changed:    make(chan struct{}, 1),
		said:       make(map[string]string),
	}, nil
}

// Registered is closed when the device has a certificate of its own in place.
func (d *Device) Registered() <-chan struct{} { return d.registered }

// Unauthorized says that the control plane did not accept the device's
// certificate: it is renewed at once, unless that was tried a moment ago. It
// never blocks, and may be called from any goroutine.
func (d *Device) Unauthorized() { wake(d.refused) }

// Problem says why the certificate is not renewed although it should be; empty:
// all is well. It may be called from any goroutine.
func (d *Device) Problem() string {
	if p := d.problem.Load(); p != nil {
		return *p
	}
	return ""
}

func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
