package workload

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/project-flotta/flotta-agent/internal/workload/manifest"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// Reasons of failures, as status and events carry them.
const (
	ReasonInvalid      = "Invalid"
	ReasonImage        = "ImagePullFailed"
	ReasonSecret       = "SecretFailed"
	ReasonState        = "StateFailed" // the agent's own files
	ReasonUnit         = "UnitFailed"
	ReasonNotStarted   = "StartFailed"
	ReasonExited       = "ContainerExited"
	ReasonNotReady     = "NotReady"
	ReasonRemoval      = "RemovalFailed"
	ReasonUnobservable = "RuntimeUnavailable"
	ReasonPort         = "PortConflict"
	ReasonName         = "NameConflict"
	ReasonMount        = "MountMissing"
	ReasonDevice       = "DeviceMissing"
	ReasonDenied       = "DeviceDenied"
	ReasonMaintenance  = "Maintenance" // an administrator wants it left alone
	ReasonStuck        = "NotAsStarted"
)

// failure is why an attempt came to nothing.
type failure struct {
	reason string
	err    error
	output []string // what the unit or the container said last
}

func (f *failure) Error() string { return f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

func failed(reason string, err error) error { return &failure{reason: reason, err: err} }

// errSuperseded cancels an attempt whose target is no longer the newest.
var errSuperseded = errors.New("superseded")

// attempt brings one workload from whatever it is to its target. It owns the
// workload while it runs.
type attempt struct {
	r      *Reconciler
	target target
	log    *slog.Logger

	began    time.Time
	seen     seen // when it began
	did      action
	restarts map[string]int // of each container, before it is ours to judge
	// images are the IDs of those that the plan is tried with, by reference, empty
	// for one that is not there. Another may get its name before this has failed.
	images map[string]string

	changed    bool // something of the device was changed
	swapped    bool // what ran before was stopped for it
	first      bool // nothing of this workload was proven before
	rolledBack bool
}

// run looks, decides and acts. It decides by itself because what the loop saw
// may be old.
func (a *attempt) run(ctx context.Context) error {
	a.began, a.images = time.Now(), map[string]string{}
	s, err := a.r.look(ctx, a.target)
	if err != nil {
		return failed(ReasonUnobservable, err)
	}
	if s.paused() {
		// What is frozen cannot be stopped either, and may be all there is to mend.
		if err := a.r.cfg.Runtime.UnpausePod(ctx, a.target.name); err != nil {
			return failed(ReasonUnobservable, err)
		}
		a.changed = true
		if s, err = a.r.look(ctx, a.target); err != nil {
			return failed(ReasonUnobservable, err)
		}
	}
	a.seen = s
	a.first = s.disk.record.Digest == ""
	a.target.stuck = a.target.stuck && s.fault() != ""
	a.target.lacking = a.r.lacks(a.target, s)
	a.did = a.target.decide(s)
	if a.did == actNothing && a.changed {
		a.did = actUnpause
	}
	err = a.act(ctx)
	if err != nil && ctx.Err() == nil && (a.did == actApply || a.did == actProve) {
		a.r.images.failed.note(ctx, a.r.cfg.Runtime, a.target.plan, a.images)
	}
	return err
}

// act does what was decided.
func (a *attempt) act(ctx context.Context) error {
	switch a.did {
	case actNothing, actUnpause:
		return nil
	case actApply:
		return a.apply(ctx)
	case actProve:
		if _, err := imageIDs(ctx, a.r.cfg.Runtime, a.target.plan, a.images); err != nil {
			return failed(ReasonUnobservable, err)
		}
		return a.proveAndRecord(ctx)
	case actStart, actRestart:
		return a.revive(ctx)
	case actRestore:
		return a.restore(ctx)
	case actFinish:
		return a.finish(ctx)
	case actRemove:
		return a.remove(ctx)
	default:
		return fmt.Errorf("unknown action %q", a.did)
	}
}

// step marks a point between two changes, where a crash is tested.
func (a *attempt) step(name string) {
	if a.r.cfg.Step != nil {
		a.r.cfg.Step(name)
	}
}

// apply goes the whole way from a rendered plan to a proven one.
func (a *attempt) apply(ctx context.Context) error {
	plan := a.target.plan
	a.step("apply-begin")
	if err := a.prepare(ctx); err != nil {
		return a.abandon(ctx, err)
	}
	if err := a.portsFree(ctx); err != nil { // again: pulling may have taken hours
		return a.abandon(ctx, err)
	}
	a.progress(protocol.ReasonStaging, "")
	if err := a.r.store.stage(plan.Name, plan.Manifest); err != nil {
		return a.abandon(ctx, failed(ReasonState, fmt.Errorf("stage manifest: %w", err)))
	}
	a.step("staged")
	if err := a.r.store.keepPrevious(plan.Name); err != nil {
		return a.abandon(ctx, failed(ReasonState, fmt.Errorf("keep previous manifest: %w", err)))
	}
	a.step("previous-kept")
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err := a.retirePredecessor(ctx); err != nil {
		return a.abandon(ctx, err)
	}
	a.changed, a.swapped = true, true
	if err := a.swap(ctx); err != nil {
		return a.fallBack(ctx, err)
	}
	return a.proveAndRecord(ctx)
}

// prepare does all that disturbs nothing: secrets, images, the volume's folder.
func (a *attempt) prepare(ctx context.Context) error {
	if err := a.portsFree(ctx); err != nil {
		return err
	}
	if err := a.makeSecrets(ctx); err != nil {
		return failed(ReasonSecret, err)
	}
	a.step("secrets-made")
	for _, image := range a.target.plan.Images {
		if err := a.haveImage(ctx, image); err != nil {
			return failed(ReasonImage, err)
		}
	}
	a.step("images-pulled")
	return a.makeFolders(a.target.plan)
}

// makeFolders makes what the pod mounts of the agent's: its volume and the files
// of the plan. A zero plan has none.
func (a *attempt) makeFolders(plan manifest.Plan) error {
	if err := a.r.makeVolume(a.target.name); err != nil {
		return failed(ReasonState, fmt.Errorf("make volume: %w", err))
	}
	if err := a.r.store.makeFiles(plan, a.r.cfg.UID, a.r.cfg.GID); err != nil {
		return failed(ReasonState, fmt.Errorf("make files of config maps and secrets: %w", err))
	}
	if plan.AutoUpdate {
		if err := a.r.store.keepAuth(plan.Name, a.target.auth); err != nil {
			return failed(ReasonState, fmt.Errorf("keep registry credentials: %w", err))
		}
	}
	return nil
}

// makeSecrets makes the secrets of the plan that are missing.
func (a *attempt) makeSecrets(ctx context.Context) error {
	if len(a.target.plan.Secrets) == 0 {
		return nil
	}
	there, err := a.r.listSecrets(ctx)
	if err != nil {
		return err
	}
	for _, s := range a.target.plan.Secrets {
		if there[s.Name] {
			continue // its name says what it holds
		}
		if err := a.r.cfg.Runtime.CreateSecret(ctx, s.Name, s.Data); err != nil {
			return err
		}
	}
	return nil
}

// swap makes the staged manifest the one in force and restarts the unit on it.
func (a *attempt) swap(ctx context.Context) error {
	name := a.target.name
	a.progress(protocol.ReasonStarting, "")
	if err := a.r.store.promote(name); err != nil {
		return failed(ReasonState, fmt.Errorf("swap manifest: %w", err))
	}
	a.step("swapped")
	if err := a.setUp(ctx, a.target.settings); err != nil {
		return err
	}
	if err := a.removePredecessor(ctx); err != nil {
		return err
	}
	err := a.startUnit(ctx, a.r.cfg.Units.Restart)
	a.step("restarted")
	return err
}

// setUp gives the unit its settings and makes it start at boot.
func (a *attempt) setUp(ctx context.Context, settings UnitSettings) error {
	if err := a.r.cfg.Units.Configure(ctx, a.target.name, settings); err != nil {
		return failed(ReasonUnit, err)
	}
	a.step("configured")
	if err := a.r.cfg.Units.Enable(ctx, a.target.name); err != nil {
		return failed(ReasonUnit, err)
	}
	a.step("enabled")
	return nil
}

// startTurn is how long a start keeps others waiting. It may take far longer,
// with init containers, say; that is no reason to hold up anybody else.
const startTurn = 15 * time.Second

// startUnit starts or restarts the unit; only so many do at once.
func (a *attempt) startUnit(ctx context.Context, start func(context.Context, string) error) error {
	if err := a.r.starts.acquire(ctx); err != nil {
		return err
	}
	turn := sync.OnceFunc(a.r.starts.release)
	defer turn()
	defer time.AfterFunc(startTurn, turn).Stop()
	ctx, cancel := context.WithTimeout(ctx, a.r.cfg.StartTimeout)
	defer cancel()
	if err := start(ctx, a.target.name); err != nil {
		return &failure{reason: ReasonNotStarted, err: err, output: a.unitOutput(ctx)}
	}
	return nil
}

// proveAndRecord watches until the plan has run for the settle time, and records
// that it did.
func (a *attempt) proveAndRecord(ctx context.Context) error {
	plan := a.target.plan
	a.changed = true
	if err := a.prove(ctx, plan, a.r.cfg.Settle); err != nil {
		return a.fallBack(ctx, err)
	}
	a.step("proven")
	if err := a.r.store.record(plan.Name, newRecord(a.target)); err != nil {
		// It runs, which is what matters: the next attempt proves it again.
		return failed(ReasonState, fmt.Errorf("record applied manifest: %w", err))
	}
	a.step("recorded")
	a.sweepFiles()
	a.sweepRemains(ctx)
	return nil
}

// sweepRemains removes what starts that failed have left. It costs nothing to leave
// it to the next time.
func (a *attempt) sweepRemains(ctx context.Context) {
	if err := a.r.cfg.Runtime.RemoveRemains(ctx, a.target.name); err != nil {
		a.log.Warn("containers of starts that failed stay", "err", err)
	}
}

// sweepFiles removes the files of config maps and secrets that no manifest of the
// workload mounts any more.
func (a *attempt) sweepFiles() {
	if err := a.r.store.sweepFiles(a.target.name); err != nil {
		a.log.Warn("old files of config maps and secrets stay", "err", err)
	}
}

// revive makes the proven manifest run again.
func (a *attempt) revive(ctx context.Context) error {
	a.changed = true
	plan, settings := a.target.plan, a.target.settings
	if a.seen.disk.manifest == a.target.sum {
		if err := a.makeSecrets(ctx); err != nil {
			return failed(ReasonSecret, err)
		}
	} else { // an older one, of which no more is known than what is on the disk
		plan, settings = manifest.Plan{}, a.seen.disk.record.Unit
	}
	if err := a.makeFolders(plan); err != nil {
		return err
	}
	if err := a.setUp(ctx, settings); err != nil {
		return err
	}
	start := a.r.cfg.Units.Start
	if a.did == actRestart {
		start = a.r.cfg.Units.Restart
	}
	return a.startUnit(ctx, start)
}

// finish records that the workload came to its end, and keeps it from being
// started again at boot.
func (a *attempt) finish(ctx context.Context) error {
	a.changed = true
	done := a.seen.disk.record
	done.Completed = true
	if err := a.r.store.record(a.target.name, done); err != nil {
		return failed(ReasonState, fmt.Errorf("record end: %w", err))
	}
	a.step("finished")
	if err := a.r.cfg.Units.Disable(ctx, a.target.name); err != nil {
		return failed(ReasonUnit, err)
	}
	return nil
}

// makeVolume makes the folder behind /export, which belongs to whoever the
// root of the containers is on the host.
func (r *Reconciler) makeVolume(name string) error {
	dir := manifest.VolumeDir(r.volumesDir, name)
	if err := os.MkdirAll(r.volumesDir, 0o755); err != nil {
		return err
	}
	if _, err := os.Lstat(dir); !errors.Is(err, os.ErrNotExist) {
		return err // nil: whatever a workload or a person made of it
	}
	// No workload's name begins with a dot. The folder gets its name last, so
	// that a crash never leaves one that the containers cannot write to.
	temporary := filepath.Join(r.volumesDir, ".new-"+name)
	err := os.Mkdir(temporary, 0o755)
	if err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	if err := os.Chown(temporary, r.cfg.UID, r.cfg.GID); err != nil {
		return err
	}
	return os.Rename(temporary, dir)
}
