package workload

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/project-flotta/flotta-agent/internal/desired"
	"github.com/project-flotta/flotta-agent/internal/workload/manifest"
)

const (
	// lookPause bounds how often everything is looked at because of wake-ups:
	// a container that exits at once makes dozens of events a second.
	lookPause = time.Second
	// shortBlindPause is the pause after a look that failed, doubled up to the limit.
	shortBlindPause = time.Second
	longBlindPause  = 30 * time.Second
	lookTimeout     = time.Minute
	// sweepTimeout is short, because the loop waits.
	sweepTimeout = 15 * time.Second
)

// entry is one workload in the loop's memory.
type entry struct {
	target target
	apply  retry                   // of the target's plan
	care   retry                   // of keeping, restoring or removing what is there
	cancel context.CancelCauseFunc // ends the attempt on its way; nil: there is none
	busy   target                  // what that attempt is for

	obstacle  *failure  // what is in the way, as of the last look; nil: nothing
	fault     string    // what is wrong with its pod, as of the last look
	faultTime time.Time // since when that is so
}

type result struct {
	attempt *attempt
	err     error
}

type look struct {
	observation
	err      error
	snapshot *desired.Snapshot // in force when it began
	pulled   map[string]bool   // workloads whose blocked plan has other images now
}

// loop is the one goroutine that decides. Everything in it is its own.
type loop struct {
	r        *Reconciler
	snapshot *desired.Snapshot
	entries  map[string]*entry

	attempts sync.WaitGroup
	results  chan result
	looks    chan look
	looking  bool
	due      time.Time // of the next look at everything
	lastLook time.Time
	blind    time.Duration // pause after a failed look; zero: the last one worked
	sweep    bool          // secrets may have become unused
	version  string        // of Podman, as of the last look
}

func newLoop(r *Reconciler) *loop {
	return &loop{r: r, entries: map[string]*entry{}, results: make(chan result), looks: make(chan look), sweep: true}
}

func (l *loop) run(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	defer l.attempts.Wait()
	defer cancel()
	l.adopt(l.r.cfg.Desired.Current())
	for {
		timer := time.NewTimer(max(1, l.advance(ctx))) // see CONTRIBUTING about timers that are due already
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-l.snapshot.Superseded():
			l.adopt(l.r.cfg.Desired.Current())
		case <-l.r.wake:
			l.lookBy(l.lastLook.Add(lookPause))
		case seen := <-l.looks:
			l.looked(ctx, seen)
		case res := <-l.results:
			l.finished(res)
		case <-l.r.pulse.Beat():
		case <-timer.C:
		}
		timer.Stop()
	}
}

// adopt makes snapshot the one in force: every attempt for something else is
// called off, and what failed is tried again at once.
func (l *loop) adopt(snapshot *desired.Snapshot) {
	l.snapshot = snapshot
	if l.handsOff() {
		l.callOff()
		return
	}
	state := snapshot.State()
	all := targets(state, manifest.Options{
		DeviceID: state.DeviceID, VolumesDir: l.r.volumesDir, WorkloadsDir: l.r.store.root,
		HideContainerPorts: l.r.cfg.HideContainerPorts, Podman: l.version, Rootless: l.r.cfg.UID != 0,
	})
	l.r.images.gc.keep(imagesOf(all)) // before any attempt begins
	for name := range all {
		if l.entries[name] == nil {
			l.entries[name] = &entry{}
		}
	}
	for name, e := range l.entries {
		t, desired := all[name]
		if !desired {
			t = target{name: name, kind: absent}
		}
		if !e.target.same(t) || !e.apply.disruptive {
			e.apply.next = time.Time{}
		}
		e.care.next = time.Time{}
		e.target = t
		l.keepAuth(t)
		if e.cancel != nil && !e.busy.same(t) {
			e.cancel(errSuperseded)
		}
	}
	l.sweep = true
	l.lookBy(time.Time{})
	l.r.board.unsettled() // and still about the snapshot before, until all was looked at
}

// keepAuth keeps the credentials of a workload up to date whose images Podman
// updates by itself. One that is not there yet gets them when it is applied.
func (l *loop) keepAuth(t target) {
	if !t.plan.AutoUpdate {
		return
	}
	if _, err := os.Stat(l.r.store.path(t.name, manifestFile)); err != nil {
		return
	}
	if err := l.r.store.keepAuth(t.name, t.auth); err != nil {
		l.r.cfg.Log.Warn("registry credentials for updates not kept", "workload", t.name, "err", err)
	}
}

// handsOff reports whether all there is, is to be left alone: nothing was ever
// desired, or the device leaves and its workloads' last files are on their way.
func (l *loop) handsOff() bool { return l.snapshot.Digest() == "" || l.snapshot.State().Leaving }

// callOff ends all attempts.
func (l *loop) callOff() {
	for _, e := range l.entries {
		if e.cancel != nil {
			e.cancel(errSuperseded)
		}
	}
	l.r.board.about(l.snapshot.Digest(), false)
}

// lookBy moves the next look at everything forward to t.
func (l *loop) lookBy(t time.Time) {
	if t.Before(l.due) {
		l.due = t
	}
}

// advance begins a look if one is due, and returns how long nothing is.
func (l *loop) advance(ctx context.Context) time.Duration {
	if l.handsOff() {
		return time.Hour
	}
	now := time.Now()
	next := l.due
	for _, e := range l.entries {
		for _, t := range []time.Time{e.apply.next, e.care.next} {
			if e.cancel == nil && t.After(l.lastLook) && t.Before(next) {
				next = t
			}
		}
	}
	if l.looking {
		return time.Hour // its end wakes the loop
	}
	if wait := next.Sub(now); wait > 0 {
		return wait
	}
	l.looking, l.lastLook, l.due = true, now, now.Add(jitter(l.r.cfg.Resync))
	snapshot, blocked := l.snapshot, l.blockedPlans(now)
	l.attempts.Go(func() {
		lookCtx, cancel := context.WithTimeout(ctx, lookTimeout)
		defer cancel()
		seen := look{snapshot: snapshot}
		if seen.observation, seen.err = l.r.observe(lookCtx); seen.err == nil {
			seen.pulled = l.r.images.failed.changed(lookCtx, l.r.cfg.Runtime, blocked)
		}
		select {
		case l.looks <- seen:
		case <-ctx.Done():
		}
	})
	return time.Hour
}

// looked takes what was seen and begins what it asks for.
func (l *loop) looked(ctx context.Context, seen look) {
	l.looking = false
	if seen.snapshot != l.snapshot {
		l.lookBy(time.Time{}) // it may lack what was removed or added since
		return
	}
	if seen.err != nil {
		l.blinded(seen.err)
		return
	}
	if l.blind > 0 {
		l.r.cfg.Log.Info("runtime is back")
	}
	l.blind = 0
	for _, name := range seen.names() {
		if l.entries[name] == nil {
			l.entries[name] = &entry{target: target{name: name, kind: absent}}
		}
	}
	if seen.version != l.version { // known at last, or upgraded: rendering depends on it
		l.version = seen.version
		l.adopt(l.snapshot)
		return
	}
	busy := false
	held := l.holdings(seen.observation)
	for _, name := range sortedKeys(l.entries) {
		e := l.entries[name]
		if seen.pulled[name] {
			e.apply.next = time.Time{}
		}
		if e.cancel == nil {
			l.consider(ctx, e, seen.of(name), held)
		}
		busy = busy || e.cancel != nil
	}
	if !busy && l.sweep {
		l.sweepSecrets(ctx)
	}
	l.publishSettled()
}

// blinded shows that nothing can be seen, and looks again soon.
func (l *loop) blinded(err error) {
	if l.blind == 0 {
		l.r.cfg.Log.Warn("runtime cannot be observed", "err", err)
	}
	l.blind = min(max(2*l.blind, shortBlindPause), longBlindPause)
	l.due = time.Now().Add(jitter(l.blind))
	for name, e := range l.entries {
		if e.cancel == nil && e.target.kind != refused {
			l.r.board.unobservable(name, e.target, err)
		}
	}
}

func (l *loop) begin(ctx context.Context, e *entry, t target) {
	attemptCtx, cancel := context.WithCancelCause(ctx)
	e.cancel, e.busy = cancel, t
	a := &attempt{r: l.r, target: t, log: l.r.cfg.Log.With("workload", t.name)}
	l.attempts.Go(func() {
		res := result{attempt: a, err: a.run(attemptCtx)}
		select {
		case l.results <- res:
		case <-ctx.Done():
		}
	})
}

// publishSettled says whether the snapshot in force is done with.
func (l *loop) publishSettled() {
	settled := !l.sweep
	for _, e := range l.entries {
		if e.cancel != nil && !e.busy.same(e.target) {
			l.r.board.unsettled() // what it shows is about the snapshot before
			return
		}
		if e.cancel != nil || e.obstacle != nil || e.apply.pending() || e.care.pending() {
			settled = false
		}
	}
	l.r.board.about(l.snapshot.Digest(), settled)
}

// sweepSecrets removes the secrets of ours that nothing refers to.
func (l *loop) sweepSecrets(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, sweepTimeout)
	defer cancel()
	if err := l.r.sweepSecrets(ctx, l.inUse()); err != nil {
		l.r.cfg.Log.Warn("unused secrets not removed", "err", err)
		return
	}
	l.sweep = false
}

// inUse returns the secrets that the targets refer to.
func (l *loop) inUse() map[string]bool {
	out := map[string]bool{}
	for _, e := range l.entries {
		for _, s := range e.target.plan.Secrets {
			out[s.Name] = true
		}
	}
	return out
}

func (r *Reconciler) sweepSecrets(ctx context.Context, inUse map[string]bool) error {
	names, err := r.listSecrets(ctx)
	if err != nil {
		return err
	}
	onDisk, err := r.store.references(r.secrets)
	if err != nil {
		return fmt.Errorf("read manifests: %w", err)
	}
	for _, name := range sortedKeys(names) {
		if !r.secrets.Ours(name) || inUse[name] || onDisk[name] {
			continue
		}
		if err := r.cfg.Runtime.RemoveSecret(ctx, name); err != nil {
			return err
		}
		r.cfg.Log.Info("unused secret removed", "secret", name)
	}
	return nil
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
