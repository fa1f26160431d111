package workloadtest

import (
	"context"
	"errors"
	"maps"
	"os"
	"time"

	"github.com/project-flotta/flotta-agent/internal/workload"
)

// Units is the UnitControl of a World.
type Units struct{ *World }

// startTime is how long a unit takes to start or to stop.
const startTime = 500 * time.Millisecond

// Units returns all units.
func (u Units) Units(ctx context.Context) (map[string]workload.Unit, error) {
	if err := u.lock(ctx); err != nil {
		return nil, err
	}
	defer u.mu.Unlock()
	return maps.Clone(u.units), nil
}

// Unit returns one unit.
func (u Units) Unit(ctx context.Context, name string) (workload.Unit, error) {
	if err := u.lock(ctx); err != nil {
		return workload.Unit{}, err
	}
	defer u.mu.Unlock()
	unit, there := u.units[name]
	if !there {
		unit.State = workload.UnitInactive
	}
	return unit, nil
}

// Enable enables the unit.
func (u Units) Enable(ctx context.Context, name string) error { return u.enable(ctx, name, true) }

// Disable disables the unit.
func (u Units) Disable(ctx context.Context, name string) error { return u.enable(ctx, name, false) }

func (u Units) enable(ctx context.Context, name string, enabled bool) error {
	if err := u.lock(ctx); err != nil {
		return err
	}
	defer u.mu.Unlock()
	unit, there := u.units[name]
	if !there {
		unit.State = workload.UnitInactive
	}
	unit.Enabled = enabled
	u.units[name] = unit
	u.forget(name)
	return nil
}

// forget drops a unit of which nothing is to be said, as systemd does.
func (w *World) forget(name string) {
	if u := w.units[name]; !u.Enabled && u.State == workload.UnitInactive {
		delete(w.units, name)
	}
}

// Start starts the unit.
func (u Units) Start(ctx context.Context, name string) error { return u.job(ctx, name, false, true) }

// Restart restarts the unit.
func (u Units) Restart(ctx context.Context, name string) error { return u.job(ctx, name, true, true) }

// Stop stops the unit.
func (u Units) Stop(ctx context.Context, name string) error { return u.job(ctx, name, true, false) }

// job goes on when ctx ends, as systemd's jobs do.
func (u Units) job(ctx context.Context, name string, stop, start bool) error {
	if err := u.lock(ctx); err != nil {
		return err
	}
	if stop {
		u.stop(name)
	}
	var err error
	if start && u.units[name].State != workload.UnitActive {
		err = u.start(name)
	}
	u.forget(name)
	u.wake()
	u.mu.Unlock()
	return errors.Join(pass(ctx, startTime), err)
}

func (w *World) start(name string) error {
	unit := w.units[name]
	unit.Waiting = false
	err := w.play(name)
	switch {
	case errors.Is(err, os.ErrNotExist): // as a condition of the unit
		unit.State, err = workload.UnitInactive, nil
	case err != nil:
		unit.State, unit.Waiting, unit.Result = "activating", true, "exit-code"
	default:
		unit.State = workload.UnitActive
	}
	w.units[name] = unit
	return err
}

func (w *World) stop(name string) {
	delete(w.pods, name)
	if unit, there := w.units[name]; there {
		unit.State, unit.Waiting = workload.UnitInactive, false
		w.units[name] = unit
	}
}

// Output returns a line.
func (u Units) Output(ctx context.Context, _ string, _ time.Time, _ int) ([]string, error) {
	return []string{"unit's last words"}, ctx.Err()
}

var (
	_ workload.PodRuntime  = (*World)(nil)
	_ workload.UnitControl = Units{}
)
