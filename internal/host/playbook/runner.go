package playbook

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/project-flotta/flotta-agent/internal/desired"
	"github.com/project-flotta/flotta-agent/internal/durable"
	"github.com/project-flotta/flotta-agent/internal/pulse"
	"github.com/project-flotta/flotta-agent/internal/systemd"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// Runner runs the playbooks that the control plane has for this device.
type Runner struct {
	cfg   Config
	write durable.Writer
	step  func(point string)           // called between any two steps; of tests
	look  func(string) (string, error) // for ansible-playbook
	pulse pulse.Pulse
	wake  chan struct{}

	mu     sync.Mutex // held while anything is decided or changed
	opened bool
	idx    index // as on disk
	moment

	board sync.Mutex // guards what follows
	news
}

// moment is what is not worth remembering beyond the end of the process.
type moment struct {
	missing   error     // Ansible
	trouble   error     // with the disk, or with systemd
	failures  int       // in a row, of that kind
	notBefore time.Time // the next attempt
	watched   string    // instance that runs
	deadline  time.Time // when somebody else ends it
	overdue   bool
	unlisted  []string // what is wrong with the latest list
}

// news is what others read.
type news struct {
	statuses  []protocol.PlaybookExecutionStatus
	latest    []protocol.PlaybookExecutionStatus
	problems  []string // of runs
	complaint string   // about asking
	acked     []protocol.PlaybookExecutionStatus
	changed   chan struct{}
}

func newRunner(cfg Config, write durable.Writer) *Runner {
	return &Runner{
		cfg: cfg, write: write, step: func(string) {}, look: find, pulse: pulse.New(), wake: make(chan struct{}, 1),
		news: news{changed: make(chan struct{})},
	}
}

// Run asks for playbooks and runs them until ctx ends, and then returns nil. What
// runs then goes on, and is looked after by the next Run, in this process or in
// another one.
func (r *Runner) Run(ctx context.Context) error {
	var group sync.WaitGroup
	group.Go(func() { r.asking(ctx) })
	r.turning(ctx)
	group.Wait()
	return nil
}

// Alive returns nil as soon as the loop that runs playbooks waits for what to do
// next, and an error when that does not happen before ctx ends.
func (r *Runner) Alive(ctx context.Context) error { return r.pulse.Feel(ctx) }

// turning gives one run after the other its turn.
func (r *Runner) turning(ctx context.Context) {
	for ctx.Err() == nil {
		snapshot := r.cfg.Desired.Current()
		wait := r.turn(ctx, snapshot)
		timer := time.NewTimer(max(wait, time.Millisecond))
		for waiting := true; waiting; {
			waiting = false
			select {
			case <-ctx.Done():
			case <-snapshot.Superseded():
			case <-r.wake:
			case <-timer.C:
			case <-r.pulse.Beat():
				waiting = true
			}
		}
		timer.Stop()
	}
}

// rouse makes turning look again.
func (r *Runner) rouse() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// open reads what is remembered. It may be called any number of times.
func (r *Runner) open(ctx context.Context) error {
	if r.opened {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(r.cfg.Dir), 0o755); err != nil {
		return fmt.Errorf("open playbooks: %w", err)
	}
	if err := os.Mkdir(r.cfg.Dir, 0o711); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("open playbooks: %w", err)
	}
	// Others than root have to get to the one folder that is theirs.
	if err := os.Chmod(r.cfg.Dir, 0o711); err != nil {
		return fmt.Errorf("open playbooks: %w", err)
	}
	if err := durable.Sweep(r.cfg.Dir); err != nil {
		r.cfg.Log.Warn("leftovers of an earlier run stay", "err", err)
	}
	x, note, err := loadIndex(r.cfg.Dir)
	if err != nil {
		return fmt.Errorf("open playbooks: %w", err)
	}
	if note != nil {
		r.cfg.Log.Error("state of playbooks is damaged and set aside; what ran is read from its folders", "err", note)
	}
	if err := r.clean(ctx, x); err != nil {
		return fmt.Errorf("open playbooks: %w", err)
	}
	r.idx, r.opened = x, true
	return nil
}

// clean removes the folders of runs that nobody knows.
func (r *Runner) clean(ctx context.Context, x index) error {
	names, err := instances(r.cfg.Dir)
	if err != nil {
		return err
	}
	known := map[string]bool{}
	for i := range x.Runs {
		known[x.Runs[i].instance()] = true
	}
	for _, name := range names {
		if known[name] {
			continue
		}
		if err := r.discard(ctx, name); err != nil {
			return err
		}
	}
	return nil
}

// discard removes all that there is of an attempt.
func (r *Runner) discard(ctx context.Context, name string) error {
	unit := unitPrefix + name + unitSuffix
	now, err := r.cfg.Units.Unit(ctx, unit)
	if err != nil && !errors.Is(err, systemd.ErrNotFound) {
		return err
	}
	if err == nil && now.ActiveState != "inactive" {
		stop, cancel := context.WithTimeout(ctx, unitTimeout)
		defer cancel()
		if err := r.cfg.Units.Stop(stop, unit); err != nil {
			return err
		}
		// A unit that ended well is not loaded any more.
		if err := r.cfg.Units.ResetFailed(stop, unit); err != nil && !errors.Is(err, systemd.ErrNotFound) {
			return err
		}
	}
	return os.RemoveAll(filepath.Join(r.cfg.Dir, name))
}

// commit changes what is remembered: on disk first. On an error nothing has
// changed.
func (r *Runner) commit(change func(*index)) error {
	next := r.idx.clone()
	change(&next)
	r.step("before saving")
	err := r.write.SaveDocument(filepath.Join(r.cfg.Dir, indexFile), indexKind, indexVersion, next, 0o600)
	r.step("after saving")
	if err != nil {
		return err
	}
	r.idx = next
	return nil
}

// change commits a change to one run.
func (r *Runner) change(digest string, change func(*record)) error {
	return r.commit(func(x *index) { change(x.find(digest)) })
}

func (r *Runner) dir(rec *record) string { return filepath.Join(r.cfg.Dir, rec.instance()) }

func managed(s *desired.Snapshot) bool { return s.State().Managed() }

// Clear ends what runs and removes all that there is of playbooks. It is for a
// device that leaves: call it when the desired state says so, for then Run begins
// nothing anew.
func (r *Runner) Clear(ctx context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	names, err := instances(r.cfg.Dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	for _, name := range names {
		if err := r.discard(ctx, name); err != nil {
			return fmt.Errorf("clear playbooks: %w", err)
		}
	}
	if err := os.RemoveAll(r.cfg.Dir); err != nil {
		return fmt.Errorf("clear playbooks: %w", err)
	}
	r.opened, r.idx, r.moment = false, index{}, moment{}
	r.board.Lock()
	r.acked, r.complaint = nil, ""
	r.board.Unlock()
	r.publish()
	return nil
}
