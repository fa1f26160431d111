//go:build integration

package operator

import (
	"fmt"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/project-flotta/flotta-agent/internal/fleet"
	"github.com/project-flotta/flotta-agent/pkg/api/v1alpha1"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// A run that ended is run again when somebody raises its attempt, when what is to
// be done changes, and when it was deleted, and else never. What a device still
// says of the run before counts for nothing.
func TestRunsAreRunAgain(t *testing.T) {
	r := newRig(t)
	id := r.id("dev")
	r.device(id, map[string]string{v1alpha1.LabelDeviceByConfig: "conf"})
	c := r.config("conf", "one", "two")
	first, second := id+"-conf", id+"-conf-2"
	r.runs(first, second)
	r.finish(first, v1alpha1.PlaybookSuccessfullyCompleted)
	r.finish(second, v1alpha1.PlaybookSuccessfullyCompleted)
	r.summary(c, "Succeeded", "2 of 2 runs succeeded, 0 failed")
	r.until("the success is an event", func() error {
		if text := r.events(c.Name); !strings.Contains(text, "Normal PlaybooksSucceeded: 2 of 2 runs succeeded") {
			return fmt.Errorf("events are %q", text)
		}
		return nil
	})

	ended := r.run(first).Status.RunID
	run := r.run(first)
	r.edit(run, func() { run.Spec.ExecutionAttempt = 7 })
	run = r.begun(first, ended)
	r.take(first, protocol.PlaybookExecutionStatus{ID: ended, Status: v1alpha1.PlaybookSuccessfullyCompleted})
	if run = r.run(first); !isAt(run, v1alpha1.PlaybookDeploying) || run.Spec.ExecutionAttempt != 7 {
		t.Errorf("a report of the run before it made it %+v", run.Status)
	}
	r.finish(first, v1alpha1.PlaybookSuccessfullyCompleted)
	ended = r.run(first).Status.RunID

	for what, change := range map[string]func(s *v1alpha1.EdgePlaybookSpec){
		"a user":    func(s *v1alpha1.EdgePlaybookSpec) { s.User = "ops" },
		"a timeout": func(s *v1alpha1.EdgePlaybookSpec) { s.Playbooks[0].TimeoutSeconds = 30 },
		"a check": func(s *v1alpha1.EdgePlaybookSpec) {
			s.Playbooks[0].AnsibleOptions = &v1alpha1.AnsibleOptions{Check: true}
		},
	} {
		t.Log(what)
		r.edit(c, func() { change(c.Spec.EdgePlaybook) })
		run = r.begun(first, ended)
		r.finish(first, v1alpha1.PlaybookSuccessfullyCompleted)
		ended = run.Status.RunID
	}
	if s := r.run(first).Spec; s.User != "ops" || s.Playbook.TimeoutSeconds != 30 || !s.Playbook.AnsibleOptions.Check || s.ExecutionAttempt != 7 {
		t.Errorf("the run is of %+v", s)
	}

	r.must(r.admin.Delete(t.Context(), run))
	again := r.begun(first, ended)
	if again.UID == run.UID {
		t.Error("the run was not made anew")
	}
	r.finish(second, v1alpha1.PlaybookSuccessfullyCompleted)
	version := r.run(second).ResourceVersion
	r.edit(c, func() { metav1.SetMetaDataLabel(&c.ObjectMeta, "some", "label") })
	r.finish(first, v1alpha1.PlaybookSuccessfullyCompleted)
	r.summary(c, "Succeeded", "2 of 2 runs succeeded, 0 failed")
	if after := r.run(second).ResourceVersion; after != version {
		t.Error("a run was written that nothing happened to")
	}
}

// Of playbooks that stop on failure those are run after all that were skipped,
// once the one before them was mended. A device that goes on skipping them is not
// asked for ever.
func TestSkippedRunsGoOn(t *testing.T) {
	r := newRig(t)
	id := r.id("dev")
	r.device(id, map[string]string{v1alpha1.LabelDeviceByConfig: "conf"})
	c := r.config("conf", "one", "two", "three")
	r.edit(c, func() { c.Spec.EdgePlaybook.Playbooks[1].ExecutionStrategy = v1alpha1.StrategyStopOnFailure })
	first, second, third, fourth := id+"-conf", id+"-conf-2", id+"-conf-3", id+"-conf-4"
	r.runs(first, second, third)
	skip := func(name string) {
		r.take(name, protocol.PlaybookExecutionStatus{Status: v1alpha1.PlaybookCompletedWithError, Reason: v1alpha1.PlaybookSkipped})
	}
	r.finish(first, v1alpha1.PlaybookSuccessfullyCompleted)
	skip(third) // a report may come in any order
	r.finish(second, v1alpha1.PlaybookCompletedWithError)
	r.summary(c, "Failed", fmt.Sprintf("1 of 3 runs succeeded, 2 failed: %s (TimedOut), %s (Skipped)", second, third))
	skipped := r.run(third).Status.RunID

	// What comes later is skipped, too, and no device need hear of it.
	r.edit(c, func() {
		c.Spec.EdgePlaybook.Playbooks = append(c.Spec.EdgePlaybook.Playbooks, v1alpha1.Playbook{Content: []byte("four")})
	})
	r.summary(c, "Failed", fmt.Sprintf("1 of 4 runs succeeded, 3 failed: %s (TimedOut), %s (Skipped), %s (Skipped)", second, third, fourth))
	if state := fleet.RunState(r.run(fourth).Status); state.Message != second+", which comes before it, failed" {
		t.Errorf("the new run says %+v", state)
	}
	r.edit(c, func() { c.Spec.EdgePlaybook.Playbooks = c.Spec.EdgePlaybook.Playbooks[:3] })
	r.runs(first, second, third)

	mended := r.run(second).Status.RunID
	r.edit(c, func() { c.Spec.EdgePlaybook.Playbooks[1].Content = []byte("two, mended") })
	r.begun(second, mended)
	r.summary(c, "Failed", fmt.Sprintf("1 of 3 runs succeeded, 1 failed: %s (Skipped)", third))
	if got := r.run(third).Status.RunID; got != skipped {
		t.Error("a run was begun anew before the one before it succeeded")
	}
	r.finish(second, v1alpha1.PlaybookSuccessfullyCompleted)
	run := r.begun(third, skipped)
	if run.Spec.ExecutionAttempt != 1 {
		t.Errorf("attempt %d", run.Spec.ExecutionAttempt)
	}
	time.Sleep(1100 * time.Millisecond) // times of conditions are in whole seconds
	skip(third)
	r.summary(c, "Failed", fmt.Sprintf("2 of 3 runs succeeded, 1 failed: %s (Skipped)", third))
	time.Sleep(2 * gather)
	if after := r.run(third); after.Spec.ExecutionAttempt != 1 || fleet.RunState(after.Status).Reason != v1alpha1.PlaybookSkipped {
		t.Errorf("it is begun anew for ever: attempt %d, %+v", after.Spec.ExecutionAttempt, after.Status)
	}
}

// Defect 7.2.13: a device could have one config only.
func TestDefect7213SeveralConfigsOfADevice(t *testing.T) {
	r := newRig(t)
	id := r.id("dev")
	r.device(id, map[string]string{v1alpha1.LabelDeviceByConfig: "ssh", "config/more": "time", "config/even-more": "time", "config/none": ""})
	r.config("time", "one")
	r.config("ssh", "two")
	r.runs(id+"-ssh", id+"-time")
	d := r.read(id)
	r.edit(d, func() { delete(d.Labels, "config/more") })
	r.edit(d, func() { delete(d.Labels, v1alpha1.LabelDeviceByConfig) })
	r.runs(id + "-time")
	r.edit(d, func() { delete(d.Labels, "config/even-more") })
	r.runs()
}

// Defect 7.2.13: what could not be created was tried for ever, and nobody was told.
func TestDefect7213NothingIsTriedForEver(t *testing.T) {
	r := newRig(t)
	long, short := r.id(strings.Repeat("long-", 15)+"name"), r.id("dev")
	r.device(long, map[string]string{v1alpha1.LabelDeviceByConfig: "conf-of-" + r.ns})
	r.device(short, map[string]string{v1alpha1.LabelDeviceByConfig: "conf-of-" + r.ns})
	c := r.config("conf-of-"+r.ns, "one")
	r.runs(short + "-" + c.Name)
	r.until("the config says why", func() error {
		r.must(r.admin.Get(t.Context(), r.key(c.Name), c))
		s := c.Status.EdgePlaybookStatus
		if s == nil || s.Failed != 1 || s.Runs != 2 || !strings.Contains(s.Conditions[1].Message, long+"-"+c.Name+" (Invalid: ") ||
			!strings.Contains(s.Conditions[1].Message, "63") {
			return fmt.Errorf("its status is %+v", s)
		}
		return nil
	})
	r.finish(short+"-"+c.Name, v1alpha1.PlaybookSuccessfullyCompleted)
	r.until("it is over", func() error {
		r.must(r.admin.Get(t.Context(), r.key(c.Name), c))
		if s := c.Status.EdgePlaybookStatus; s.Succeeded != 1 || s.Conditions[1].Status != metav1.ConditionTrue {
			return fmt.Errorf("its status is %+v", s)
		}
		return nil
	})
	version := c.ResourceVersion
	time.Sleep(3 * time.Second) // tried again with a growing pause, this would be some ten times
	r.must(r.admin.Get(t.Context(), r.key(c.Name), c))
	if c.ResourceVersion != version {
		t.Error("the config is written although nothing happens")
	}
	for line := range strings.Lines(shared.log.Tail(10_000)) {
		if strings.Contains(line, "Reconciler error") && strings.Contains(line, c.Name) && !strings.Contains(line, "the object has been modified") {
			t.Errorf("it is tried again: %s", line)
		}
	}
}

// A run that ended under flotta v0.2, which kept neither user nor id, is not run
// again because a newer operator came, but it is when it changes then.
func TestRunOfV02IsTakenOver(t *testing.T) {
	r := newRig(t)
	id := r.id("dev")
	c := r.config("conf", "one")
	r.edit(c, func() { c.Spec.EdgePlaybook.User = "ops" })
	run := &v1alpha1.PlaybookExecution{ObjectMeta: metav1.ObjectMeta{
		Namespace: r.ns, Name: id + "-conf", OwnerReferences: []metav1.OwnerReference{
			{APIVersion: v1alpha1.APIVersion, Kind: v1alpha1.KindEdgeConfig, Name: c.Name, UID: c.UID},
		},
	}}
	run.Spec.Playbook = &v1alpha1.Playbook{Content: []byte("one")}
	r.create(run)
	run.Status.Conditions = []v1alpha1.PlaybookCondition{{Type: v1alpha1.PlaybookSuccessfullyCompleted, Status: metav1.ConditionTrue}}
	r.must(r.admin.Status().Update(t.Context(), run))
	r.device(id, map[string]string{v1alpha1.LabelDeviceByConfig: "conf"})
	r.summary(c, "Succeeded", "1 of 1 runs succeeded, 0 failed")
	run = r.run(run.Name)
	if run.Labels[v1alpha1.LabelDevice] != id || run.Spec.User != "ops" || run.Status.RunID != fleet.RunID(run) {
		t.Errorf("the run is %+v", run)
	}
	r.edit(c, func() { c.Spec.EdgePlaybook.Playbooks[0].Content = []byte("two") })
	r.begun(run.Name, run.Status.RunID)
}
