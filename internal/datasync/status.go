package datasync

import (
	"cmp"
	"slices"
	"strings"
	"sync"
	"time"
)

// direction is one of the two ways that files travel.
type direction string

const (
	egress  direction = "egress"  // from the device to the bucket
	ingress direction = "ingress" // from the bucket to the device
)

// Status is what the engine did and what it has before it, at one moment. It is
// a copy: nobody changes it.
type Status struct {
	Workloads []WorkloadStatus // by name; only those with data paths
	// IndexError says why nothing can be synchronised at all: there is no index.
	// Empty: there is one.
	IndexError string
}

// WorkloadStatus is the state of one workload's data paths.
type WorkloadStatus struct {
	Name string
	// LastUpload is when a file of this workload last arrived in the bucket,
	// also before the agent was started; zero: never.
	LastUpload time.Time
	Egress     DirectionStatus
	Ingress    DirectionStatus
}

// DirectionStatus is the state of one direction of one workload. Files and Bytes
// count since the agent was started; the other counts are those of the newest
// cycle.
type DirectionStatus struct {
	Files int64         // transferred
	Bytes int64         // transferred
	Spent time.Duration // on what was transferred, all transfers added up
	// Pending files are to be transferred, now or when they have settled; those
	// that are under way are among them.
	Pending      int64
	PendingBytes int64 // as far as the sizes are known
	Flying       []Transfer
	Failed       int64 // files whose transfer failed and is tried again
	Skipped      int64 // symbolic links, devices, sockets and FIFOs
	Refused      int64 // names and keys that one of the two sides can't hold

	LastSuccess time.Time // end of the last cycle without a failure
	LastError   string    // of the newest cycle; empty: there was none
	// Blocked says why transfers are held back although nothing failed, such
	// as too little free space; empty: they are not.
	Blocked string
	// Paused says that the timetable lets nothing travel now, and until when;
	// empty: it does. That is as it should be, and no problem.
	Paused string
	// Problems are what is wrong with the configuration or the host for as long
	// as it is so, sorted by Reason and Message.
	Problems []Problem
}

// Transfer is one file on its way.
type Transfer struct {
	Path  string // in the volume
	Size  int64  // bytes
	Done  int64  // bytes that travelled; those of a repeated attempt count once
	Since time.Time
}

// Problem is a condition that lasts until somebody changes something.
type Problem struct {
	Reason  string // one word, one of the reasons of events
	Message string // for a person
}

// LastUpload returns when a file of the workload last arrived in the bucket;
// zero: never.
func (s Status) LastUpload(workload string) time.Time {
	for _, w := range s.Workloads {
		if w.Name == workload {
			return w.LastUpload
		}
	}
	return time.Time{}
}

// ledger is the status while it is made.
type ledger struct {
	mu        sync.Mutex
	workloads map[string]*WorkloadStatus
	uploads   map[string]time.Time // as far as the index remembers
	noIndex   string               // why there is none
}

func newLedger() *ledger {
	return &ledger{workloads: map[string]*WorkloadStatus{}, uploads: map[string]time.Time{}}
}

func (l *ledger) snapshot() Status {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := Status{IndexError: l.noIndex}
	for _, w := range l.workloads {
		s.Workloads = append(s.Workloads, w.clone())
	}
	slices.SortFunc(s.Workloads, func(a, b WorkloadStatus) int { return strings.Compare(a.Name, b.Name) })
	return s
}

// keep removes the workloads that keep no data path, and adds those that do.
func (l *ledger) keep(names map[string]bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for name := range l.workloads {
		if !names[name] {
			delete(l.workloads, name)
		}
	}
	for name := range names {
		if l.workloads[name] == nil {
			l.workloads[name] = &WorkloadStatus{Name: name, LastUpload: l.uploads[name]}
		}
	}
}

// change lets f change the state of one workload's direction, if it is still
// kept.
func (l *ledger) change(workload string, d direction, f func(*DirectionStatus)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	w := l.workloads[workload]
	switch {
	case w == nil:
	case d == egress:
		f(&w.Egress)
	default:
		f(&w.Ingress)
	}
}

// uploaded notes that a file arrived in the bucket.
func (l *ledger) uploaded(workload string, at time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.uploads[workload] = at
	if w := l.workloads[workload]; w != nil {
		w.LastUpload = at
	}
}

// index notes why there is no index, or that there is one.
func (l *ledger) index(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.noIndex = ""
	if err != nil {
		l.noIndex = err.Error()
	}
}

// restore takes over what the index remembers.
func (l *ledger) restore(uploads map[string]time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for name, at := range uploads {
		l.uploads[name] = at
		if w := l.workloads[name]; w != nil && w.LastUpload.IsZero() {
			w.LastUpload = at
		}
	}
}

// maxProblems bounds the standing problems of one direction: what somebody wrote
// into the configuration must not make the status grow without end.
const maxProblems = 16

// problems replaces the standing problems of one reason; without messages there
// are none any more. A workload that is not kept has none: say it after keep.
func (l *ledger) problems(workload string, d direction, reason string, messages []string) {
	fresh := make([]Problem, 0, len(messages))
	for _, m := range messages {
		fresh = append(fresh, Problem{Reason: reason, Message: m})
	}
	l.change(workload, d, func(s *DirectionStatus) {
		all := slices.DeleteFunc(slices.Clone(s.Problems), func(p Problem) bool { return p.Reason == reason })
		all = append(all, fresh...)
		slices.SortFunc(all, func(a, b Problem) int {
			return cmp.Or(strings.Compare(a.Reason, b.Reason), strings.Compare(a.Message, b.Message))
		})
		s.Problems = boundedProblems(slices.Compact(all))
	})
}

// boundedProblems cuts the list in a way that leaves every reason its first
// message: a reason that has very many must not hide another.
func boundedProblems(all []Problem) []Problem {
	for len(all) > maxProblems {
		counts := map[string]int{}
		for _, p := range all {
			counts[p.Reason]++
		}
		most := 0 // where the last problem of the reason that has most is
		for i, p := range all {
			if counts[p.Reason] >= counts[all[most].Reason] {
				most = i
			}
		}
		all = slices.Delete(all, most, most+1)
	}
	if len(all) == 0 {
		return nil
	}
	return all
}

// clone returns a copy that shares nothing with w.
func (w *WorkloadStatus) clone() WorkloadStatus {
	c := *w
	for _, d := range []*DirectionStatus{&c.Egress, &c.Ingress} {
		d.Flying, d.Problems = slices.Clone(d.Flying), slices.Clone(d.Problems)
	}
	return c
}

// Empty reports whether nothing is known of the direction, as of one that has no
// paths, or at which nobody has looked yet.
func (d DirectionStatus) Empty() bool {
	return d.Files == 0 && d.Bytes == 0 && d.Pending == 0 && len(d.Flying) == 0 &&
		d.Failed == 0 && d.Skipped == 0 && d.Refused == 0 && d.LastSuccess.IsZero() &&
		d.LastError == "" && d.Blocked == "" && d.Paused == "" && len(d.Problems) == 0
}
