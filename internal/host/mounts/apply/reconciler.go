package apply

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/project-flotta/flotta-agent/internal/desired"
	"github.com/project-flotta/flotta-agent/internal/durable"
	"github.com/project-flotta/flotta-agent/internal/host/mounts"
)

// Run reconciles until ctx ends, and then returns nil. It leaves the mounts: the
// workloads run on.
func (r *Reconciler) Run(ctx context.Context) error {
	// Nobody else makes such files there: what there is, a crash left.
	if err := durable.Sweep(r.cfg.UnitDir); err != nil {
		r.cfg.Log.Warn("leftovers of an earlier run stay", "err", err)
	}
	var watching sync.WaitGroup
	defer watching.Wait()
	watching.Go(func() { r.watch(ctx) })
	for due := true; ; {
		snapshot := r.cfg.Desired.Current()
		pause := r.round(ctx, snapshot, due)
		timer := time.NewTimer(max(1, pause)) // see CONTRIBUTING about timers that are due already
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-snapshot.Superseded():
			due = true
		case <-r.wake:
			due = false
		case <-timer.C:
			due = false // unless it is time
		}
		timer.Stop()
	}
}

// watch wakes Run when something is mounted or unmounted.
func (r *Reconciler) watch(ctx context.Context) {
	for {
		err := r.kernel.watch(ctx, func() {
			select {
			case r.wake <- struct{}{}:
			default:
			}
		})
		if ctx.Err() != nil {
			return
		}
		r.cfg.Log.Warn("mounts are not watched, will try again", "err", err)
		select {
		case <-ctx.Done():
			return
		case <-time.After(r.cfg.Resync):
		}
	}
}

// watched is a mount of a round: what makes the next one worth while.
type watched struct{ device, where string }

// round makes the mounts be those of the snapshot and returns when to look
// again. When it is not due, it does so only if something about them changed or
// an attempt is to be repeated.
func (r *Reconciler) round(ctx context.Context, snapshot *desired.Snapshot, due bool) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	state := snapshot.State()
	if snapshot.Digest() == "" || !state.Managed() {
		return r.cfg.Resync // nothing was told yet, or Clear ends it all
	}
	table, err := r.kernel.table()
	if err != nil {
		r.publish([]Mount{Mount{Directory: "(all)"}.with(err)})
		return shortPause
	}
	if !due && time.Since(r.full) < r.cfg.Resync && r.print == r.fingerprint(table) && !r.retryDue() {
		return r.pause()
	}
	r.full = time.Now()
	list := r.reconcile(ctx, state, table)
	if ctx.Err() != nil {
		return r.cfg.Resync // what was called off says nothing
	}
	r.publish(list)
	if table, err = r.kernel.table(); err == nil {
		r.print = r.fingerprint(table)
	}
	return r.pause()
}

// reconcile is one round with a table that could be read.
func (r *Reconciler) reconcile(ctx context.Context, state desired.State, table []mounts.Mount) []Mount {
	targets := r.plan(state.Mounts, table)
	r.watched = nil
	var list []Mount
	units, err := r.units()
	if err != nil {
		list = append(list, Mount{Directory: "(units)"}.with(err))
	}
	// What is below comes away first.
	for _, u := range slices.Backward(units) {
		if slices.ContainsFunc(targets, func(t target) bool { return t.unit == u.name }) {
			continue
		}
		r.watched = append(r.watched, watched{u.device, u.where})
		if err := r.remove(ctx, u); err != nil {
			list = append(list, u.shown().with(err))
		}
	}
	done := map[string]error{}
	for _, t := range targets {
		if t.unit != "" && t.refused == nil {
			r.watched = append(r.watched, watched{t.device, t.where})
		}
		err := r.one(ctx, t, targets, done)
		list = append(list, t.shown.with(err))
		if _, twice := done[t.unit]; !twice {
			done[t.unit] = err
		}
	}
	r.forget(targets, units)
	return list
}

// one is the part of a round that is about one target.
func (r *Reconciler) one(ctx context.Context, t target, all []target, done map[string]error) error {
	if t.refused != nil {
		return conditionf(ReasonRefused, "%s", joined(t.refused))
	}
	if parent := parentOf(all, t.where); parent != nil && done[parent.unit] != nil {
		return conditionf(ReasonFailed, "it waits for the mount at %s, which it lies below", parent.where)
	}
	return r.ensure(ctx, t)
}

// fingerprint tells two states of what the latest round was about apart, at
// the cost of looking at the devices.
func (r *Reconciler) fingerprint(table []mounts.Mount) string {
	var b strings.Builder
	for _, w := range r.watched {
		number, err := r.kernel.device(w.device)
		fmt.Fprintf(&b, "%s %s %v", w.where, number, err)
		for _, m := range table {
			if m.Directory == w.where {
				fmt.Fprintf(&b, " %s %s %s %v", m.Number, m.Options, m.FSOptions, r.kernel.alive(m))
			}
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// pause is how long nothing has to be looked at unless somebody says so.
func (r *Reconciler) pause() time.Duration {
	pause := r.cfg.Resync - time.Since(r.full)
	for _, m := range r.Status().Mounts {
		if m.Reason == ReasonNoDevice {
			pause = min(pause, devicePoll)
		}
	}
	for _, a := range r.attempts {
		if a.failed != nil {
			pause = min(pause, time.Until(a.next))
		}
	}
	return pause
}

// attempt is what became of the latest try to mount or unmount something.
type attempt struct {
	what   string // and of what
	failed error  // nil: it worked
	pause  time.Duration
	next   time.Time
}

// try runs f, unless the same thing failed a short while ago: then it returns
// that failure.
func (r *Reconciler) try(unit, what string, f func() error) error {
	a := r.attempts[unit]
	if a == nil || a.what != what {
		a = &attempt{what: what}
		r.attempts[unit] = a
	}
	if a.failed != nil && time.Now().Before(a.next) {
		return a.failed
	}
	if a.failed = f(); a.failed == nil {
		delete(r.attempts, unit)
		return nil
	}
	a.pause = min(max(shortPause, 2*a.pause), longPause)
	a.next = time.Now().Add(a.pause)
	return a.failed
}

func (r *Reconciler) retryDue() bool {
	for _, a := range r.attempts {
		if a.failed != nil && !time.Now().Before(a.next) {
			return true
		}
	}
	return false
}

// forget drops what was tried for units that are nobody's any more.
func (r *Reconciler) forget(targets []target, units []owned) {
	for name := range r.attempts {
		if !slices.ContainsFunc(targets, func(t target) bool { return t.unit == name }) &&
			!slices.ContainsFunc(units, func(u owned) bool { return u.name == name }) {
			delete(r.attempts, name)
		}
	}
}

// reached tells tests where it is, and lets them end it there.
func (r *Reconciler) reached(point string) {
	if r.step != nil {
		r.step(point)
	}
}
