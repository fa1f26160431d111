package workload

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/project-flotta/flotta-agent/internal/secret"
	"github.com/project-flotta/flotta-agent/internal/workload/manifest"
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

	began      time.Time
	did        action
	restarts   map[string]int // of each container, before it is ours to judge
	changed    bool           // something of the device was changed
	first      bool           // nothing of this workload was proven before
	rolledBack bool
}

// run looks, decides and acts. It decides by itself because what the loop saw
// may be old.
func (a *attempt) run(ctx context.Context) error {
	a.began = time.Now()
	s, err := a.r.look(ctx, a.target.name)
	if err != nil {
		return failed(ReasonUnobservable, err)
	}
	a.first = s.disk.record.Digest == ""
	a.did = a.target.decide(s)
	switch a.did {
	case actNothing:
		return nil
	case actApply:
		return a.apply(ctx)
	case actProve:
		return a.proveAndRecord(ctx)
	case actStart, actRestart:
		return a.revive(ctx)
	case actRestore:
		return a.restore(ctx)
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
	a.progress("Staging", "")
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
	a.changed = true
	if err := a.swap(ctx); err != nil {
		return a.fallBack(ctx, err)
	}
	return a.proveAndRecord(ctx)
}

// prepare does all that disturbs nothing: secrets, images, the volume's folder.
func (a *attempt) prepare(ctx context.Context) error {
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
	if err := a.r.makeVolume(a.target.name); err != nil {
		return failed(ReasonState, fmt.Errorf("make volume: %w", err))
	}
	return nil
}

// makeSecrets makes the secrets of the plan that are missing.
func (a *attempt) makeSecrets(ctx context.Context) error {
	if len(a.target.plan.Secrets) == 0 {
		return nil
	}
	there, err := a.r.cfg.Runtime.Secrets(ctx)
	if err != nil {
		return err
	}
	for _, s := range a.target.plan.Secrets {
		if slices.Contains(there, s.Name) {
			continue // its name says what it holds
		}
		if err := a.r.cfg.Runtime.CreateSecret(ctx, s.Name, s.Data); err != nil {
			return err
		}
	}
	return nil
}

// haveImage makes sure that the image is in local storage, pulled as its policy
// says. With a registry out of reach, an image that is there is good enough.
func (a *attempt) haveImage(ctx context.Context, image manifest.Image) error {
	there, err := a.r.cfg.Runtime.ImageExists(ctx, image.Reference)
	if err != nil {
		return err
	}
	if there && image.Policy != manifest.PullAlways {
		return nil
	}
	if image.Policy == manifest.PullNever {
		return fmt.Errorf("image %s is not there, and its policy is never to pull it", image.Reference)
	}
	err = a.pull(ctx, image.Reference, a.target.auth)
	if err == nil || ctx.Err() != nil {
		return err
	}
	if there {
		a.log.Warn("using local image", "image", image.Reference, "err", err)
		return nil
	}
	return err
}

// pull pulls one image; only so many run at once.
func (a *attempt) pull(ctx context.Context, reference string, auth secret.Value) error {
	a.progress("Pulling", "waiting to pull "+reference)
	if err := a.r.pulls.acquire(ctx); err != nil {
		return err
	}
	defer a.r.pulls.release()
	a.progress("Pulling", "pulling "+reference)
	began := time.Now()
	ctx, cancel := context.WithTimeout(ctx, a.r.cfg.PullTimeout)
	defer cancel()
	err := a.r.cfg.Runtime.PullImage(ctx, reference, auth, func(line string) {
		a.progress("Pulling", "pulling "+reference+": "+line)
	})
	if err == nil {
		a.log.Info("image pulled", "image", reference, "duration", time.Since(began))
	}
	return err
}

// swap makes the staged manifest the one in force and restarts the unit on it.
func (a *attempt) swap(ctx context.Context) error {
	name := a.target.name
	a.progress("Starting", "")
	if err := a.r.store.promote(name); err != nil {
		return failed(ReasonState, fmt.Errorf("swap manifest: %w", err))
	}
	a.step("swapped")
	if err := a.r.cfg.Units.Enable(ctx, name); err != nil {
		return failed(ReasonUnit, err)
	}
	a.step("enabled")
	err := a.startUnit(ctx, a.r.cfg.Units.Restart)
	a.step("restarted")
	return err
}

// startUnit starts or restarts the unit; only so many do at once.
func (a *attempt) startUnit(ctx context.Context, start func(context.Context, string) error) error {
	if err := a.r.starts.acquire(ctx); err != nil {
		return err
	}
	defer a.r.starts.release()
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
	err := a.r.store.record(plan.Name, record{
		Digest: plan.Digest, ManifestSum: a.target.sum,
		RestartPolicy: plan.RestartPolicy, AppliedAt: time.Now().UTC(),
	})
	if err != nil {
		// It runs, which is what matters: the next attempt proves it again.
		return failed(ReasonState, fmt.Errorf("record applied manifest: %w", err))
	}
	a.step("recorded")
	return nil
}

// revive makes the proven manifest run again.
func (a *attempt) revive(ctx context.Context) error {
	a.changed = true
	if err := a.makeSecrets(ctx); err != nil {
		return failed(ReasonSecret, err)
	}
	if err := a.r.makeVolume(a.target.name); err != nil {
		return failed(ReasonState, fmt.Errorf("make volume: %w", err))
	}
	if err := a.r.cfg.Units.Enable(ctx, a.target.name); err != nil {
		return failed(ReasonUnit, err)
	}
	start := a.r.cfg.Units.Start
	if a.did == actRestart {
		start = a.r.cfg.Units.Restart
	}
	return a.startUnit(ctx, start)
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
