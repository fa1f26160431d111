package workloadtest

import (
	"context"
	"errors"
	"maps"
	"os"
	"slices"
	"time"

	"github.com/project-flotta/flotta-agent/internal/workload"
)

// Units is the UnitControl of a World.
type Units struct{ *World }

// How long a unit takes to start or to stop.
const (
	startTime = 500 * time.Millisecond
	slowTime  = 5 * time.Minute // of an image that is Slow
)

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
	return u.amend(ctx, name, func(unit *workload.Unit) { unit.Enabled = enabled })
}

// Configure sets what the unit has from now on.
func (u Units) Configure(ctx context.Context, name string, settings workload.UnitSettings) error {
	return u.amend(ctx, name, func(unit *workload.Unit) { unit.Settings = settings })
}

// amend changes a unit without starting or stopping it.
func (u Units) amend(ctx context.Context, name string, change func(*workload.Unit)) error {
	if err := u.lock(ctx); err != nil {
		return err
	}
	defer u.mu.Unlock()
	unit, there := u.units[name]
	if !there {
		unit.State = workload.UnitInactive
	}
	change(&unit)
	u.units[name] = unit
	u.forget(name)
	return nil
}

// forget drops a unit of which nothing is to be said, as systemd does.
func (w *World) forget(name string) {
	if u := w.units[name]; !u.Enabled && u.State == workload.UnitInactive && u.Settings.Equal(workload.UnitSettings{}) {
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
	took := startTime
	if start && u.behaviour(name) == Slow {
		took = slowTime
	}
	u.mu.Unlock()
	return errors.Join(pass(ctx, took), err)
}

// behaviour returns that of the first container that runs.
func (w *World) behaviour(name string) Behaviour {
	for _, c := range w.pods[name].Containers {
		return w.local[c.Image]
	}
	return Good
}

func (w *World) start(name string) error {
	unit := w.units[name]
	unit.Waiting = false
	for _, dir := range unit.Settings.Mounts {
		if !w.mounted[dir] { // a condition of the unit
			unit.State = workload.UnitInactive
			w.units[name] = unit
			return nil
		}
	}
	for _, path := range unit.Settings.Devices {
		if d := w.devices[path]; d != nil && d.Missing { // likewise
			unit.State = workload.UnitInactive
			w.units[name] = unit
			return nil
		}
	}
	w.starts[name]++
	err := w.play(name)
	switch {
	case errors.Is(err, os.ErrNotExist): // as a condition of the unit
		unit.State, err = workload.UnitInactive, nil
	case err != nil:
		unit.State, unit.Waiting, unit.Result = "activating", true, "exit-code"
	default:
		unit.State = workload.UnitActive
		ended := func(c workload.Container) bool { return c.Status == workload.ContainerExited }
		if unit.Settings.Completes && !slices.ContainsFunc(w.pods[name].Containers, func(c workload.Container) bool { return !ended(c) }) {
			unit.State = workload.UnitInactive
		}
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
