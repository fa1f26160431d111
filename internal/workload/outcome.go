package workload

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/project-flotta/flotta-agent/internal/workload/manifest"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// Reasons of events.
const (
	EventStarted   = "WorkloadStarted"
	EventUpdated   = "WorkloadUpdated"
	EventFailed    = "WorkloadFailed"
	EventHeldUp    = "WorkloadHeldUp" // by another one, the host or an administrator
	EventRemoved   = "WorkloadRemoved"
	EventCompleted = "WorkloadCompleted"
	EventUnheeded  = "WorkloadPartlyUnheeded"
)

// maxMessage bounds a message of a status or an event: it travels in every
// heartbeat.
const maxMessage = 1024

// finished takes the end of an attempt.
func (l *loop) finished(res result) {
	a, name := res.attempt, res.attempt.target.name
	e := l.entries[name]
	e.cancel(nil)
	e.cancel = nil
	l.lookBy(time.Time{})
	if errors.Is(res.err, errSuperseded) || errors.Is(res.err, context.Canceled) {
		return
	}
	if res.err != nil {
		l.failed(e, a, res.err)
		return
	}
	if !a.changed {
		return
	}
	l.sweep = true
	l.r.images.gc.soon()
	switch a.did {
	case actApply, actProve:
		e.apply = retry{}
		l.succeeded(a)
	case actFinish:
		e.care = retry{}
		a.log.Info("workload completed")
		l.r.emit(protocol.EventInfoType, EventCompleted, "workload "+name+" came to its end")
	case actRemove:
		e.care = retry{}
		a.log.Info("workload removed")
		if a.target.kind != absent {
			return
		}
		l.r.emit(protocol.EventInfoType, EventRemoved, "workload "+name+" was removed")
	default:
		// Kept as the pause before the next try, should this not have lasted.
		e.care.fail(string(a.did), failure{}, l.r.cfg.RetryMin, l.r.cfg.RetryMax)
		e.care.healed = true
		a.log.Info("workload put right", "action", string(a.did))
	}
}

func (l *loop) succeeded(a *attempt) {
	name := a.target.name
	if left := notes(a.target.plan, l.version); len(left) > 0 {
		a.log.Warn("parts of the workload have no effect", "parts", left)
		l.r.emit(protocol.EventWarnType, EventUnheeded, bounded("workload "+name+": "+strings.Join(left, "; ")))
	}
	if a.first {
		a.log.Info("workload started", "digest", a.target.plan.Digest)
		l.r.emit(protocol.EventInfoType, EventStarted, "workload "+name+" was started")
		return
	}
	a.log.Info("workload updated", "digest", a.target.plan.Digest)
	l.r.emit(protocol.EventInfoType, EventUpdated, "workload "+name+" was updated")
}

// failed notes a failure and when to try again. It is an event when it is not
// the same as the time before.
func (l *loop) failed(e *entry, a *attempt, err error) {
	f := failure{reason: ReasonState, err: err}
	if known, ok := errors.AsType[*failure](err); ok {
		f.reason, f.output = known.reason, known.output
	}
	memory, key := &e.care, string(a.did)
	if a.did == actApply || a.did == actProve {
		memory, key = &e.apply, a.target.plan.Digest
	}
	repeated := memory.digest == key && memory.failures > 0 && memory.last.reason == f.reason && memory.rolledBack == a.rolledBack
	shortest, longest := l.r.cfg.RetryMin, l.r.cfg.RetryMax
	switch {
	case f.reason == ReasonPort:
		longest = min(longest, portPause) // looking costs little, and nobody tells when it is free
	case a.swapped && !a.first:
		shortest, longest = l.r.cfg.UpdateRetryMin, l.r.cfg.UpdateRetryMax
	}
	pause := memory.fail(key, f, shortest, longest)
	memory.disruptive, memory.rolledBack = a.swapped && !a.first, a.rolledBack
	l.sweep = l.sweep || a.changed
	level := slog.LevelWarn
	if repeated && f.reason == ReasonPort {
		level = slog.LevelDebug // looked at twice a minute, for months if need be
	}
	a.log.Log(context.Background(), level, "workload not as desired, will try again",
		"action", string(a.did), "reason", f.reason, "failures", memory.failures, "pause", pause, "err", err)
	if !repeated {
		text := "workload " + a.target.name + ": " + f.text()
		if a.rolledBack {
			text = "workload " + a.target.name + " was put back to what ran before: " + f.text()
		}
		l.r.emit(protocol.EventWarnType, EventFailed, text)
	}
}

// portPause is the longest pause before a taken port is looked at again.
const portPause = 30 * time.Second

// text returns the failure for a person: the error, and as much as there is
// room for of what was said last, the end of it.
func (f failure) text() string {
	if f.err == nil {
		return ""
	}
	text := bounded(f.err.Error())
	output := strings.ToValidUTF8(strings.Join(f.output, " | "), "\uFFFD")
	const lead = "; last output: "
	room := maxMessage - len(text) - len(lead)
	if output == "" || room < 80 {
		return text
	}
	if len(output) > room {
		output = "..." + strings.ToValidUTF8(output[len(output)-room+3:], "")
	}
	return text + lead + output
}

// bounded cuts text to what a message may be, and makes it valid UTF-8.
func bounded(text string) string {
	text = strings.ToValidUTF8(text, "\uFFFD")
	if len(text) <= maxMessage {
		return text
	}
	return strings.ToValidUTF8(text[:maxMessage-3], "") + "..."
}

// progress publishes what the attempt is at.
func (a *attempt) progress(reason, message string) {
	phase := PhaseDeploying
	if a.target.kind == absent {
		phase = PhaseRemoving
	}
	a.r.board.progress(a.target, a.seen.disk.record, phase, reason, bounded(message))
}

// describe returns the status of a workload with no attempt on its way.
func (l *loop) describe(e *entry, s seen) State {
	w := State{
		Name: e.target.name, Desired: e.target.plan.Digest, Applied: s.disk.record.Digest, Phase: phase(s),
		HostPorts: s.disk.record.HostPorts, Notes: append(notes(e.target.plan, l.version), l.r.images.notes.of(e.target.plan)...),
	}
	if s.pod != nil {
		for _, c := range s.pod.Containers {
			w.Restarts += c.Restarts
			name := strings.TrimPrefix(c.Name, s.pod.Workload+"-")
			w.Images = append(w.Images, ImageState{Container: name, Reference: c.Image, ID: c.ImageID})
		}
		slices.SortFunc(w.Images, func(x, y ImageState) int { return strings.Compare(x.Container, y.Container) })
	}
	w.Reason, w.Message = l.reason(e, s)
	if e.obstacle == nil {
		w.Notes = append(w.Notes, l.r.deviceNotes(e.target, s)...)
	}
	return w
}

// reason returns what is not as it should be, most telling first.
func (l *loop) reason(e *entry, s seen) (reason, message string) {
	r := s.disk.record
	switch {
	case e.target.kind == invalid, e.target.kind == refused:
		return ReasonInvalid, bounded(e.target.reason)
	case e.obstacle != nil:
		return e.obstacle.reason, e.obstacle.text()
	case e.apply.digest == e.target.plan.Digest && e.apply.failures > 0:
		return e.apply.last.reason, e.apply.last.text()
	case e.care.pending() && !e.care.healed:
		return e.care.last.reason, e.care.last.text()
	case s.unit.Waiting:
		return ReasonNotStarted, fmt.Sprintf("the unit ended with result %s and will be started again", s.unit.Result)
	case e.fault != "" && time.Since(e.faultTime) >= faultPatience:
		return ReasonStuck, e.fault
	case r.Completed && s.pod != nil:
		return unsuccessful(s.pod)
	}
	return "", ""
}

// unsuccessful returns which containers of a pod that came to its end did not
// end well.
func unsuccessful(p *Pod) (reason, message string) {
	var bad []string
	for _, c := range p.Containers {
		if c.ended() && c.ExitCode != 0 {
			bad = append(bad, fmt.Sprintf("container %s ended with exit code %d", strings.TrimPrefix(c.Name, p.Workload+"-"), c.ExitCode))
		}
	}
	if len(bad) == 0 {
		return "", ""
	}
	return ReasonExited, bounded(strings.Join(bad, "; "))
}

// notes says which parts of the plan this Podman does not heed.
func notes(plan manifest.Plan, version string) []string {
	var out []string
	for _, f := range plan.Unheeded(version) {
		text := f.Path + " has no effect"
		if f.Since != "" {
			text += " before Podman " + f.Since
		}
		if f.Note != "" {
			text += ": " + f.Note
		}
		out = append(out, text)
	}
	return out
}

// phase names what runs.
func phase(s seen) string {
	switch {
	case s.pod != nil && s.pod.Status != "":
		return s.pod.Status
	case s.unit.Waiting, s.unit.State == UnitFailed:
		return PhaseError
	case s.unit.State == UnitInactive:
		if s.disk.proven() && s.disk.record.RestartPolicy != "Always" {
			return PhaseExited
		}
		if s.disk.proven() {
			return PhaseStopped
		}
		return PhaseError
	default:
		return PhaseDeploying
	}
}
