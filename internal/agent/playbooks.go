package agent

import (
	"fmt"
	"time"

	"github.com/project-flotta/flotta-agent/internal/heartbeat"
	"github.com/project-flotta/flotta-agent/internal/host/osupdate"
	"github.com/project-flotta/flotta-agent/internal/host/playbook"
	"github.com/project-flotta/flotta-agent/internal/systemd"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// PlaybooksConfig sets how Ansible playbooks of the control plane are run.
type PlaybooksConfig struct {
	Disabled   bool     `toml:"disabled"`    // what comes waits
	Period     Duration `toml:"period"`      // between two questions, where the control plane does not say; default 60s
	Timeout    Duration `toml:"timeout"`     // of a playbook that does not say; default 5m
	MaxTimeout Duration `toml:"max-timeout"` // that a playbook may ask for; default 1h
	Retries    int      `toml:"retries"`     // of one that is to be run again when it fails; default 2
}

func (c PlaybooksConfig) withDefaults() PlaybooksConfig {
	setDefault(&c.Period, Duration(time.Minute))
	setDefault(&c.Timeout, Duration(5*time.Minute))
	setDefault(&c.MaxTimeout, Duration(time.Hour))
	setDefault(&c.Retries, 2)
	return c
}

func (c PlaybooksConfig) validate() error {
	switch {
	case c.Period < Duration(time.Second) || c.Period > Duration(24*time.Hour):
		return fmt.Errorf("playbooks.period %s: must be between 1s and 24h", time.Duration(c.Period))
	case c.Timeout < Duration(time.Second):
		return fmt.Errorf("playbooks.timeout %s: must be at least 1s", time.Duration(c.Timeout))
	case c.MaxTimeout < c.Timeout:
		return fmt.Errorf("playbooks.max-timeout %s: must not be shorter than playbooks.timeout %s", time.Duration(c.MaxTimeout), time.Duration(c.Timeout))
	case c.Retries < 1 || c.Retries > 100:
		return fmt.Errorf("playbooks.retries %d: must be from 1 to 100", c.Retries)
	}
	return nil
}

// playbooks builds what runs the playbooks of the control plane.
func (d *device) playbooks(report *reporting, emit func(protocol.EventInfo)) (*playbook.Runner, error) {
	system, err := systemd.New(systemd.Config{Socket: systemd.SystemSocket})
	if err != nil {
		return nil, err
	}
	d.opened = append(d.opened, closer(system.Close))
	set := d.cfg.Playbooks
	return playbook.New(playbook.Config{
		Ask:            playbook.Asker{Sender: d.carrier}.Ask,
		Desired:        d.store,
		Dir:            playbook.DefaultDir, // of the units, wherever the rest of the state is
		Units:          system,
		Ready:          report.who.Registered(),
		Event:          emit,
		Hold:           report.goingDown,
		Disabled:       set.Disabled,
		Period:         time.Duration(set.Period),
		DefaultTimeout: time.Duration(set.Timeout),
		MaxTimeout:     time.Duration(set.MaxTimeout),
		Retries:        set.Retries,
		Log:            component(d.log, "playbooks"),
	})
}

// goingDown says that the machine is about to be rebooted; empty: it is not. What
// begins now would be interrupted.
func (r *reporting) goingDown() string {
	switch phase := r.system.Status().Phase; phase {
	case osupdate.PhaseDraining, osupdate.PhaseRebooting:
		return "the operating system is updated: " + string(phase)
	}
	return ""
}

// delivered passes on what the control plane has taken in.
func (r *reporting) delivered(rep heartbeat.Report) {
	if r.playbooks != nil {
		r.playbooks.Delivered(rep.Playbooks)
	}
}
