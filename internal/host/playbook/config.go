package playbook

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"path/filepath"
	"time"

	"github.com/project-flotta/flotta-agent/internal/desired"
	"github.com/project-flotta/flotta-agent/internal/durable"
	"github.com/project-flotta/flotta-agent/internal/systemd"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// Units runs playbooks. A *systemd.Client of the system's manager is one.
type Units interface {
	Unit(ctx context.Context, name string) (systemd.Unit, error)
	Start(ctx context.Context, unit string) error
	Stop(ctx context.Context, unit string) error
	ResetFailed(ctx context.Context, unit string) error
}

// Config is what a Runner needs. Ask, Desired, Dir, Units and Log are required.
type Config struct {
	// Ask returns the playbooks that the device is to run; an Asker's.
	Ask func(ctx context.Context) ([]protocol.PlaybookExecution, error)
	// Desired says how often to ask, and whether the device is managed at all.
	Desired interface{ Current() *desired.Snapshot }
	// Dir is where requests, results and output are kept. It is DefaultDir, unless
	// the units are others than those shipped.
	Dir   string
	Units Units
	// Ready is closed when the device may ask: it is registered. Nil: now.
	Ready <-chan struct{}
	Event func(protocol.EventInfo) // may be nil; must not block for long, and is durable
	Log   *slog.Logger

	// Hold returns why none may begin now, such as a reboot that is near; empty: one
	// may. Nil: always.
	Hold func() string
	// Disabled: playbooks are taken in, and wait until they are enabled.
	Disabled bool
	// Ansible is the path of ansible-playbook; empty: the one in SearchPath.
	Ansible string
	// Period is how often to ask when the control plane does not say; a minute.
	Period time.Duration
	// DefaultTimeout is how long a playbook may run that does not say; 5 minutes.
	// MaxTimeout is the most that one may ask for; an hour.
	DefaultTimeout, MaxTimeout time.Duration
	// Retries is how often a playbook that is to be run again after a failure is
	// run again; 2. Negative: never.
	Retries int
	// Jitter varies a wait. Nil: by up to a tenth, either way.
	Jitter func(time.Duration) time.Duration
}

// DefaultDir is the folder that the shipped units run playbooks from.
const DefaultDir = "/var/local/yggdrasil/device/playbooks"

const (
	defaultPeriod  = time.Minute
	defaultTimeout = 5 * time.Minute
	defaultMax     = time.Hour
	defaultRetries = 2

	// maxRuns is how many runs are remembered, and the most that is taken in.
	maxRuns = 256
	// maxWaiting bounds the playbooks that wait, in bytes.
	maxWaiting = 16 << 20
	// maxKept is how many runs' output is kept.
	maxKept = 16
	// maxLatest is how many runs a person is shown.
	maxLatest = 20
	// maxMessages bounds what all runs say in a heartbeat, in bytes.
	maxMessages = 64 << 10
	// maxStarts is how often a run may end before it begins.
	maxStarts = 5

	watchPeriod  = time.Second            // how often a run is looked at
	lookPeriod   = 30 * time.Second       // how often Ansible is looked for
	holdPeriod   = 5 * time.Second        // how often it is asked whether one may begin
	shortPause   = 10 * time.Second       // after a failure, doubled up to
	longPause    = 5 * time.Minute        // this
	overtime     = 3 * time.Minute        // after which somebody else ends a run
	unitTimeout  = time.Minute            // for systemd to start or stop a unit
	maxAskPause  = 2 * time.Minute        // a server of flotta v0.2 answers 500 when there is nothing to do
	firstAsk     = 2 * time.Second        // at most, so that not all devices ask at once
	jitterPart   = 0.1                    // of a wait
	unitPrefix   = "flotta-playbook@"     // of the name of a unit
	unitSuffix   = ".service"             //
	indexFile    = "playbooks.json"       // in Dir
	indexKind    = "playbooks"            //
	indexVersion = 1                      //
	noPause      = time.Duration(1) << 62 // wait until something happens
)

func (c *Config) complete() error {
	switch {
	case c.Ask == nil, c.Desired == nil, c.Units == nil, c.Log == nil:
		return errors.New("playbook config: Ask, Desired, Units and Log are required")
	case !filepath.IsAbs(c.Dir):
		return fmt.Errorf("playbook config: Dir %q is not an absolute path", c.Dir)
	case c.Ansible != "" && !filepath.IsAbs(c.Ansible):
		return fmt.Errorf("playbook config: Ansible %q is not an absolute path", c.Ansible)
	}
	for _, set := range []struct {
		value    *time.Duration
		standard time.Duration
		name     string
	}{{&c.Period, defaultPeriod, "Period"}, {&c.DefaultTimeout, defaultTimeout, "DefaultTimeout"}, {&c.MaxTimeout, defaultMax, "MaxTimeout"}} {
		if *set.value == 0 {
			*set.value = set.standard
		}
		if *set.value < time.Second {
			return fmt.Errorf("playbook config: %s %s is shorter than a second", set.name, *set.value)
		}
	}
	if c.DefaultTimeout > c.MaxTimeout {
		return fmt.Errorf("playbook config: DefaultTimeout %s is longer than MaxTimeout %s", c.DefaultTimeout, c.MaxTimeout)
	}
	switch {
	case c.Retries == 0:
		c.Retries = defaultRetries
	case c.Retries < 0:
		c.Retries = 0
	case c.Retries > 100:
		return fmt.Errorf("playbook config: %d Retries are more than 100", c.Retries)
	}
	if c.Hold == nil {
		c.Hold = func() string { return "" }
	}
	if c.Event == nil {
		c.Event = func(protocol.EventInfo) {}
	}
	if c.Jitter == nil {
		c.Jitter = func(d time.Duration) time.Duration {
			return d + time.Duration(jitterPart*(2*rand.Float64()-1)*float64(d))
		}
	}
	return nil
}

// New returns a Runner; it touches nothing.
func New(cfg Config) (*Runner, error) {
	if err := cfg.complete(); err != nil {
		return nil, err
	}
	return newRunner(cfg, durable.Writer{}), nil
}
