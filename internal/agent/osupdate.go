package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/project-flotta/flotta-agent/internal/command"
	"github.com/project-flotta/flotta-agent/internal/host/osupdate"
	"github.com/project-flotta/flotta-agent/internal/systemd"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// OSConfig sets how the operating system is updated, where that is done as a whole.
type OSConfig struct {
	MinFree     Size     `toml:"min-free"`     // room on /sysroot without which nothing is fetched; default 1GiB
	MaxReboots  int      `toml:"max-reboots"`  // for one update that is then not there; default 3
	RebootGrace Duration `toml:"reboot-grace"` // how long a new one may take to be healthy; default 15m
}

func (c OSConfig) withDefaults() OSConfig {
	setDefault(&c.MinFree, 1<<30)
	setDefault(&c.MaxReboots, 3)
	setDefault(&c.RebootGrace, Duration(15*time.Minute))
	return c
}

func (c OSConfig) validate() error {
	if c.MaxReboots < 1 || c.MaxReboots > 100 {
		return fmt.Errorf("os.max-reboots %d: must be from 1 to 100", c.MaxReboots)
	}
	return nil
}

// How long the steps before a reboot may take, beside the last sync.
const (
	stopTimeout   = 2 * time.Minute
	reportTimeout = 15 * time.Second
	rebootTimeout = 10 * time.Second // of asking for it
)

// osUpdate builds what brings the operating system to what the configuration names.
func (d *device) osUpdate(owner account, parts *reporting, observe observing, emit func(protocol.EventInfo)) (*osupdate.Reconciler, error) {
	host, err := osupdate.NewHost(osupdate.HostConfig{Scratch: filepath.Join(d.cfg.StateDir, "os-update"), Env: command.Proxies(os.Environ())})
	if err != nil {
		return nil, err
	}
	system, err := systemd.New(systemd.Config{Socket: systemd.SystemSocket})
	if err != nil {
		return nil, err
	}
	manager, err := systemd.New(systemd.Config{Socket: owner.managerSocket()})
	if err != nil {
		return nil, err
	}
	d.opened = append(d.opened, closer(system.Close), closer(manager.Close))
	stand := standstill{marker: maintenanceRun + "/@all", units: manager}
	return osupdate.New(osupdate.Config{
		Desired: d.store,
		Path:    filepath.Join(d.cfg.StateDir, "os-update.json"),
		Target:  host,
		Before: []osupdate.Task{
			{Name: "stop workloads", Timeout: stopTimeout, Run: stand.begin},
			{Name: "last sync", Timeout: max(d.cfg.Sync.StopTimeout.Duration(), time.Second), Run: parts.sync.Drain},
			{Name: "metrics and logs", Timeout: lastWords, Run: observe.deliver},
			{Name: "report", Timeout: reportTimeout, Run: parts.deliver},
		},
		Resume: stand.end,
		Reboot: func(ctx context.Context) error {
			ctx, cancel := context.WithTimeout(ctx, rebootTimeout)
			defer cancel()
			// The job ends with the machine.
			if err := system.Start(ctx, "reboot.target"); !errors.Is(err, context.DeadlineExceeded) {
				return err
			}
			return nil
		},
		Healthy:    parts.healthy,
		Hold:       parts.playbooks.Busy,
		MinFree:    int64(d.cfg.OS.MinFree),
		MaxReboots: d.cfg.OS.MaxReboots,
		Grace:      time.Duration(d.cfg.OS.RebootGrace),
		Event:      emit,
		Log:        component(d.log, "osupdate"),
	})
}

// Folders of the markers of maintenance. The template of the units names the same.
const (
	maintenanceEtc = "/etc/flotta/maintenance"
	maintenanceRun = "/run/flotta/maintenance" // empty after a boot
)

const (
	workloadsTarget = "flotta-workloads.target"
	workloadUnits   = "flotta-workload@*.service"
)

// standstill stops all workloads, until the next boot at most, with the marker that
// an administrator has for that.
type standstill struct {
	marker string
	units  interface {
		Start(ctx context.Context, unit string) error
		Stop(ctx context.Context, unit string) error
		Units(ctx context.Context, pattern string) ([]systemd.UnitStatus, error)
	}
}

// ours is what the marker holds, so that an administrator's is told from it.
func (standstill) ours() []byte {
	return []byte("flotta-agent: the machine is about to be rebooted into another operating system\n")
}

// begin stops the workloads, keeps them from being started, and returns when they
// have ended.
func (s standstill) begin(ctx context.Context) error {
	if _, err := os.Lstat(s.marker); errors.Is(err, fs.ErrNotExist) {
		if err := os.MkdirAll(filepath.Dir(s.marker), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(s.marker, s.ours(), 0o644); err != nil {
			return err
		}
	}
	if err := s.units.Stop(ctx, workloadsTarget); err != nil {
		return err
	}
	// The target has stopped before its workloads have: theirs are jobs of their own.
	units, err := s.units.Units(ctx, workloadUnits)
	failures := []error{err}
	for _, u := range units {
		failures = append(failures, s.units.Stop(ctx, u.Name))
	}
	return errors.Join(failures...)
}

// end lets the workloads run again. An administrator's marker stays.
func (s standstill) end(ctx context.Context) error {
	text, err := os.ReadFile(s.marker)
	absent := errors.Is(err, fs.ErrNotExist)
	switch {
	case absent: // as after a boot
	case err != nil:
		return err
	case !bytes.Equal(text, s.ours()):
		return nil
	default:
		if err := os.Remove(s.marker); err != nil {
			return err
		}
	}
	err = s.units.Start(ctx, workloadsTarget)
	if absent && errors.Is(err, systemd.ErrUnavailable) {
		// The agent may be quicker than the service manager of the workloads, which
		// starts them when it comes.
		return nil
	}
	return err
}

// healthy reports whether the device does what it is to do, whatever its operating
// system is, and if not, why.
func (r *reporting) healthy() (bool, string) {
	d := r.device()
	if d.Well() {
		return true, ""
	}
	why := d.Problems
	for _, w := range d.Workloads {
		if w.Reason != "" {
			why = append(why, "workload "+w.Name+": "+w.Reason)
		}
	}
	return false, strings.Join(why, "; ")
}

// osProblems are what keeps the operating system from being the desired one.
func (r *reporting) osProblems() []string {
	if r.system == nil {
		return nil
	}
	return r.system.Problems()
}

// reportPause is between two looks whether a report has arrived.
const reportPause = 200 * time.Millisecond

// deliver has the control plane told how things are now, and waits until it is.
func (r *reporting) deliver(ctx context.Context) error {
	asked := time.Now()
	r.reporter.Wake()
	tick := time.NewTicker(reportPause)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
			if r.reporter.Status().LastSuccess.After(asked) {
				return nil
			}
		}
	}
}
