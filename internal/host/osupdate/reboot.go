package osupdate

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// reboot does what is to be done before, and asks for the reboot. When nothing
// comes of it, what was done is undone: at once, or, where the process is killed
// or the configuration changes in the middle of it, by aftermath.
func (r *Reconciler) reboot(ctx context.Context, system System) (result, error) {
	next, _ := system.next()
	err := r.goDown(ctx, system, next)
	switch {
	case err == nil:
		return r.rebooting(r.cfg.RebootTimeout), nil
	case ctx.Err() != nil || r.rec.Phase == PhaseStaged: // then nothing was begun
		return result{}, err
	}
	return result{}, r.giveUp(ctx, fmt.Errorf("reboot into operating system %s: %w", next.ID, err))
}

func (r *Reconciler) goDown(ctx context.Context, system System, next Deployment) error {
	rec := r.rec
	rec.Phase = PhaseDraining
	if err := r.keep(rec); err != nil {
		return err
	}
	r.cfg.Log.Warn("machine is going to be rebooted into another operating system", "from", system.Booted.ID, "to", next.ID)
	r.emit(protocol.EventInfoType, reasonRebooting, "the device is going to be rebooted into operating system "+named(next))
	r.progress("the machine is going to be rebooted into operating system " + named(next))
	for _, task := range r.cfg.Before {
		if err := r.before(ctx, task); err != nil {
			return err
		}
	}
	// What was staged may be gone, or another one, by now.
	system, err := r.cfg.Target.Read(ctx)
	if err != nil {
		return err
	}
	r.system = system
	if now, pending := system.next(); !pending || now.ID != next.ID {
		return errors.New("somebody has removed it just now")
	}
	rec.Phase, rec.Reboots = PhaseRebooting, rec.Reboots+1
	if err := r.keep(rec); err != nil {
		return err
	}
	r.asked = time.Now()
	return r.cfg.Reboot(ctx)
}

func (r *Reconciler) rebooting(left time.Duration) result {
	out := result{note: "the machine is rebooting", wait: left}
	if r.giveUps > 0 {
		out.problem = notDown
	}
	return out
}

// before does one task; an error means that there is to be no reboot any more.
func (r *Reconciler) before(ctx context.Context, task Task) error {
	limited, cancel := context.WithTimeout(ctx, task.Timeout)
	defer cancel()
	began := time.Now()
	err := task.Run(limited)
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		r.cfg.Log.Warn("not all is done before the reboot", "task", task.Name, "duration", time.Since(began), "err", err)
	default:
		r.cfg.Log.Info("done before the reboot", "task", task.Name, "duration", time.Since(began))
	}
	return nil
}

// aftermath ends what a reboot was begun with, when it did not come, or is over.
// It needs nothing but the disk: the workloads of a device must not stay stopped
// because the tool does not answer. True: there is nothing to do but to wait.
func (r *Reconciler) aftermath(ctx context.Context, boot string) (result, bool, error) {
	if r.rec.Phase != PhaseDraining && r.rec.Phase != PhaseRebooting {
		return result{}, false, nil
	}
	if r.rec.Boot != boot {
		if r.resumed {
			return result{}, false, nil
		}
		if err := r.resume(ctx); err != nil {
			return result{}, false, err
		}
		r.resumed = true
		return result{}, false, nil
	}
	if r.rec.Phase == PhaseDraining { // and this is not where it is done: it was broken off
		if err := r.resume(ctx); err != nil {
			return result{}, false, err
		}
		rec := r.rec
		rec.Phase = PhaseStaged
		return result{}, false, r.keep(rec)
	}
	if r.asked.IsZero() {
		r.asked = time.Now() // the agent was restarted while the machine goes down
	}
	if left := r.cfg.RebootTimeout - time.Since(r.asked); left > 0 {
		return r.rebooting(left), true, nil
	}
	return result{}, false, r.giveUp(ctx, fmt.Errorf("the machine was asked for a reboot and did not go down within %s", r.cfg.RebootTimeout))
}

// giveUp goes back to where a reboot may be asked for, later, and returns the
// reason.
func (r *Reconciler) giveUp(ctx context.Context, reason error) error {
	if err := r.resume(ctx); err != nil {
		return err
	}
	rec := r.rec
	if rec.Phase == PhaseRebooting {
		rec.Reboots--
	}
	rec.Phase = PhaseStaged
	if err := r.keep(rec); err != nil {
		return err
	}
	r.asked = time.Time{}
	r.notBefore = time.Now().Add(pause(r.cfg.Retry, r.giveUps))
	r.giveUps++
	return reason
}

func (r *Reconciler) resume(ctx context.Context) error {
	if r.cfg.Resume == nil {
		return nil
	}
	if err := r.cfg.Resume(ctx); err != nil {
		return fmt.Errorf("go on after a reboot, or without one: %w", err)
	}
	return nil
}
