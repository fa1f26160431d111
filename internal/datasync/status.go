package datasync

import (
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
	Files int64 // transferred
	Bytes int64 // transferred
	// Pending files are to be transferred, now or when they have settled.
	Pending int64
	Failed  int64 // files whose transfer failed and is tried again
	Skipped int64 // symbolic links, devices, sockets and FIFOs
	Refused int64 // names and keys that one of the two sides can't hold

	LastSuccess time.Time // end of the last cycle without a failure
	LastError   string    // of the newest cycle; empty: there was none
	// Blocked says why transfers are held back although nothing failed, such
	// as too little free space; empty: they are not.
	Blocked string
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
}

func newLedger() *ledger {
	return &ledger{workloads: map[string]*WorkloadStatus{}, uploads: map[string]time.Time{}}
}

func (l *ledger) snapshot() Status {
	l.mu.Lock()
	defer l.mu.Unlock()
	var s Status
	for _, w := range l.workloads {
		s.Workloads = append(s.Workloads, *w)
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
