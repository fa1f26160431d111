package osupdate

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"golang.org/x/sys/unix"

	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// busyPause is how long to wait before looking again whether somebody else is
// done, and confirmPause, whether the device is healthy.
const (
	busyPause    = 15 * time.Second
	confirmPause = 5 * time.Second
)

// Reasons of events.
const (
	reasonStaged      = "OSUpdateStaged"
	reasonRebooting   = "OSUpdateRebooting"
	reasonBooted      = "OSUpdateBooted"
	reasonSucceeded   = "OSUpdateSucceeded"
	reasonFailed      = "OSUpdateFailed"
	reasonInterrupted = "OSUpdateInterrupted"
	reasonHeldUp      = "OSUpdateHeldUp"
)

// notDown is the problem for as long as a reboot was asked for in vain.
const notDown = "the machine was asked for a reboot into another operating system and did not go down; it is asked again"

// result is what a round comes to.
type result struct {
	note, problem string
	wait          time.Duration // until the next round; 0: Resync
}

// round looks at the host once, and takes the steps that are to be taken.
func (r *Reconciler) round(ctx context.Context, w want) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	out, err := r.step(ctx, w)
	switch {
	case ctx.Err() != nil:
		return 0 // there is something newer to do, or nothing any more
	case err != nil:
		out = result{problem: clip(err.Error(), 2*maxError), wait: pause(r.cfg.Retry, r.failures)}
		r.failures++
	default:
		r.failures = 0
	}
	r.publish(out)
	if out.wait == 0 {
		return r.cfg.Resync
	}
	return out.wait
}

// pause grows from first to an hour, and differs from device to device.
func pause(first time.Duration, failures int) time.Duration {
	d := min(first<<min(failures, 10), max(maxRetry, first))
	return d*4/5 + rand.N(d*2/5+1)
}

// prepare reads what was persisted, once, and returns the id of this boot.
func (r *Reconciler) prepare() (boot string, err error) {
	if !r.loaded {
		if r.rec, err = loadRecord(r.cfg.Path, r.cfg.Log); err != nil {
			return "", err
		}
		r.loaded = true
	}
	return r.boot()
}

func (r *Reconciler) step(ctx context.Context, w want) (result, error) {
	boot, err := r.prepare()
	if err != nil {
		return result{}, err
	}
	if out, wait, err := r.aftermath(ctx, boot); err != nil || wait {
		return out, err
	}
	system, err := r.look(ctx, w, boot)
	switch {
	case errors.Is(err, ErrNoTool) && w.Goal == (Goal{}):
		return result{}, nil
	case errors.Is(err, ErrNoTool):
		return result{}, fmt.Errorf("operating system is not updated: %w", err)
	case err != nil:
		return result{}, err
	}
	r.system = system
	if err := r.judge(system, boot); err != nil {
		return result{}, err
	}
	if !w.managed {
		return result{}, nil
	}
	return r.pursue(ctx, w, system, boot)
}

// look returns what there is on the host. While it is waited for the device to be
// healthy, which is asked for every few seconds, that is what was seen before.
func (r *Reconciler) look(ctx context.Context, w want, boot string) (System, error) {
	if r.rec.Phase == PhaseConfirming && r.rec.Boot == boot && r.rec.Goal == w.Goal && r.system.Booted.ID == r.rec.ID {
		return r.system, nil
	}
	return r.cfg.Target.Read(ctx)
}

// pursue moves the host one step or more towards what is wanted.
func (r *Reconciler) pursue(ctx context.Context, w want, system System, boot string) (result, error) {
	if err := w.check(system.Images); err != nil {
		return result{}, fmt.Errorf("operating system is not updated: %w", err)
	}
	id := w.id(system.Images)
	if w.Goal != r.rec.Goal {
		// What comes next is decided by a fresh look.
		return result{wait: time.Nanosecond}, r.turn(ctx, w.Goal, id, system, boot)
	}
	next, pending := system.next()
	switch {
	case id == "" || system.Booted.ID == id:
		if err := r.cfg.Target.Source(ctx, w.Goal); err != nil {
			return result{}, err
		}
		if id == "" {
			return result{}, nil
		}
		return r.arrived(boot)
	case r.rec.Failed != "":
		return result{problem: fmt.Sprintf("operating system %s failed, and is not tried again until the configuration names another one: %s", id, r.rec.Failed)}, nil
	case pending && next.ID == id:
		return r.staged(ctx, w, system, boot)
	}
	return r.stage(ctx, w, system, boot)
}

// turn makes goal the one that is pursued.
func (r *Reconciler) turn(ctx context.Context, goal Goal, id string, system System, boot string) error {
	next := r.rec
	if id == "" || id != r.rec.ID { // and not only its URL is another one
		if err := r.drop(ctx, system, boot); err != nil {
			return err
		}
		next = record{Phase: PhaseIdle, ID: id, From: system.Booted.ID, Boot: boot}
		next.Outcome, next.Time, next.Reason = r.rec.Outcome, r.rec.Time, r.rec.Reason
	}
	next.Goal, next.Failed = goal, ""
	if err := r.keep(next); err != nil {
		return err
	}
	r.moment = moment{}
	return nil
}

// stage looks the goal up, and makes it what the next boot takes.
func (r *Reconciler) stage(ctx context.Context, w want, system System, boot string) (result, error) {
	if system.Busy != "" {
		return result{note: "waiting for somebody else who changes the operating system: " + system.Busy, wait: busyPause}, nil
	}
	if err := r.room(); err != nil {
		return result{}, err
	}
	id := w.id(system.Images)
	if err := r.cfg.Target.Lookup(ctx, w.Goal); err != nil {
		return result{}, fmt.Errorf("look up operating system %s: %w", id, err)
	}
	rec := r.rec
	rec.Phase, rec.ID, rec.From, rec.Boot, rec.Ours, rec.Key = PhaseLookedUp, id, system.Booted.ID, boot, "", ""
	if err := r.keep(rec); err != nil {
		return result{}, err
	}
	if err := errors.Join(r.cfg.Target.Source(ctx, w.Goal), r.notes.forget(boot)); err != nil {
		return result{}, err
	}
	// From here on there may be a deployment of ours.
	rec.Phase, rec.Ours = PhaseStaging, id
	if err := r.keep(rec); err != nil {
		return result{}, err
	}
	r.cfg.Log.Info("operating system is being fetched", "id", id)
	r.progress("operating system " + id + " is being fetched")
	if err := r.cfg.Target.Stage(ctx, w.Goal); err != nil {
		return result{}, fmt.Errorf("stage operating system %s: %w", id, err)
	}
	system, err := r.cfg.Target.Read(ctx)
	if err != nil {
		return result{}, err
	}
	r.system = system
	if next, pending := system.next(); !pending || next.ID != id {
		return result{}, fmt.Errorf("stage operating system %s: %s says that it did, but the next boot does not take it", id, system.Tool)
	}
	return r.staged(ctx, w, system, boot)
}

// staged is where the next boot takes the goal.
func (r *Reconciler) staged(ctx context.Context, w want, system System, boot string) (result, error) {
	next, _ := system.next()
	well, _ := r.cfg.Healthy()
	rec := r.rec
	if rec.Boot != boot || rec.Ours != next.ID {
		rec.Ours = "" // it is somebody else's
	}
	news := rec.Phase != PhaseStaged || rec.Key != next.Key
	rec.Phase, rec.ID, rec.From, rec.Boot, rec.Key, rec.Well = PhaseStaged, next.ID, system.Booted.ID, boot, next.Key, well
	if err := r.keep(rec); err != nil {
		return result{}, err
	}
	if err := r.notes.expect(next.Key, well); err != nil {
		return result{}, err
	}
	if news {
		r.cfg.Log.Info("operating system is staged", "id", next.ID, "version", next.Version)
		r.emit(protocol.EventInfoType, reasonStaged, "operating system "+named(next)+" is staged: the next reboot is into it")
	}
	var hold string
	if r.cfg.Hold != nil {
		hold = r.cfg.Hold()
	}
	switch left := time.Until(r.notBefore); {
	case !w.auto:
		return result{note: "operating system " + named(next) + " is staged: it runs after a reboot, which somebody has to ask for"}, nil
	case hold != "":
		return result{note: "operating system " + named(next) + " is staged, and the reboot is held back: " + hold, wait: r.cfg.Retry}, nil
	case system.Busy != "":
		return result{note: "waiting for somebody else who changes the operating system: " + system.Busy, wait: busyPause}, nil
	case left > 0:
		return result{problem: notDown, wait: left}, nil
	}
	return r.reboot(ctx, system)
}

// drop removes what was staged for a goal that is wanted no more, if it is ours.
func (r *Reconciler) drop(ctx context.Context, system System, boot string) error {
	next, pending := system.next()
	switch {
	case r.rec.Ours == "" || r.rec.Boot != boot:
		return nil
	case system.Busy != "":
		return fmt.Errorf("remove what was staged: somebody else changes the operating system: %s", system.Busy)
	case !pending || !next.Staged || next.ID != r.rec.Ours:
		return nil
	}
	if err := r.cfg.Target.Unstage(ctx); err != nil {
		return fmt.Errorf("remove what was staged: %w", err)
	}
	r.cfg.Log.Info("operating system that is wanted no more is not staged any longer", "id", next.ID)
	return nil
}

// room says when there is too little room to fetch an operating system.
func (r *Reconciler) room() error {
	if r.cfg.MinFree < 0 {
		return nil
	}
	have, err := r.free(r.cfg.Sysroot)
	if err != nil {
		return fmt.Errorf("look for room: %w", err)
	}
	if have < uint64(r.cfg.MinFree) {
		return fmt.Errorf("operating system is not fetched: %s has %d MiB free, and needs %d MiB", r.cfg.Sysroot, have>>20, r.cfg.MinFree>>20)
	}
	return nil
}

func freeBytes(path string) (uint64, error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(path, &fs); err != nil {
		return 0, fmt.Errorf("statfs %s: %w", path, err)
	}
	return fs.Bavail * uint64(fs.Bsize), nil //nolint:gosec // a block's size is above zero
}

// keep persists the record. Nothing that it names is done before.
func (r *Reconciler) keep(rec record) error {
	if rec == r.rec {
		return nil
	}
	if err := r.save(rec); err != nil {
		return fmt.Errorf("state of updates: %w", err)
	}
	r.rec = rec
	return nil
}

// progress shows what is being done. Whether a problem is over is not known yet.
func (r *Reconciler) progress(note string) {
	r.publish(result{note: note, problem: r.Status().Problem})
}

// publish shows a new status, and says so once.
func (r *Reconciler) publish(out result) {
	s := Status{
		Tool: r.system.Tool, Current: r.system.Booted.Commit, Version: r.system.Booted.Version, Phase: r.rec.Phase, Goal: r.rec.ID,
		Problem: out.problem, Note: out.note, LastStatus: r.rec.Outcome, LastTime: r.rec.Time, LastReason: r.rec.Reason,
	}
	if next, pending := r.system.next(); pending {
		s.Next = next.ID
	}
	r.board.Lock()
	old := r.status
	if s != old {
		r.status = s
		if s.Tool != "" {
			r.upgrade = r.rec.upgrade(r.system)
		}
		close(r.changed)
		r.changed = make(chan struct{})
	}
	r.board.Unlock()
	switch out.problem {
	case old.Problem:
	case "":
		r.cfg.Log.Info("operating system has no problem any more")
	default:
		r.cfg.Log.Warn("operating system is not as desired", "problem", out.problem)
		if r.rec.Failed == "" { // of a failure there was an event
			r.emit(protocol.EventWarnType, reasonHeldUp, out.problem)
		}
	}
}

func (r *Reconciler) emit(kind, reason, message string) {
	if r.cfg.Event != nil {
		r.cfg.Event(protocol.EventInfo{Type: kind, Reason: reason, Message: message})
	}
}

// named returns what a person is told of a deployment.
func named(d Deployment) string {
	if d.Version != "" {
		return d.ID + " (" + d.Version + ")"
	}
	return d.ID
}
