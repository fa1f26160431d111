package playbook

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/project-flotta/flotta-agent/internal/durable"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// sift returns the entries of a list that can be spoken of, and what is wrong
// with the others.
func sift(list []protocol.PlaybookExecution) (entries []protocol.PlaybookExecution, wrong []string) {
	names := map[string]bool{}
	for i, e := range list {
		switch err := checkName(e.Name); {
		case err != nil:
			wrong = append(wrong, fmt.Sprintf("playbook %d of the list %s", i+1, err))
		case names[e.Name]:
			wrong = append(wrong, fmt.Sprintf("playbook %q is in the list twice; the first one counts", e.Name))
		case len(entries) == maxRuns:
			return entries, append(wrong, fmt.Sprintf("the list has more than %d playbooks; those after them are not run", maxRuns))
		default:
			names[e.Name] = true
			entries = append(entries, e)
		}
	}
	return entries, wrong
}

// take makes the list what is to be run. After an error it is as if it had not
// come.
func (r *Runner) take(ctx context.Context, list []protocol.PlaybookExecution) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !managed(r.cfg.Desired.Current()) {
		return nil
	}
	if err := r.open(ctx); err != nil {
		return err
	}
	entries, wrong := sift(list)
	t := taking{r: r, next: r.idx.clone()}
	if err := t.all(entries); err != nil {
		return err
	}
	wrong = append(wrong, t.wrong...)
	if !slices.Equal(wrong, r.unlisted) && len(wrong) > 0 {
		r.cfg.Log.Warn("playbooks are left out", "problems", wrong)
	}
	r.unlisted = wrong
	if !t.changed() {
		r.publish()
		return nil
	}
	for _, e := range t.events {
		r.cfg.Event(e)
	}
	if err := r.commit(func(x *index) { *x = t.next }); err != nil {
		return err
	}
	for _, name := range t.dropped {
		if err := os.RemoveAll(filepath.Join(r.cfg.Dir, name)); err != nil {
			r.cfg.Log.Warn("files of a playbook stay", "err", err)
		}
	}
	r.publish()
	r.rouse()
	return nil
}

// taking is a list while it is taken in.
type taking struct {
	r       *Runner
	next    index
	wrong   []string
	events  []protocol.EventInfo
	dropped []string // instances that wait no more
}

func (t *taking) all(entries []protocol.PlaybookExecution) error {
	digests := map[string]bool{}
	for _, e := range entries {
		digests[digestOf(e)] = true
	}
	for i := range t.next.Runs {
		t.next.Runs[i].Listed = digests[t.next.Runs[i].Digest]
	}
	// What was not begun and is asked for no more is nobody's: so is what another
	// one of the same name replaces.
	t.next.Runs = slices.DeleteFunc(t.next.Runs, func(rec record) bool {
		drop := rec.waiting() && !rec.Listed
		if drop {
			t.dropped = append(t.dropped, rec.instance())
		}
		return drop
	})
	stops := map[string][]string{} // digests, by configuration
	for order, e := range entries {
		digest := digestOf(e)
		after := slices.Clone(stops[e.Config])
		if e.Config != "" && e.Strategy == protocol.StrategyStopOnFailure {
			stops[e.Config] = append(stops[e.Config], digest)
		}
		if rec := t.next.find(digest); rec != nil {
			rec.Order = order
			if rec.waiting() {
				rec.After = union(rec.After, after)
			}
			continue
		}
		if err := t.one(e, record{
			Name: e.Name, ID: e.ID, Config: e.Config, Strategy: e.Strategy, Digest: digest,
			Order: order, After: after, Listed: true,
		}); err != nil {
			return err
		}
	}
	return nil
}

// union keeps what was said of earlier lists: a run that is over may be in none.
func union(a, b []string) []string {
	for _, s := range b {
		if !slices.Contains(a, s) {
			a = append(slices.Clip(a), s)
		}
	}
	return a[max(0, len(a)-maxRuns):]
}

// one takes in what was not there before.
func (t *taking) one(e protocol.PlaybookExecution, rec record) error {
	if !t.next.room() {
		t.wrong = append(t.wrong, fmt.Sprintf("playbook %q waits: the device remembers %d others", e.Name, maxRuns))
		return nil
	}
	req, err := t.r.cfg.newRequest(e)
	if err != nil {
		rec.ID, rec.Config = first(rec.ID, maxText), first(rec.Config, maxText)
		rec.enter(protocol.PlaybookCompletedWithError, ReasonInvalidPlaybook, first(err.Error(), maxMessage))
		t.events = append(t.events, ended(&rec))
		t.next.add(rec)
		return nil
	}
	if t.next.bytes()+len(req.Playbook) > maxWaiting {
		t.wrong = append(t.wrong, fmt.Sprintf("playbook %q waits: those before it have %d MiB", e.Name, maxWaiting>>20))
		return nil
	}
	rec.Attempt, rec.Timeout, rec.Bytes = 1, req.Timeout, len(req.Playbook)
	rec.enter(protocol.PlaybookDeploying, "", "")
	if err := t.r.prepare(req); err != nil {
		return err
	}
	t.next.add(rec)
	return nil
}

// changed reports whether there is something to save.
func (t *taking) changed() bool {
	return t.next.Seq != t.r.idx.Seq || !slices.EqualFunc(t.next.Runs, t.r.idx.Runs, func(a, b record) bool {
		return a.Digest == b.Digest && a.Order == b.Order && a.Listed == b.Listed && slices.Equal(a.After, b.After)
	})
}

// prepare puts the request of an attempt on disk.
func (r *Runner) prepare(req request) error {
	dir := filepath.Join(r.cfg.Dir, instance(req.Digest, req.Attempt))
	r.step("before the folder")
	if err := os.Mkdir(dir, 0o711); err != nil && !os.IsExist(err) {
		return err
	}
	if err := os.Chmod(dir, 0o711); err != nil {
		return err
	}
	r.step("before the request")
	if err := req.save(dir, r.write); err != nil {
		return err
	}
	r.step("after the request")
	return durable.SyncDir(r.cfg.Dir)
}

// ended is the event of a run that is over.
func ended(rec *record) protocol.EventInfo {
	name := fmt.Sprintf("playbook %q", rec.Name)
	if rec.State == protocol.PlaybookSuccessfullyCompleted {
		return protocol.EventInfo{Reason: "PlaybookSucceeded", Type: protocol.EventInfoType, Message: strings.TrimSpace(name + " " + rec.Message)}
	}
	return protocol.EventInfo{Reason: "PlaybookFailed", Type: protocol.EventWarnType, Message: name + ": " + rec.Reason + ": " + rec.Message}
}
