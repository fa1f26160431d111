package workload

import (
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
)

// Phases that are ours; all others are Podman's words for a pod.
const (
	PhaseDeploying = "Deploying" // an attempt is on its way
	PhaseError     = PodError    // nothing runs, and the reason says why
	PhaseExited    = "Exited"    // it ran to its end, as its restart policy allows
	PhaseStopped   = "Stopped"
	PhaseRemoving  = "Removing"
)

// Status is the state of all workloads at one time, sorted by name. It is a
// value that nobody changes.
type Status struct {
	// ConfigDigest is that of the snapshot this status is about.
	ConfigDigest string
	// Settled says that every workload was looked at since that snapshot came
	// into force, that no attempt is on its way or waiting to be repeated, and
	// that no secret of ours is left that nothing refers to.
	Settled   bool
	Workloads []State
}

// State is the state of one workload.
type State struct {
	Name    string
	Phase   string // of what runs
	Reason  string // a single word; empty when all is well
	Message string // for a person; may hold a workload's output
	Desired string // digest of what it should be; empty when that is unknown
	Applied string // digest of what was last seen to run
	// Restarts counts those by Podman since the pod was made.
	Restarts int
	Since    time.Time // of Phase and Reason
}

// board holds the status that is published.
type board struct {
	mu       sync.Mutex
	config   string
	settled  bool
	entries  map[string]State
	snapshot *Status // nil: to be made
	changed  chan struct{}
}

func newBoard() *board {
	return &board{entries: map[string]State{}, changed: make(chan struct{})}
}

// touch makes the next reader see a new status, and wakes who waits for it. The
// caller holds mu.
func (b *board) touch() {
	b.snapshot = nil
	close(b.changed)
	b.changed = make(chan struct{})
}

// set publishes the state of one workload, and keeps Since when its phase and
// reason are the old ones.
func (b *board) set(w State) {
	b.mu.Lock()
	defer b.mu.Unlock()
	old, known := b.entries[w.Name]
	w.Since = old.Since
	if !known || old.Phase != w.Phase || old.Reason != w.Reason {
		w.Since = time.Now().UTC().Truncate(time.Millisecond)
	}
	if known && old == w {
		return
	}
	b.entries[w.Name] = w
	b.touch()
}

// progress publishes what an attempt for t is at.
func (b *board) progress(t target, phase, reason, message string) {
	b.mu.Lock()
	w := b.entries[t.name]
	b.mu.Unlock()
	w.Name, w.Phase, w.Reason, w.Message, w.Desired = t.name, phase, reason, message, t.plan.Digest
	b.set(w)
}

// unobservable publishes that nothing is known of t; its phase stays what it was.
func (b *board) unobservable(name string, t target, cause error) {
	b.mu.Lock()
	w, known := b.entries[name]
	b.mu.Unlock()
	if !known {
		w.Phase = PhaseDeploying
	}
	w.Name, w.Desired = name, t.plan.Digest
	w.Reason, w.Message = ReasonUnobservable, bounded(cause.Error())
	b.set(w)
}

func (b *board) remove(name string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, known := b.entries[name]; known {
		delete(b.entries, name)
		b.touch()
	}
}

// about says which snapshot the status is about, and whether it is final.
func (b *board) about(config string, settled bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.config != config || b.settled != settled {
		b.config, b.settled = config, settled
		b.touch()
	}
}

func (b *board) status() Status {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.snapshot == nil {
		s := &Status{ConfigDigest: b.config, Settled: b.settled}
		s.Workloads = slices.SortedFunc(maps.Values(b.entries), func(x, y State) int {
			return strings.Compare(x.Name, y.Name)
		})
		b.snapshot = s
	}
	out := *b.snapshot
	out.Workloads = slices.Clone(out.Workloads)
	return out
}

func (b *board) wait() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.changed
}
