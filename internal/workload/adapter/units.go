package adapter

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/project-flotta/flotta-agent/internal/systemd"
	"github.com/project-flotta/flotta-agent/internal/workload"
)

// Units of workloads are instances of one template, wanted by one target.
const (
	unitPrefix = "flotta-workload@"
	unitSuffix = ".service"
	target     = "flotta-workloads.target"
)

// Where administrators, and Configure, put drop-ins for the units of the two
// kinds of service managers.
const (
	UserDropIns   = "/etc/systemd/user"
	SystemDropIns = "/etc/systemd/system"
)

// UnitsConfig says which units. All fields are required.
type UnitsConfig struct {
	Client  *systemd.Client
	DropIns string // folder that the client's manager reads: UserDropIns or SystemDropIns
}

// Units is a workload.UnitControl on systemd.
type Units struct {
	client  *systemd.Client
	dropIns string

	mu     sync.Mutex
	loaded map[string]bool // by workload: the manager has read its drop-in as it is
}

// NewUnits returns the unit control behind a client.
func NewUnits(cfg UnitsConfig) (*Units, error) {
	if cfg.Client == nil {
		return nil, errors.New("units config: no client")
	}
	if !filepath.IsAbs(cfg.DropIns) {
		return nil, fmt.Errorf("units config: drop-ins %q is not an absolute path", cfg.DropIns)
	}
	return &Units{client: cfg.Client, dropIns: cfg.DropIns, loaded: map[string]bool{}}, nil
}

func unitOf(name string) string { return unitPrefix + name + unitSuffix }

// nameOf returns the workload of a unit, or "".
func nameOf(unit string) string {
	name, isOurs := strings.CutPrefix(unit, unitPrefix)
	name, isService := strings.CutSuffix(name, unitSuffix)
	if !isOurs || !isService {
		return ""
	}
	return name
}

// Units returns the units that are loaded, enabled or configured. Two calls,
// however many there are.
func (u *Units) Units(ctx context.Context) (map[string]workload.Unit, error) {
	loaded, err := u.client.Units(ctx, unitPrefix+"*"+unitSuffix)
	if err != nil {
		return nil, err
	}
	wants, err := u.client.Wants(ctx, target)
	if err != nil {
		return nil, err
	}
	out := make(map[string]workload.Unit, len(loaded))
	for _, status := range loaded {
		if name := nameOf(status.Name); name != "" {
			out[name] = convert(status)
		}
	}
	for _, unit := range wants {
		if name := nameOf(unit); name != "" {
			one, known := out[name]
			if !known {
				one.State = workload.UnitInactive
			}
			one.Enabled = true
			out[name] = one
		}
	}
	return out, u.addSettings(out)
}

// addSettings reads the drop-ins, those of units that systemd has nothing to say
// of included.
func (u *Units) addSettings(units map[string]workload.Unit) error {
	names, err := u.configured()
	if err != nil {
		return fmt.Errorf("list drop-ins: %w", err)
	}
	for _, name := range names {
		settings, err := u.settings(name)
		if err != nil {
			return fmt.Errorf("read drop-in: %w", err)
		}
		one, known := units[name]
		if !known && settings.Equal(workload.UnitSettings{}) {
			continue // a folder without ours
		}
		if !known {
			one.State = workload.UnitInactive
		}
		one.Settings = settings
		units[name] = one
	}
	return nil
}

func convert(s systemd.UnitStatus) workload.Unit {
	return workload.Unit{
		State:   workload.UnitState(s.ActiveState),
		Waiting: s.ActiveState == "activating" && strings.HasPrefix(s.SubState, "auto-restart"),
	}
}

// Unit returns the unit of one workload.
func (u *Units) Unit(ctx context.Context, name string) (workload.Unit, error) {
	settings, err := u.settings(name)
	if err != nil {
		return workload.Unit{}, fmt.Errorf("read drop-in: %w", err)
	}
	unit, err := u.client.Unit(ctx, unitOf(name))
	if errors.Is(err, systemd.ErrNotFound) {
		return workload.Unit{State: workload.UnitInactive, Settings: settings}, nil
	}
	if err != nil {
		return workload.Unit{}, err
	}
	if unit.NeedReload {
		u.setLoaded(name, false)
	}
	wants, err := u.client.Wants(ctx, target)
	if err != nil {
		return workload.Unit{}, err
	}
	out := convert(unit.UnitStatus)
	out.Result = unit.Result
	out.Enabled = slices.Contains(wants, unitOf(name))
	out.Settings = settings
	return out, nil
}

// Enable makes the unit start at boot, and the target that wants it. The target
// is active before the unit hangs on it, or starting it would start the unit.
func (u *Units) Enable(ctx context.Context, name string) error {
	loaded, err := u.client.Units(ctx, target)
	if err != nil {
		return err
	}
	active := slices.ContainsFunc(loaded, func(s systemd.UnitStatus) bool { return s.ActiveState == "active" })
	if !active {
		if err := u.client.Enable(ctx, target); err != nil {
			return err
		}
		if err := u.client.Start(ctx, target); err != nil {
			return err
		}
	}
	return u.client.Enable(ctx, unitOf(name))
}

// Disable makes the unit no longer start at boot.
func (u *Units) Disable(ctx context.Context, name string) error {
	return u.client.Disable(ctx, unitOf(name))
}

// Configure makes the settings the unit's drop-in. A crash between writing it
// and having it read is noticed by the next process.
func (u *Units) Configure(ctx context.Context, name string, settings workload.UnitSettings) error {
	want, err := dropIn(settings)
	if err != nil {
		return fmt.Errorf("configure unit of %s: %w", name, err)
	}
	have, err := u.readDropIn(name)
	if err != nil {
		return fmt.Errorf("configure unit of %s: %w", name, err)
	}
	same := bytes.Equal(have, want) && (have == nil) == (want == nil)
	if same && u.isLoaded(name) {
		return nil
	}
	if same {
		unit, err := u.client.Unit(ctx, unitOf(name))
		if err != nil && !errors.Is(err, systemd.ErrNotFound) {
			return err
		}
		if err == nil && !unit.NeedReload {
			u.setLoaded(name, true)
			return nil
		}
	} else {
		u.setLoaded(name, false)
		if err := u.writeDropIn(name, want); err != nil {
			return fmt.Errorf("configure unit of %s: %w", name, err)
		}
	}
	if err := u.client.Reload(ctx); err != nil {
		return err
	}
	u.setLoaded(name, true)
	return nil
}

func (u *Units) isLoaded(name string) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.loaded[name]
}

func (u *Units) setLoaded(name string, loaded bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if loaded {
		u.loaded[name] = true
	} else {
		delete(u.loaded, name)
	}
}

// Start starts the unit.
func (u *Units) Start(ctx context.Context, name string) error {
	if err := u.client.ResetFailed(ctx, unitOf(name)); err != nil {
		return err
	}
	return u.startNoticed(ctx, unitOf(name), u.client.Start)
}

// Restart replaces the pod of an active unit, which the template does by a
// reload, and restarts or starts any other.
func (u *Units) Restart(ctx context.Context, name string) error {
	unit := unitOf(name)
	if err := u.client.ResetFailed(ctx, unit); err != nil {
		return err
	}
	status, err := u.client.Units(ctx, unit)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(status, func(s systemd.UnitStatus) bool { return s.ActiveState == "active" }) {
		return u.startNoticed(ctx, unit, u.client.Restart)
	}
	err = u.client.ReloadUnit(ctx, unit)
	switch {
	case errors.Is(err, systemd.ErrNotReloadable):
		// It ended in this moment, or somebody's drop-in has no reload.
	case errors.Is(err, systemd.ErrEnded) && !u.completes(name):
		// What Podman said of the new pod's process was missed, as in startNoticed.
	default:
		return err
	}
	return u.startNoticed(ctx, unit, u.client.Restart)
}

// startNoticed starts the unit, and once more when systemd has missed that it did.
// Rootless Podman says so from a process that is gone a moment later, and on a busy
// host before systemd has looked whose it was. systemd itself would start the unit
// again only after a pause.
func (u *Units) startNoticed(ctx context.Context, unit string, start func(context.Context, string) error) error {
	err := start(ctx, unit)
	if !errors.Is(err, systemd.ErrJob) {
		return err
	}
	if after, unseen := u.client.Unit(ctx, unit); unseen != nil || after.Result != "protocol" {
		return err
	}
	return u.client.Restart(ctx, unit)
}

// completes reports whether what the unit runs may come to its end, and is then
// not to be run a second time.
func (u *Units) completes(name string) bool {
	settings, err := u.settings(name)
	return err != nil || settings.Completes
}

// Stop stops the unit and clears a failure of it, so that it is no longer
// listed.
func (u *Units) Stop(ctx context.Context, name string) error {
	if err := u.client.Stop(ctx, unitOf(name)); err != nil && !errors.Is(err, systemd.ErrNotFound) {
		return err
	}
	return u.client.ResetFailed(ctx, unitOf(name))
}

// Output returns what the unit said last.
func (u *Units) Output(ctx context.Context, name string, since time.Time, lines int) ([]string, error) {
	return u.client.Output(ctx, unitOf(name), since, lines)
}

// Watch calls changed when a unit changed.
func (u *Units) Watch(ctx context.Context, changed func()) error {
	return u.client.Watch(ctx, unitPrefix, func(string) { changed() })
}

var _ workload.UnitControl = (*Units)(nil)
