package adapter

import (
	"context"
	"errors"
	"slices"
	"strings"
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

// Units is a workload.UnitControl on systemd.
type Units struct{ client *systemd.Client }

// NewUnits returns the unit control behind client.
func NewUnits(client *systemd.Client) *Units { return &Units{client: client} }

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

// Units returns the units that are loaded or enabled. Two calls, however many
// there are.
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
	return out, nil
}

func convert(s systemd.UnitStatus) workload.Unit {
	return workload.Unit{
		State:   workload.UnitState(s.ActiveState),
		Waiting: s.ActiveState == "activating" && strings.HasPrefix(s.SubState, "auto-restart"),
	}
}

// Unit returns the unit of one workload.
func (u *Units) Unit(ctx context.Context, name string) (workload.Unit, error) {
	unit, err := u.client.Unit(ctx, unitOf(name))
	if errors.Is(err, systemd.ErrNotFound) {
		return workload.Unit{State: workload.UnitInactive}, nil
	}
	if err != nil {
		return workload.Unit{}, err
	}
	wants, err := u.client.Wants(ctx, target)
	if err != nil {
		return workload.Unit{}, err
	}
	out := convert(unit.UnitStatus)
	out.Result = unit.Result
	out.Enabled = slices.Contains(wants, unitOf(name))
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

// Start starts the unit.
func (u *Units) Start(ctx context.Context, name string) error {
	if err := u.client.ResetFailed(ctx, unitOf(name)); err != nil {
		return err
	}
	return u.client.Start(ctx, unitOf(name))
}

// Restart restarts or starts the unit.
func (u *Units) Restart(ctx context.Context, name string) error {
	if err := u.client.ResetFailed(ctx, unitOf(name)); err != nil {
		return err
	}
	return u.client.Restart(ctx, unitOf(name))
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
