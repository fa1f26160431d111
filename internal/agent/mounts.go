package agent

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/project-flotta/flotta-agent/internal/host/mounts/apply"
	"github.com/project-flotta/flotta-agent/internal/systemd"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// MountsConfig sets where the control plane may have block devices mounted.
type MountsConfig struct {
	Allow         []string `toml:"allow"`          // folders below which something may be mounted; default apply.DefaultAllowed
	DeviceTimeout Duration `toml:"device-timeout"` // how long a boot waits for a device; default 15s
}

func (c MountsConfig) withDefaults() MountsConfig {
	if c.Allow == nil {
		c.Allow = apply.DefaultAllowed()
	}
	setDefault(&c.DeviceTimeout, Duration(15*time.Second))
	return c
}

func (c MountsConfig) validate() error {
	if d := time.Duration(c.DeviceTimeout); d < time.Second || d > 10*time.Minute {
		return fmt.Errorf("mounts.device-timeout %s: must be between 1s and 10m", d)
	}
	if err := apply.CheckAllowed(c.Allow); err != nil {
		return fmt.Errorf("mounts.allow: %w", err)
	}
	return nil
}

// mounts builds what mounts the block devices of the configuration. They are the
// system's, whoever runs the workloads.
func (d *device) mounts(owner account, emit func(protocol.EventInfo)) (*apply.Reconciler, error) {
	system, err := systemd.New(systemd.Config{Socket: systemd.SystemSocket})
	if err != nil {
		return nil, err
	}
	d.opened = append(d.opened, closer(system.Close))
	protected := []string{d.cfg.StateDir, owner.containerStore()}
	if owner.home != "" {
		protected = append(protected, owner.home)
	}
	return apply.New(apply.Config{
		Desired:       d.store,
		Manager:       system,
		Allowed:       d.cfg.Mounts.Allow,
		Protected:     protected,
		Before:        owner.unit(),
		Former:        d.former.Mounts,
		DeviceTimeout: time.Duration(d.cfg.Mounts.DeviceTimeout),
		Resync:        time.Duration(d.cfg.Runtime.Resync),
		Event:         emit,
		Log:           component(d.log, "mounts"),
	})
}

// unit is that of the system below which the workloads run.
func (a account) unit() string {
	if a.uid == 0 {
		return "flotta.slice"
	}
	return "user@" + strconv.Itoa(a.uid) + ".service"
}

// closer is a function that lets go of something.
type closer func()

func (c closer) Close() error { c(); return nil }

// wakeOn makes a heartbeat follow soon when something changes.
func wakeOn(changed func() <-chan struct{}, wake func()) func(context.Context) error {
	return func(ctx context.Context) error {
		for {
			select {
			case <-changed():
				wake()
			case <-ctx.Done():
				return nil
			}
		}
	}
}
