package workload

import (
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/project-flotta/flotta-agent/internal/workload/manifest"
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
	// ConfigDigest is that of the snapshot this status is about: the newest of
	// which every workload was looked at.
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
	// Images are those that its containers were made from, by container.
	Images []ImageState
	// HostPorts are those of the manifest that was applied last.
	HostPorts []manifest.HostPort
	// Notes are what a person should know although nothing is wrong, such as a
	// part of the specification that this Podman does not heed.
	Notes []string
}

// ImageState is an image in use.
type ImageState struct {
	Container string // as in the manifest
	Reference string
	ID        string
}

func (w State) equal(other State) bool {
	return w.Name == other.Name && w.Phase == other.Phase && w.Reason == other.Reason && w.Message == other.Message &&
		w.Desired == other.Desired && w.Applied == other.Applied && w.Restarts == other.Restarts &&
		w.Since.Equal(other.Since) && slices.Equal(w.Images, other.Images) &&
		slices.Equal(w.HostPorts, other.HostPorts) && slices.Equal(w.Notes, other.Notes)
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
	if known && old.equal(w) {
		return
	}
	b.entries[w.Name] = w
	b.touch()
}

// progress publishes what an attempt for t is at. What was applied before is
// told by its record, as long as nothing else is known.
func (b *board) progress(t target, applied record, phase, reason, message string) {
	b.mu.Lock()
	w, known := b.entries[t.name]
	b.mu.Unlock()
	if !known {
		w.Applied, w.HostPorts = applied.Digest, applied.HostPorts
	}
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

// unsettled says that the status is not final any more.
func (b *board) unsettled() {
	b.mu.Lock()
	config := b.config
	b.mu.Unlock()
	b.about(config, false)
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
