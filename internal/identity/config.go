package identity

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/project-flotta/flotta-agent/internal/pki"
	"github.com/project-flotta/flotta-agent/internal/transport"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

const defaultRetry = 10 * time.Second

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
	}
	return nil
}

func (c Config) withDefaults() Config {
	if c.Retry == 0 {
		c.Retry = defaultRetry
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
	registered chan struct{}     // closed by Run
	said       map[string]string // by subject, what was logged last; used by Run alone
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
		said:       make(map[string]string),
	}, nil
}

// Registered is closed when the device has a certificate of its own in place.
func (d *Device) Registered() <-chan struct{} { return d.registered }
