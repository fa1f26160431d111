package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/project-flotta/flotta-agent/internal/desired"
	"github.com/project-flotta/flotta-agent/internal/workload"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// Points of a retirement at which a crash is tested.
const (
	stepEnded     = "retire-ended"     // nothing of the workload is left but its volume
	stepSent      = "retire-sent"      // all of it is in the bucket
	stepRecorded  = "retire-delivered" // and that is on record
	stepAged      = "retire-aged"      // some of the retention is on record
	stepChecked   = "retire-checked"   // the volume is what was delivered
	stepAside     = "retire-aside"     // it is out of its place
	stepDisposed  = "retire-disposed"  // and off the list
	stepEmptying  = "retire-emptying"  // some of it is removed
	stepVolumeOut = "retire-removed"   // all of it is
)

const (
	// ageStep is how much of a retention an agent that is killed forgets at
	// most; the first steps are shorter, for devices that are on for minutes.
	ageStep      = time.Hour
	firstAgeStep = 5 * time.Minute
	// Pauses after a failure: short, because the storage may be back any time.
	retireRetry    = 15 * time.Second
	maxRetireRetry = 2 * time.Minute
	// Pauses after a removal that failed, which takes a person to mend.
	removeRetry    = time.Minute
	maxRemoveRetry = time.Hour
	// endedPoll makes up for changes that nobody tells.
	endedPoll = time.Minute
)

// Reasons of events.
const (
	reasonVolumeKept    = "VolumeKept"    // something is in the way of its removal
	reasonVolumeRemoved = "VolumeRemoved" // delivered, kept for a while, and gone
)

// retirement removes the volumes of workloads that are desired no more. What
// there is to do is read off the desired state and the folder of the volumes, so
// that a crash anywhere in it only means to go on:
//
//	retired    wait until nothing of the workload is left; deliver what is in
//	           the volume, until the storage has all of it
//	delivered  keep the volume for the retention, in time that the agent runs
//	kept       unless it was changed since: put it aside, out of reach of a
//	           workload of that name, and forget the retirement
//	aside      remove it
//
// A workload that is desired again leaves this at any point but the last, and
// has its volume as it is: the store puts a volume aside under the lock under
// which it accepts configurations.
type retirement struct {
	store     *desired.Store
	deliver   func(ctx context.Context, workload string) (stamp string, err error) // one attempt
	stamp     func(context.Context, desired.Retired) (string, error)
	workloads interface {
		Status() workload.Status
		Changed() <-chan struct{}
	}
	manifests string // has a folder for every workload of which anything is left
	volumes   volumes
	retention time.Duration
	event     func(protocol.EventInfo)
	changed   func()        // called when Problems changed
	step      func(string)  // nil but in tests of crashes
	removal   chan struct{} // has one: something was put aside
	log       *slog.Logger

	mu       sync.Mutex
	problems map[string]string // by retirement; those of what was put aside under none
}

// Problems says which volumes are kept longer than meant, and why.
func (r *retirement) Problems() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []string
	for _, p := range r.problems {
		out = append(out, p)
	}
	slices.Sort(out)
	return out
}

// Run retires workloads until ctx ends.
func (r *retirement) Run(ctx context.Context) error {
	var tasks sync.WaitGroup
	defer tasks.Wait()
	tasks.Go(func() { r.removeAside(ctx) })
	followed := map[string]context.CancelFunc{} // by retirement
	defer func() {
		for _, cancel := range followed {
			cancel()
		}
	}()
	for {
		now := r.store.Current()
		listed := map[string]bool{}
		for _, w := range now.State().Retired {
			listed[w.ID] = true
			if followed[w.ID] != nil {
				continue
			}
			one, cancel := context.WithCancel(ctx)
			followed[w.ID] = cancel
			tasks.Go(func() { r.follow(one, w) })
		}
		for id, cancel := range followed {
			if !listed[id] {
				cancel()
				delete(followed, id)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-now.Superseded():
		}
	}
}

// follow takes one workload all the way, until it is void or ctx ends.
func (r *retirement) follow(ctx context.Context, w desired.Retired) {
	defer r.solved(w.ID)
	step := firstAgeStep
	for failures := 0; ctx.Err() == nil; {
		now := r.store.Current()
		err := r.advance(ctx, w, step)
		switch {
		case errors.Is(err, desired.ErrNotRetired):
			return
		case ctx.Err() != nil:
		case err != nil:
			r.problem(w.ID, w.Name, fmt.Sprintf("volume of %s is kept: %v", w.Name, err))
			r.rest(ctx, now, failures)
			failures++
		default:
			r.solved(w.ID)
			failures, step = 0, min(2*step, ageStep)
		}
	}
}

// advance takes the next step of w.
func (r *retirement) advance(ctx context.Context, w desired.Retired, ageStep time.Duration) error {
	k, ok := r.store.Keeping(w)
	switch {
	case !ok:
		return desired.ErrNotRetired
	case !k.Delivered:
		return r.hand(ctx, w)
	case k.Kept < r.retention:
		return r.age(ctx, w, min(r.retention-k.Kept, ageStep))
	default:
		return r.dispose(ctx, w, k)
	}
}

// hand delivers the volume when nothing writes to it any more.
func (r *retirement) hand(ctx context.Context, w desired.Retired) error {
	if err := r.ended(ctx, w.Name); err != nil {
		return err
	}
	r.passed(stepEnded)
	stamp, err := r.deliver(ctx, w.Name)
	if err != nil {
		return err
	}
	r.passed(stepSent)
	if err := r.store.Delivered(w, stamp); err != nil {
		return err
	}
	r.log.Info("volume of a removed workload is delivered", "workload", w.Name, "retention", r.retention)
	r.passed(stepRecorded)
	return nil
}

// ended waits until nothing of the workload is left but its volume.
func (r *retirement) ended(ctx context.Context, name string) error {
	for {
		changed := r.workloads.Changed()
		if r.hasEnded(name) {
			return nil
		}
		select {
		case <-changed:
		case <-time.After(endedPoll):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// hasEnded asks twice: the list of the workloads is empty before the first look
// at them, but the folder of a workload is what is removed last.
func (r *retirement) hasEnded(name string) bool {
	now := r.store.Current()
	if now.Digest() == "" || now.State().Leaving {
		return false // what there is, is left alone
	}
	s := r.workloads.Status()
	if s.ConfigDigest != now.Digest() ||
		slices.ContainsFunc(s.Workloads, func(w workload.State) bool { return w.Name == name }) {
		return false
	}
	_, err := os.Lstat(filepath.Join(r.manifests, name))
	return errors.Is(err, os.ErrNotExist)
}

// age waits for a part of the retention, and records as much as has passed. The
// clock of the wall has no say in it: it may jump by years.
func (r *retirement) age(ctx context.Context, w desired.Retired, part time.Duration) error {
	began := time.Now()
	select {
	case <-ctx.Done():
	case <-time.After(part):
	}
	if err := r.store.Age(w, time.Since(began)); err != nil {
		return err
	}
	r.passed(stepAged)
	return nil
}

// dispose takes a volume that was kept long enough out of its place.
func (r *retirement) dispose(ctx context.Context, w desired.Retired, k desired.Keeping) error {
	there, err := r.volumes.has(w.Name)
	if err != nil {
		return err
	}
	if there {
		stamp, err := r.stamp(ctx, w)
		if err != nil {
			return err
		}
		if stamp != k.Stamp {
			return r.changedSince(w)
		}
	}
	r.passed(stepChecked)
	err = r.store.Dispose(w, func() error {
		defer r.passed(stepAside)
		return r.volumes.setAside(w.Name, w.ID)
	})
	if err != nil {
		return err
	}
	r.passed(stepDisposed)
	select {
	case r.removal <- struct{}{}:
	default:
	}
	r.log.Info("volume of a removed workload goes", "workload", w.Name)
	r.event(protocol.EventInfo{
		Reason: reasonVolumeRemoved, Type: protocol.EventInfoType,
		Message: fmt.Sprintf("workload %s: its volume was kept for %s and is removed", w.Name, r.retention),
	})
	return nil
}

// changedSince has a volume delivered once more that somebody wrote to, or left
// alone for good when nobody is there to take it.
func (r *retirement) changedSince(w desired.Retired) error {
	now := r.store.Current()
	if state := now.State(); now.Digest() == "" || state.Withdrawn && state.Storage == nil {
		r.log.Warn("volume of a removed workload was changed, and there is nobody to deliver it to; it stays",
			"workload", w.Name, "path", r.volumes.path(w.Name))
		return r.store.Abandon(w)
	}
	r.log.Info("volume of a removed workload was changed, and is delivered again", "workload", w.Name)
	return r.store.Undelivered(w)
}

// removeAside removes what was put aside, now and by runs that were killed.
func (r *retirement) removeAside(ctx context.Context) {
	for failures := 0; ctx.Err() == nil; {
		err := r.volumes.removeAside(ctx, r.passed)
		var again <-chan time.Time
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			r.problem("", "", fmt.Sprintf("removed volumes are not all gone: %v", err))
			again = time.After(min(removeRetry<<min(failures, 10), maxRemoveRetry))
			failures++
		default:
			r.solved("")
			failures = 0
			r.passed(stepVolumeOut)
		}
		select {
		case <-ctx.Done():
		case <-r.removal:
		case <-again:
		}
	}
}

// rest waits before the next attempt; a new snapshot may be what was missing.
func (r *retirement) rest(ctx context.Context, tried *desired.Snapshot, failures int) {
	d := min(retireRetry<<min(failures, 10), maxRetireRetry)
	select {
	case <-ctx.Done():
	case <-tried.Superseded():
	case <-time.After(d*3/4 + rand.N(d/2)):
	}
}

// problem publishes what is in the way, and reports the first of it.
func (r *retirement) problem(id, name, text string) {
	r.mu.Lock()
	before, known := r.problems[id]
	if r.problems == nil {
		r.problems = map[string]string{}
	}
	r.problems[id] = text
	r.mu.Unlock()
	if !known {
		r.log.Warn("volume of a removed workload stays for now", "workload", name, "problem", text)
		r.event(protocol.EventInfo{Reason: reasonVolumeKept, Type: protocol.EventWarnType, Message: text})
	}
	if before != text {
		r.changed()
	}
}

func (r *retirement) solved(id string) {
	r.mu.Lock()
	_, known := r.problems[id]
	delete(r.problems, id)
	r.mu.Unlock()
	if known {
		r.changed()
	}
}

func (r *retirement) passed(step string) {
	if r.step != nil {
		r.step(step)
	}
}
