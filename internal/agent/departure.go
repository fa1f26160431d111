package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
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
	stepSpoolGone  = "leave-spool-gone"
	stepSurrender  = "leave-credential-back"
	stepMarked     = "leave-restart-marked"
	stepForgotten  = "leave-forgotten"
	departureRetry = 10 * time.Second
	// followTimeout bounds the wait for the sync's index, which is a cache: a
	// full disk must not keep a device from leaving.
	followTimeout = 15 * time.Second
)

// departure is the way out of being managed. What there is to do is read off the
// desired state, so that a crash or a power cut anywhere in it only means to go
// on:
//
//	leaving    deliver what the workloads wrote, for a while
//	withdrawn  wait until they are removed; empty the spool; give the
//	           credential back; have yggd restarted
//	untold     done: the device is as it was delivered, with its volumes
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
	timeout   time.Duration // of the delivery
	step      func(string)  // nil but in tests of crashes
	again     chan struct{} // has one: the beginning could not be recorded
	log       *slog.Logger
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
		d.log.Warn("not all was delivered before the device leaves; it stays in the volumes", "timeout", d.timeout, "err", err)
	} else {
		d.log.Info("last files delivered")
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
	for {
		entries, err := d.events.Read(maxSpoolRead)
		if err == nil && len(entries) > 0 {
			err = d.events.Ack(entries[len(entries)-1].Seq)
		}
		if err != nil {
			return fmt.Errorf("empty event queue: %w", err)
		}
		if len(entries) == 0 {
			return nil
		}
	}
}

const maxSpoolRead = 1000

func (d *departure) passed(step string) {
	if d.step != nil {
		d.step(step)
	}
}
