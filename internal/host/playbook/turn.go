package playbook

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/project-flotta/flotta-agent/internal/desired"
	"github.com/project-flotta/flotta-agent/internal/systemd"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// turn does what there is to do now, and returns when to look again.
func (r *Runner) turn(ctx context.Context, snapshot *desired.Snapshot) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	defer r.publish()
	if !managed(snapshot) {
		return noPause
	}
	wait, err := r.turns(ctx)
	switch {
	case err == nil:
		r.trouble, r.failures = nil, 0
		return wait
	case ctx.Err() != nil:
		return noPause
	}
	if r.trouble == nil || r.trouble.Error() != err.Error() {
		r.cfg.Log.Error("playbooks are held up", "err", err)
	}
	r.trouble = err
	r.failures++
	return r.cfg.Jitter(min(longPause, shortPause<<min(r.failures-1, 5)))
}

func (r *Runner) turns(ctx context.Context) (time.Duration, error) {
	if err := r.open(ctx); err != nil {
		return 0, err
	}
	if err := r.acknowledge(); err != nil {
		return 0, err
	}
	for {
		if cur := r.idx.current(); cur != nil {
			wait, over, err := r.watch(ctx, *cur)
			if err != nil || !over {
				return wait, err
			}
			continue
		}
		r.watched = ""
		next := r.idx.next()
		if next == nil {
			r.missing = nil
			return noPause, nil
		}
		if why := r.skipped(next); why != "" {
			if err := r.finish(*next, protocol.PlaybookCompletedWithError, ReasonSkipped, why); err != nil {
				return 0, err
			}
			continue
		}
		wait, begun, err := r.begin(ctx, *next)
		if err != nil || !begun {
			return wait, err
		}
	}
}

// skipped returns why the run is left out; empty: it is not.
func (r *Runner) skipped(rec *record) string {
	for _, digest := range rec.After {
		if before := r.idx.find(digest); before != nil && before.State == protocol.PlaybookCompletedWithError {
			return fmt.Sprintf("%q, which comes before it, failed", before.Name)
		}
	}
	return ""
}

// ready says whether a run can begin; if not, the run says why.
func (r *Runner) ready(rec record) (bool, error) {
	_, r.missing = r.look(r.cfg.Ansible)
	reason, message := "", ""
	switch {
	case r.cfg.Disabled:
		reason, message, r.missing = ReasonDisabled, "playbooks are switched off on this device", nil
	case r.missing != nil:
		reason, message = ReasonAnsibleMissing, r.missing.Error()
	default:
		return true, nil
	}
	if rec.Reason == reason && rec.Message == message {
		return false, nil
	}
	return false, r.change(rec.Digest, func(rec *record) { rec.enter(rec.State, reason, message) })
}

// begin starts the unit of a run. That it may have been started is on disk before
// it is.
func (r *Runner) begin(ctx context.Context, rec record) (wait time.Duration, begun bool, err error) {
	if ok, err := r.ready(rec); err != nil || !ok {
		return lookPeriod, false, err
	}
	if why := r.cfg.Hold(); why != "" {
		r.cfg.Log.Debug("playbook waits", "playbook", rec.Name, "why", why)
		return holdPeriod, false, nil
	}
	if wait := time.Until(r.notBefore); wait > 0 {
		return wait, false, nil
	}
	p, err := readPapers(r.dir(&rec))
	if err != nil {
		r.cfg.Log.Error("document of a playbook is damaged", "playbook", rec.Name, "err", err)
	}
	if p.request.Digest != rec.Digest || p.request.Playbook == "" && p.result == nil {
		return 0, true, r.finish(rec, protocol.PlaybookCompletedWithError, ReasonInterrupted, "what it was to do is lost; its file is damaged")
	}
	if !rec.Begun || rec.State != protocol.PlaybookTargetVerification || rec.Reason != "" {
		r.cfg.Event(protocol.EventInfo{Reason: "PlaybookStarted", Type: protocol.EventInfoType, Message: fmt.Sprintf("playbook %q", rec.Name)})
		err := r.change(rec.Digest, func(rec *record) {
			rec.Begun = true
			rec.enter(protocol.PlaybookTargetVerification, "", "")
		})
		if err != nil {
			return 0, false, err
		}
	}
	if p.result != nil || p.phase.State == protocol.PlaybookRunning {
		return 0, true, nil // it was begun, whatever the index says
	}
	start, cancel := context.WithTimeout(ctx, unitTimeout)
	defer cancel()
	if err := r.cfg.Units.ResetFailed(start, rec.unit()); err != nil && !errors.Is(err, systemd.ErrNotFound) {
		return 0, false, err
	}
	r.step("before the start")
	err = r.cfg.Units.Start(start, rec.unit())
	r.step("after the start")
	if err != nil {
		return 0, false, fmt.Errorf("start playbook %q: %w", rec.Name, err)
	}
	// Where a condition of the unit is not met, it ends without a word.
	r.notBefore = time.Now().Add(shortPause)
	return watchPeriod, false, nil
}

// watch looks at the run that has begun, and says whether it is over.
func (r *Runner) watch(ctx context.Context, rec record) (wait time.Duration, over bool, err error) {
	unit, err := r.cfg.Units.Unit(ctx, rec.unit())
	if err != nil && !errors.Is(err, systemd.ErrNotFound) {
		return 0, false, err
	}
	// Read after the unit: what it leaves is there when it has ended.
	p, damage := readPapers(r.dir(&rec))
	switch unit.ActiveState {
	case "active", "activating", "deactivating", "reloading":
		return r.accompany(ctx, rec, p)
	}
	if damage != nil {
		r.cfg.Log.Error("document of a playbook is damaged", "playbook", rec.Name, "err", damage)
	}
	if unit.ActiveState == "failed" {
		if err := r.cfg.Units.ResetFailed(ctx, rec.unit()); err != nil {
			return 0, false, err
		}
	}
	switch {
	case p.result != nil && p.result.Reason == ReasonAnsibleMissing:
		return r.wait(rec)
	case p.result != nil:
		return 0, true, r.conclude(rec, p, r.explain(*p.result, unit))
	case p.phase.State == protocol.PlaybookRunning:
		res := result{Ran: true, Reason: ReasonInterrupted, Message: "the power failed, or its unit was killed"}
		return 0, true, r.conclude(rec, p, r.explain(res, unit))
	case damage != nil:
		// It may have begun: nobody can tell.
		return 0, true, r.conclude(rec, p, result{Ran: true, Reason: ReasonInterrupted, Message: "what it left on disk is damaged"})
	case unit.Result != "" && unit.Result != "success":
		// It has ended before it changed anything.
		return r.again(rec, unit)
	}
	wait, begun, err := r.begin(ctx, rec)
	return wait, begun, err
}

// accompany is for a run that goes on.
func (r *Runner) accompany(ctx context.Context, rec record, p papers) (time.Duration, bool, error) {
	if r.watched != rec.instance() {
		r.watched, r.overdue = rec.instance(), false
		r.deadline = time.Now().Add(rec.Timeout + verifyTimeout + overtime)
	}
	if p.phase.State == protocol.PlaybookRunning && rec.State != protocol.PlaybookRunning {
		if err := r.change(rec.Digest, func(rec *record) { rec.enter(protocol.PlaybookRunning, "", "") }); err != nil {
			return 0, false, err
		}
	}
	if time.Now().After(r.deadline) {
		// Whoever runs it does not end it.
		r.overdue = true
		stop, cancel := context.WithTimeout(ctx, unitTimeout)
		defer cancel()
		if err := r.cfg.Units.Stop(stop, rec.unit()); err != nil {
			return 0, false, fmt.Errorf("end playbook %q: %w", rec.Name, err)
		}
	}
	return watchPeriod, false, nil
}

// explain says better than the run itself why it was interrupted.
func (r *Runner) explain(res result, unit systemd.Unit) result {
	switch {
	case res.Reason != ReasonInterrupted:
	case r.overdue || unit.Result == "timeout":
		res.Reason, res.Message = ReasonTimedOut, "it ran for too long, and was ended from outside"
	case unit.Result == "oom-kill":
		res.Reason, res.Message = ReasonOutOfMemory, "the kernel ended a process of it for want of memory"
	}
	return res
}

// wait takes a run back that found no Ansible. Nothing has been changed.
func (r *Runner) wait(rec record) (time.Duration, bool, error) {
	if err := os.Remove(filepath.Join(r.dir(&rec), resultFile)); err != nil {
		return 0, false, err
	}
	if ok, err := r.ready(rec); err != nil || !ok {
		return lookPeriod, false, err
	}
	// It is there after all, or cannot be used by who runs playbooks.
	r.notBefore = time.Now().Add(lookPeriod)
	return lookPeriod, false, nil
}

// again counts a start in vain.
func (r *Runner) again(rec record, unit systemd.Unit) (time.Duration, bool, error) {
	if rec.Starts+1 >= maxStarts {
		return 0, true, r.finish(rec, protocol.PlaybookCompletedWithError, ReasonNotStarted,
			fmt.Sprintf("its unit ended %d times before it began, last with result %s; see journalctl -u %s", maxStarts, unit.Result, rec.unit()))
	}
	if err := r.change(rec.Digest, func(rec *record) { rec.Starts++ }); err != nil {
		return 0, false, err
	}
	r.notBefore = time.Now().Add(r.cfg.Jitter(shortPause))
	return time.Until(r.notBefore), false, nil
}

// conclude ends an attempt.
func (r *Runner) conclude(rec record, p papers, res result) error {
	if res.OK {
		return r.finish(rec, protocol.PlaybookSuccessfullyCompleted, "", res.Message)
	}
	if res.Ran && rec.Strategy == protocol.StrategyRetryOnFailure && rec.Attempt <= r.cfg.Retries && p.request.Playbook != "" {
		return r.retry(rec, p.request, res)
	}
	if rec.Attempt > 1 {
		res.Message = first(fmt.Sprintf("attempt %d: %s", rec.Attempt, res.Message), maxMessage)
	}
	return r.finish(rec, protocol.PlaybookCompletedWithError, res.Reason, res.Message)
}

// retry makes the next attempt of a run that failed.
func (r *Runner) retry(rec record, req request, res result) error {
	req.Attempt = rec.Attempt + 1
	if err := r.prepare(req); err != nil {
		return err
	}
	r.cfg.Event(protocol.EventInfo{
		Reason: "PlaybookRetried", Type: protocol.EventWarnType,
		Message: fmt.Sprintf("playbook %q: attempt %d: %s: %s", rec.Name, rec.Attempt, res.Reason, res.Message),
	})
	err := r.change(rec.Digest, func(next *record) {
		next.Attempt, next.Starts = req.Attempt, 0
		next.enter(protocol.PlaybookDeploying, ReasonRetrying, first(fmt.Sprintf("attempt %d: %s: %s", rec.Attempt, res.Reason, res.Message), maxMessage))
	})
	if err != nil {
		return err
	}
	r.notBefore = time.Now().Add(r.cfg.Jitter(shortPause << min(rec.Attempt-1, 4)))
	if err := os.RemoveAll(r.dir(&rec)); err != nil {
		r.cfg.Log.Warn("files of a playbook stay", "err", err)
	}
	return nil
}

// finish ends a run. What is told of it is told before it is remembered: twice
// after a kill, and never not.
func (r *Runner) finish(rec record, state, reason, message string) error {
	r.notBefore = time.Time{}
	after := rec
	after.Begun = true
	after.enter(state, reason, message)
	r.cfg.Event(ended(&after))
	if err := r.change(rec.Digest, func(rec *record) { *rec = after }); err != nil {
		return err
	}
	r.cfg.Log.Info("playbook is over", "playbook", rec.Name, "state", state, "reason", reason)
	r.tidy(after)
	return nil
}

// tidy takes the playbook itself away, which may hold secrets, and of older runs
// everything. What does not work is tried at the next one's end.
func (r *Runner) tidy(rec record) {
	dir := r.dir(&rec)
	p, err := readPapers(dir)
	if err == nil && p.request.Playbook != "" {
		p.request.Playbook = ""
		err = p.request.save(dir, r.write)
	}
	s := stage{work: filepath.Join(dir, workDir), home: filepath.Join(dir, homeDir)}
	if err := errors.Join(err, s.clear(), r.prune()); err != nil {
		r.cfg.Log.Warn("files of a playbook stay", "playbook", rec.Name, "err", err)
	}
}

// prune removes the folders of all but the latest runs that are over.
func (r *Runner) prune() error {
	kept := 0
	var errs []error
	for i := len(r.idx.Runs) - 1; i >= 0; i-- {
		rec := &r.idx.Runs[i]
		if !rec.final() {
			continue
		}
		if kept++; kept > maxKept {
			errs = append(errs, os.RemoveAll(r.dir(rec)))
		}
	}
	return errors.Join(errs...)
}
