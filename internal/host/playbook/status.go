package playbook

import (
	"fmt"
	"reflect"
	"slices"

	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// Statuses returns what heartbeats say of playbooks: of all that wait or run, and
// of those that are over as long as the control plane asks for them, or does not
// know. The order is that in which they came; of two of one name, the later one
// is the one in force.
func (r *Runner) Statuses() []protocol.PlaybookExecutionStatus {
	r.board.Lock()
	defer r.board.Unlock()
	return slices.Clone(r.statuses)
}

// Latest returns how the latest runs stand, also those whose end was delivered and
// that nobody asks for any more: what a person at the device wants to know. The
// order is that in which they came.
func (r *Runner) Latest() []protocol.PlaybookExecutionStatus {
	r.board.Lock()
	defer r.board.Unlock()
	return slices.Clone(r.latest)
}

// Problems returns why playbooks are not run that should be; none: they are.
func (r *Runner) Problems() []string {
	r.board.Lock()
	defer r.board.Unlock()
	out := slices.Clone(r.problems)
	if r.complaint != "" {
		out = append(out, r.complaint)
	}
	return out
}

// Busy returns why the machine had better not be rebooted now: a playbook runs, for
// MaxTimeout at most. Empty: none does.
func (r *Runner) Busy() string {
	r.board.Lock()
	defer r.board.Unlock()
	for _, s := range r.statuses {
		switch s.Status {
		case protocol.PlaybookRunning, protocol.PlaybookTargetVerification:
			if s.Reason == "" { // it waits for nothing
				return fmt.Sprintf("playbook %q runs", s.Name)
			}
		}
	}
	return ""
}

// Changed returns a channel that is closed as soon as Statuses or Problems returns
// something else than it does now. Take it before them, and no change is missed.
func (r *Runner) Changed() <-chan struct{} {
	r.board.Lock()
	defer r.board.Unlock()
	return r.changed
}

// Delivered says that the control plane has taken in these statuses, which
// Statuses returned. It does not block.
func (r *Runner) Delivered(statuses []protocol.PlaybookExecutionStatus) {
	r.board.Lock()
	for _, s := range statuses {
		if len(r.acked) < 2*maxRuns { // others are told again
			r.acked = append(r.acked, s)
		}
	}
	some := len(r.acked) > 0
	r.board.Unlock()
	if some {
		r.rouse()
	}
}

// acknowledge remembers what was delivered.
func (r *Runner) acknowledge() error {
	r.board.Lock()
	acked := r.acked
	r.acked = nil
	r.board.Unlock()
	if !slices.ContainsFunc(r.idx.Runs, func(rec record) bool { return rec.told(acked) }) {
		return nil
	}
	err := r.commit(func(x *index) {
		for i := range x.Runs {
			x.Runs[i].Delivered = x.Runs[i].Delivered || x.Runs[i].told(acked)
		}
	})
	if err != nil {
		r.Delivered(acked)
	}
	return err
}

// told reports whether the end of the run is news that was delivered.
func (r record) told(acked []protocol.PlaybookExecutionStatus) bool {
	if !r.final() || r.Delivered {
		return false
	}
	return slices.ContainsFunc(acked, func(s protocol.PlaybookExecutionStatus) bool {
		return s.Name == r.Name && s.ID == r.ID && s.Status == r.State && s.Reason == r.Reason && s.LastDataUpload.Equal(r.status().LastDataUpload.Time)
	})
}

func (r record) status() protocol.PlaybookExecutionStatus {
	return protocol.PlaybookExecutionStatus{
		Name: r.Name, ID: r.ID, LastDataUpload: protocol.NewTime(r.Since), Status: r.State, Reason: r.Reason, Message: r.Message,
	}
}

// publish puts up what others read. It is called with mu held.
func (r *Runner) publish() {
	statuses, problems := r.collect()
	latest := make([]protocol.PlaybookExecutionStatus, 0, maxLatest)
	for _, rec := range r.idx.Runs[max(0, len(r.idx.Runs)-maxLatest):] {
		latest = append(latest, rec.status())
	}
	r.board.Lock()
	defer r.board.Unlock()
	r.latest = latest
	if reflect.DeepEqual(statuses, r.statuses) && slices.Equal(problems, r.problems) {
		return
	}
	r.statuses, r.problems = statuses, problems
	r.announce()
}

// announce is called with board held.
func (r *Runner) announce() {
	close(r.changed)
	r.changed = make(chan struct{})
}

// complain puts up what is wrong with asking; empty: nothing.
func (r *Runner) complain(problem string) {
	r.board.Lock()
	defer r.board.Unlock()
	if r.complaint == problem {
		return
	}
	r.complaint = problem
	r.announce()
}

func (r *Runner) collect() ([]protocol.PlaybookExecutionStatus, []string) {
	var statuses []protocol.PlaybookExecutionStatus
	said := 0
	for i := range r.idx.Runs {
		if rec := &r.idx.Runs[i]; !rec.final() || rec.Listed || !rec.Delivered {
			statuses = append(statuses, rec.status())
			said += len(rec.Message)
		}
	}
	if said > maxMessages {
		for i := range statuses {
			statuses[i].Message = first(statuses[i].Message, maxMessages/len(statuses))
		}
	}
	problems := slices.Clone(r.unlisted)
	if r.missing != nil {
		problems = append(problems, fmt.Sprintf("playbooks wait: %s; install ansible-core", r.missing))
	}
	if r.trouble != nil {
		problems = append(problems, "playbooks are held up: "+r.trouble.Error())
	}
	return statuses, problems
}
