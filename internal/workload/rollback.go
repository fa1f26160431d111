package workload

import (
	"context"
	"errors"
	"fmt"
)

// abandon ends an attempt that has changed nothing that runs.
func (a *attempt) abandon(ctx context.Context, cause error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err := a.r.store.discardStaged(a.target.name); err != nil {
		return errors.Join(cause, fmt.Errorf("discard staged manifest: %w", err))
	}
	return cause
}

// fallBack ends an attempt that put its manifest in force and could not prove
// it: what was proven before runs again, or, if nothing was, nothing runs. When
// the agent stops, or a newer target waits, all stays as it is: whoever comes
// next finds an unproven manifest.
func (a *attempt) fallBack(ctx context.Context, cause error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	d, err := a.r.store.read(a.target.name)
	if err != nil {
		return errors.Join(cause, fmt.Errorf("read state: %w", err))
	}
	a.step("fall-back")
	if d.canRestore() {
		err = a.restore(ctx)
	} else if !d.proven() {
		err = a.remove(ctx)
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		return errors.Join(cause, fmt.Errorf("fall back: %w", err))
	}
	return cause
}

// restore puts the proven manifest back in force and restarts the unit on it.
func (a *attempt) restore(ctx context.Context) error {
	name := a.target.name
	a.changed = true
	a.progress("RollingBack", "")
	if err := a.r.store.restore(name); err != nil {
		return failed(ReasonState, fmt.Errorf("restore manifest: %w", err))
	}
	a.step("restored")
	if a.seen.disk.record.Completed {
		return a.rest(ctx)
	}
	if err := a.setUp(ctx, a.seen.disk.record.Unit); err != nil {
		return err
	}
	err := a.startUnit(ctx, a.r.cfg.Units.Restart)
	a.step("restore-restarted")
	a.sweepFiles()
	a.rolledBack = err == nil
	return err
}

// rest ends what was tried in the place of a workload that had come to its end,
// which is not run a second time.
func (a *attempt) rest(ctx context.Context) error {
	name := a.target.name
	if err := a.r.cfg.Units.Disable(ctx, name); err != nil {
		return failed(ReasonUnit, err)
	}
	if err := a.r.cfg.Units.Stop(ctx, name); err != nil {
		return failed(ReasonUnit, err)
	}
	if err := a.r.cfg.Runtime.RemovePod(ctx, name); err != nil {
		return failed(ReasonUnit, err)
	}
	a.rolledBack = true
	return nil
}

// remove takes everything of the workload away but its volume. The folder goes
// last: as long as it is there, a crash leaves a reason to go on.
func (a *attempt) remove(ctx context.Context) error {
	name := a.target.name
	a.changed = true
	a.step("remove-begin")
	if err := a.r.cfg.Units.Disable(ctx, name); err != nil {
		return failed(ReasonRemoval, err)
	}
	a.step("remove-disabled")
	stopCtx, cancel := context.WithTimeout(ctx, a.r.cfg.StartTimeout)
	defer cancel()
	if err := a.r.cfg.Units.Stop(stopCtx, name); err != nil {
		return failed(ReasonRemoval, err)
	}
	a.step("remove-stopped")
	if err := a.r.cfg.Units.Configure(ctx, name, UnitSettings{}); err != nil {
		return failed(ReasonRemoval, err)
	}
	a.step("remove-configured")
	if err := a.r.cfg.Runtime.RemovePod(ctx, name); err != nil {
		return failed(ReasonRemoval, err)
	}
	a.sweepRemains(ctx)
	a.step("remove-pod")
	if err := a.r.store.remove(name); err != nil {
		return failed(ReasonRemoval, fmt.Errorf("remove folder: %w", err))
	}
	a.step("removed")
	return nil
}
