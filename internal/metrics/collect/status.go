package collect

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/project-flotta/flotta-agent/internal/metrics/scrape"
)

// Status is what is read and how that goes, at one moment. It is a copy.
type Status struct {
	Targets []TargetStatus // by name and URL
	// Problems are what is wrong for as long as it is so, sorted by Reason and
	// Message.
	Problems []Problem
}

// TargetStatus is the state of one target.
type TargetStatus struct {
	Name      string // such as workload/container, or node
	Kind      string // node, data-transfer, flotta-agent or workload
	URL       string // as seen from where it is; empty for a page of the agent's
	Workload  string
	Container string // empty also when it is not known whose page it is
	Interval  time.Duration

	LastScrape time.Time // zero: none yet
	Up         bool      // the last scrape worked
	LastError  string    // of the last scrape; empty: it worked
	Took       time.Duration
	Samples    int // that the last scrape kept of the target's
	// Dropped are the samples that nobody took, since the target is one.
	Dropped   int64
	DropError string // why, the last time
}

// Problem is a condition that lasts until somebody changes something.
type Problem struct {
	Reason  string // one word
	Message string // for a person
}

// Status returns the state of all targets.
func (e *Engine) Status() Status {
	e.mu.Lock()
	defer e.mu.Unlock()
	s := Status{Problems: slices.Clone(e.problems)}
	for _, r := range e.runners {
		r.mu.Lock()
		s.Targets = append(s.Targets, r.status)
		r.mu.Unlock()
		if r.unit == nil {
			continue
		}
		if p, there := r.unit.problem(); there {
			s.Problems = append(s.Problems, p)
		}
	}
	slices.SortFunc(s.Targets, func(a, b TargetStatus) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), strings.Compare(a.URL, b.URL))
	})
	slices.SortFunc(s.Problems, func(a, b Problem) int {
		return cmp.Or(strings.Compare(a.Reason, b.Reason), strings.Compare(a.Message, b.Message))
	})
	return s
}

// Changed returns a channel that is closed when there is another target, one
// went up or down, or there is another problem. What only counts is no change.
func (e *Engine) Changed() <-chan struct{} {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.changed
}

// note keeps what a scrape was like, and announces what changed; news says that
// something else did.
func (r *runner) note(now time.Time, result scrape.Result, news bool) {
	failure := ""
	if result.Err != nil {
		failure = result.Err.Error()
	}
	r.mu.Lock()
	turned := r.status.LastScrape.IsZero() || r.status.Up != (result.Err == nil)
	r.status.LastScrape, r.status.Took, r.status.Samples = now, result.Took, result.Kept
	r.status.Up, r.status.LastError = result.Err == nil, failure
	r.mu.Unlock()
	if turned {
		r.engine.cfg.Log.Info("metrics target changed", "target", r.target.name(), "url", r.target.shown(), "up", result.Err == nil, "error", failure)
	}
	if !turned && !news {
		return
	}
	r.engine.mu.Lock()
	defer r.engine.mu.Unlock()
	r.engine.announce()
}
