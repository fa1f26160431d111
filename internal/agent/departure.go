package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/project-flotta/flotta-agent/internal/desired"
	"github.com/project-flotta/flotta-agent/internal/diskq"
	"github.com/project-flotta/flotta-agent/internal/identity"
	"github.com/project-flotta/flotta-agent/internal/workload"
)

// Points of a departure at which a crash is tested.
const (
	stepLeaving    = "leave-recorded"
	stepDelivered  = "leave-delivered"
	stepWithdrawn  = "leave-withdrawn"
	stepRemoved    = "leave-removed"
	stepLast       = "leave-last-delivered"
	stepGivenUp    = "leave-relinquished"
	stepPurged     = "leave-purged"
	stepSpoolGone  = "leave-spool-gone"
	stepSurrender  = "leave-credential-back"
	stepMarked     = "leave-restart-marked"
	stepForgotten  = "leave-forgotten"
	departureRetry = 10 * time.Second
	// followTimeout bounds the wait for the sync's index, which is a cache: a
	// full disk must not keep a device from leaving.
	followTimeout = 15 * time.Second
	// purgeTimeout bounds each of the purges: what they leave is in nobody's way.
	purgeTimeout = time.Minute
)

// departure is the way out of being managed. What there is to do is read off the
// desired state, so that a crash or a power cut anywhere in it only means to go
// on:
//
//	leaving    deliver what the workloads wrote, for a while
//	withdrawn  wait until they are removed, and their last files delivered; give
//	           up what could not be; purge; empty the spool; give the
//	           credential back; have yggd restarted
//	untold     done: the device is as it was delivered, but for the volumes that
//	           are kept, see retirement, and those that were given up
type departure struct {
	store     *desired.Store
	deliver   func(context.Context) error // may take until its context ends
	follow    func(context.Context) error // waits for the sync to have let go
	workloads interface {
		Status() workload.Status
		Changed() <-chan struct{}
	}
	events    *diskq.Queue
	surrender func() error
	rebirth   rebirth
	timeout   time.Duration // of the delivery, and again of what was written last
	volumes   volumes
	purges    []purge       // once everything is removed, in this order
	step      func(string)  // nil but in tests of crashes
	again     chan struct{} // has one: the beginning could not be recorded
	log       *slog.Logger
}

// purge clears something that workloads have in common. It may be called more
// than once.
type purge struct {
	name string
	run  func(context.Context) error
}

// begin records that the device leaves. A disk that does not take it is tried
// again by Run: yggd passes a disconnect on only once.
func (d *departure) begin() {
	began, err := d.store.Leave()
	switch {
	case err != nil:
		d.log.Error("end of being managed not recorded, will try again", "err", err)
		select {
		case d.again <- struct{}{}:
		default:
		}
	case began:
		d.log.Warn("the control plane no longer manages this device")
	}
}

// idle waits until there is something to do.
func (d *departure) idle(ctx context.Context, now *desired.Snapshot) {
	select {
	case <-ctx.Done():
	case <-now.Superseded():
	case <-d.again:
		pause(ctx)
		if ctx.Err() == nil {
			d.begin()
		}
	}
}

// pause waits between two attempts.
func pause(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-time.After(departureRetry*3/4 + rand.N(departureRetry/2)):
	}
}

// Run takes every step that is to be taken, until ctx ends.
func (d *departure) Run(ctx context.Context) error {
	d.restart(ctx)
	for ctx.Err() == nil {
		now := d.store.Current()
		var err error
		switch state := now.State(); {
		case state.Leaving:
			err = d.end(ctx)
		case state.Withdrawn:
			err = d.clear(ctx)
		default:
			d.idle(ctx, now)
		}
		switch {
		case err == nil || ctx.Err() != nil:
		case errors.Is(err, identity.ErrNoRegisterCredential):
			// Asking again with the certificate of its former life, the device
			// would only be told again to leave.
			d.log.Warn("the device has left and keeps its certificate; deliver a register credential and restart yggd for it to enrol again", "err", err)
			<-ctx.Done()
		default:
			d.log.Error("departure held up, will try again", "err", err)
			pause(ctx)
		}
	}
	return nil
}

// end delivers what there is to deliver, as far as that is possible in time.
func (d *departure) end(ctx context.Context) error {
	d.passed(stepLeaving)
	delivery, cancel := context.WithTimeout(ctx, d.timeout)
	defer cancel()
	err := d.deliver(delivery)
	if ctx.Err() != nil {
		return nil // the next start tries again
	}
	if err != nil {
		d.log.Warn("not all was delivered before the device leaves", "timeout", d.timeout, "err", err)
	} else {
		d.log.Info("what was left is delivered")
	}
	d.passed(stepDelivered)
	if err := d.store.Withdraw(); err != nil {
		return err
	}
	d.passed(stepWithdrawn)
	return nil
}

// clear makes the device as it was delivered, and lets it start anew.
func (d *departure) clear(ctx context.Context) error {
	if err := d.removed(ctx); err != nil {
		return err
	}
	d.passed(stepRemoved)
	d.awaitDelivery(ctx)
	if ctx.Err() != nil {
		return nil
	}
	d.passed(stepLast)
	if err := d.relinquish(); err != nil {
		return err
	}
	d.passed(stepGivenUp)
	d.purge(ctx)
	d.passed(stepPurged)
	followed, cancel := context.WithTimeout(ctx, followTimeout)
	defer cancel()
	if err := d.follow(followed); err != nil {
		d.log.Warn("the record of synchronised files may stay", "err", err)
	}
	if err := d.emptySpool(); err != nil {
		return err
	}
	d.passed(stepSpoolGone)
	if ctx.Err() != nil {
		return nil
	}
	if err := d.surrender(); err != nil {
		return err
	}
	d.passed(stepSurrender)
	if err := d.rebirth.mark(); err != nil {
		return err
	}
	d.passed(stepMarked)
	if err := d.store.Forget(); err != nil {
		return err
	}
	d.log.Info("device has left and will ask to be managed again")
	d.passed(stepForgotten)
	d.restart(ctx)
	return nil
}

// awaitDelivery waits until what the workloads wrote while they were ended is
// delivered too, for a while.
func (d *departure) awaitDelivery(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, d.timeout)
	defer cancel()
	for {
		now := d.store.Current()
		if !slices.ContainsFunc(now.State().Retired, func(r desired.Retired) bool { return !r.Delivered }) {
			return
		}
		select {
		case <-now.Superseded():
		case <-ctx.Done():
			return
		}
	}
}

// relinquish gives up what is not delivered: nobody will have it but whoever
// comes to the device.
func (d *departure) relinquish() error {
	kept, err := d.store.Relinquish()
	for _, w := range kept {
		if there, _ := d.volumes.has(w.Name); there {
			d.log.Warn("volume stays for good: not all of it could be delivered before the device left",
				"workload", w.Name, "path", d.volumes.path(w.Name))
		}
	}
	return err
}

func (d *departure) purge(ctx context.Context) {
	for _, p := range d.purges {
		ctx, cancel := context.WithTimeout(ctx, purgeTimeout)
		if err := p.run(ctx); err != nil {
			d.log.Warn("the device leaves something behind", "what", p.name, "err", err)
		}
		cancel()
	}
}

// restart has a yggd restarted that is mute. This process ends with it.
func (d *departure) restart(ctx context.Context) {
	if err := d.rebirth.finish(ctx); err != nil && ctx.Err() == nil {
		d.log.Warn("restart yggd for the device to enrol again: it asks for nothing after a disconnect", "err", err)
	}
}

// removed waits until nothing of the workloads is left but their volumes.
func (d *departure) removed(ctx context.Context) error {
	want := d.store.Current().Digest()
	for {
		changed := d.workloads.Changed()
		if s := d.workloads.Status(); s.ConfigDigest == want && s.Settled && len(s.Workloads) == 0 {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// emptySpool drops what nobody is left to be told.
func (d *departure) emptySpool() error {
	if err := d.events.Clear(); err != nil {
		return fmt.Errorf("empty event queue: %w", err)
	}
	return nil
}

func (d *departure) passed(step string) {
	if d.step != nil {
		d.step(step)
	}
}
