package osupdate

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	"github.com/project-flotta/flotta-agent/internal/desired"
	"github.com/project-flotta/flotta-agent/internal/durable"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// Task is something to do before the machine is rebooted.
type Task struct {
	Name    string
	Timeout time.Duration // after which the reboot waits for it no longer; required
	Run     func(ctx context.Context) error
}

// Config is what a Reconciler needs. Desired, Path, Target, Reboot, Healthy and
// Log are required.
type Config struct {
	// Desired gives the newest snapshot.
	Desired interface{ Current() *desired.Snapshot }
	// Path is where the state of updates is kept. It has to be in a folder that
	// all deployments have in common, such as one below /var.
	Path string
	// Target is the tool that updates the host; NewHost makes the one it has.
	Target Target
	// Before is done in its order before a reboot. What fails, or takes longer
	// than it may, is told and does not keep the machine from being rebooted.
	Before []Task
	// Resume undoes what Before did, because no reboot comes of it, or because
	// it is over. It must be harmless where nothing was done; it is called again
	// until it returns nil. May be nil.
	Resume func(ctx context.Context) error
	// Reboot asks for a reboot in order (not a sudden one: what is staged would
	// be lost), and may return before the machine goes down.
	Reboot func(ctx context.Context) error
	// Healthy says whether the device does what it is to do, and if not, why. It
	// must not count what this package's Problems say.
	Healthy func() (bool, string)
	// Hold returns why the machine must not be rebooted now; empty: it may be.
	// May be nil.
	Hold  func() string
	Event func(protocol.EventInfo) // may be nil; must not block
	Log   *slog.Logger

	// GreenbootDir is shared with the scripts of greenboot;
	// /var/lib/flotta-greenboot.
	GreenbootDir string
	// Sysroot is on the file system that deployments are on; /sysroot.
	Sysroot string
	// MinFree is how many bytes have to be free there before something is
	// fetched; 1 GiB. Negative: none.
	MinFree int64
	// MaxReboots is how often the machine is rebooted for one goal that is then
	// not there; 3.
	MaxReboots int
	// Grace is how long a new operating system may take to be healthy; 15
	// minutes. Settle is how long it has to stay so; 30 s.
	Grace, Settle time.Duration
	// RebootTimeout is how long the machine may take to go down; 10 minutes.
	RebootTimeout time.Duration
	// Resync is how often the host is looked at without a reason while something
	// is wanted of it; an hour, because looking starts the tool's daemon. Retry is the first pause after a failure,
	// which grows to an hour; one minute.
	Resync, Retry time.Duration
}

const maxRetry = time.Hour

// Status says how the operating system is. It is a value that nobody changes.
type Status struct {
	Tool    string // rpm-ostree or bootc; empty: none, or it was not asked yet
	Current string // commit, or digest of the image, that is booted
	Version string // of it, for a person
	Next    string // what the next boot takes; empty: the same
	Phase   Phase
	Goal    string // commit or image that is wanted; empty: none
	// Problem says why the operating system is not as desired; empty: there is
	// no problem. Note says what is waited for.
	Problem, Note string

	LastStatus, LastTime, LastReason string // of the last update
}

// Reconciler makes the host run the operating system that is desired.
type Reconciler struct {
	cfg   Config
	notes notes
	boot  func() (string, error)            // id of this boot
	free  func(path string) (uint64, error) // bytes
	save  func(record) error

	mu     sync.Mutex // held during a round
	loaded bool
	rec    record // what is on disk
	system System // as last seen
	moment        // of this process

	board   sync.Mutex // guards what follows
	status  Status
	upgrade *protocol.UpgradeStatus
	changed chan struct{}
}

// moment is what is not worth remembering beyond the end of the process: times
// of its own clock, which nobody sets, and counts for pauses.
type moment struct {
	resumed   bool      // Resume was called for a boot that is over
	asked     time.Time // for a reboot
	giveUps   int       // reboots that did not come
	notBefore time.Time // the next reboot
	since     time.Time // the goal is looked at whether it works
	well      time.Time // since when it does without a break
	failures  int       // rounds that failed, one after the other
}

// New returns a Reconciler; it touches nothing.
func New(cfg Config) (*Reconciler, error) {
	if err := cfg.complete(); err != nil {
		return nil, fmt.Errorf("osupdate config: %w", err)
	}
	r := &Reconciler{cfg: cfg, notes: notes{cfg.GreenbootDir}, boot: bootID, free: freeBytes, changed: make(chan struct{})}
	r.save = func(rec record) error {
		return durable.SaveDocument(cfg.Path, recordKind, recordVersion, rec, 0o600)
	}
	return r, nil
}

func (c *Config) complete() error {
	set := func(d *time.Duration, otherwise time.Duration) {
		if *d == 0 {
			*d = otherwise
		}
	}
	set(&c.Grace, 15*time.Minute)
	set(&c.Settle, 30*time.Second)
	set(&c.RebootTimeout, 10*time.Minute)
	set(&c.Resync, time.Hour)
	set(&c.Retry, time.Minute)
	c.GreenbootDir = cmp.Or(c.GreenbootDir, "/var/lib/flotta-greenboot")
	c.Sysroot = cmp.Or(c.Sysroot, "/sysroot")
	c.MinFree = cmp.Or(c.MinFree, 1<<30)
	c.MaxReboots = cmp.Or(c.MaxReboots, 3)
	switch {
	case c.Desired == nil, c.Target == nil, c.Reboot == nil, c.Healthy == nil, c.Log == nil:
		return errors.New("one of Desired, Target, Reboot, Healthy and Log is missing")
	case !filepath.IsAbs(c.Path) || !filepath.IsAbs(c.GreenbootDir) || !filepath.IsAbs(c.Sysroot):
		return errors.New("paths (Path, GreenbootDir, Sysroot) must be absolute")
	case c.Grace < 0 || c.Settle < 0 || c.RebootTimeout < 0 || c.Resync < 0 || c.Retry < 0 || c.MaxReboots < 0:
		return errors.New("a time or MaxReboots is negative")
	}
	for _, t := range c.Before {
		if t.Name == "" || t.Run == nil || t.Timeout <= 0 {
			return fmt.Errorf("task %q: Name, Run and Timeout are required", t.Name)
		}
	}
	return nil
}

// Status returns how the operating system is. It may be called at any time.
func (r *Reconciler) Status() Status {
	r.board.Lock()
	defer r.board.Unlock()
	return r.status
}

// Problems returns why the operating system is not as desired; none: it is, or
// it is being seen to.
func (r *Reconciler) Problems() []string {
	if problem := r.Status().Problem; problem != "" {
		return []string{problem}
	}
	return nil
}

// Upgrade returns what heartbeats say; nil: this host cannot be updated as a
// whole, or it was not asked yet.
func (r *Reconciler) Upgrade() *protocol.UpgradeStatus {
	r.board.Lock()
	defer r.board.Unlock()
	if r.upgrade == nil {
		return nil
	}
	upgrade := *r.upgrade
	return &upgrade
}

// Changed returns a channel that is closed as soon as Status or Upgrade returns
// something else than it does now. Take it before them, and no change is missed.
func (r *Reconciler) Changed() <-chan struct{} {
	r.board.Lock()
	defer r.board.Unlock()
	return r.changed
}

// Run reconciles until ctx ends, and then returns nil.
func (r *Reconciler) Run(ctx context.Context) error {
	for {
		snapshot := r.cfg.Desired.Current()
		wait := r.attempt(ctx, snapshot)
		timer := time.NewTimer(max(wait, time.Millisecond))
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-snapshot.Superseded():
			timer.Stop()
		case <-timer.C:
		}
	}
}

// attempt makes one round for the snapshot, and breaks it off when a newer one
// wants something else.
func (r *Reconciler) attempt(ctx context.Context, snapshot *desired.Snapshot) time.Duration {
	w := wanted(snapshot)
	inner, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for wanted(snapshot) == w {
			select {
			case <-inner.Done():
				return
			case <-snapshot.Superseded():
				snapshot = r.cfg.Desired.Current()
			}
		}
		cancel()
	}()
	wait := r.round(inner, w)
	cancel()
	<-done
	return wait
}

// Clear forgets all updates, and removes what was staged and not booted yet. It
// is for a device that leaves: call it when the desired state says so, for then
// Run begins nothing anew.
func (r *Reconciler) Clear(ctx context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	boot, err := r.prepare()
	if err != nil {
		return err
	}
	system, err := r.cfg.Target.Read(ctx)
	switch {
	case errors.Is(err, ErrNoTool):
	case err != nil:
		return err
	default:
		if err := r.drop(ctx, system, boot); err != nil {
			return err
		}
	}
	if err := errors.Join(r.notes.forget(""), removeRecord(r.cfg.Path)); err != nil {
		return err
	}
	r.rec, r.moment = record{Phase: PhaseIdle}, moment{}
	r.publish(result{})
	return nil
}
