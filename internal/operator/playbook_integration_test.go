//go:build integration

package operator

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/project-flotta/flotta-agent/internal/fleet"
	"github.com/project-flotta/flotta-agent/pkg/api/v1alpha1"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

func (r *rig) config(name string, playbooks ...string) *v1alpha1.EdgeConfig {
	r.Helper()
	c := &v1alpha1.EdgeConfig{ObjectMeta: metav1.ObjectMeta{Namespace: r.ns, Name: name}}
	for _, p := range playbooks {
		if c.Spec.EdgePlaybook == nil {
			c.Spec.EdgePlaybook = &v1alpha1.EdgePlaybookSpec{}
		}
		c.Spec.EdgePlaybook.Playbooks = append(c.Spec.EdgePlaybook.Playbooks, v1alpha1.Playbook{Content: []byte(p)})
	}
	r.create(c)
	return c
}

// runs waits until there are exactly these runs in the namespace.
func (r *rig) runs(want ...string) {
	r.Helper()
	r.until(fmt.Sprint("the runs are ", want), func() error {
		var list v1alpha1.PlaybookExecutionList
		r.must(r.admin.List(r.Context(), &list, client.InNamespace(r.ns)))
		var names []string
		for _, run := range list.Items {
			if run.DeletionTimestamp == nil && len(run.Status.Conditions) > 0 {
				names = append(names, run.Name)
			}
		}
		slices.Sort(names)
		if !slices.Equal(names, want) {
			return fmt.Errorf("they are %v", names)
		}
		return nil
	})
}

// Defect 7.2.13: of several playbooks only the first was run; devices that were
// labelled later were ignored; a changed playbook was not run again.
func TestDefect7213PlaybooksOfAConfig(t *testing.T) {
	r := newRig(t)
	early, late := "early-"+r.ns, "late-"+r.ns
	label := map[string]string{v1alpha1.LabelDeviceByConfig: "conf"}
	r.device(early, label)
	r.device(late, nil)
	c := r.config("conf", "one", "two")
	r.runs(early+"-conf", early+"-conf-2")
	d := r.read(late)
	r.edit(d, func() { metav1.SetMetaDataLabel(&d.ObjectMeta, v1alpha1.LabelDeviceByConfig, "conf") })
	r.runs(early+"-conf", early+"-conf-2", late+"-conf", late+"-conf-2")

	run := &v1alpha1.PlaybookExecution{ObjectMeta: metav1.ObjectMeta{Namespace: r.ns, Name: early + "-conf"}}
	r.must(r.admin.Get(r.Context(), client.ObjectKeyFromObject(run), run))
	if run.Labels[v1alpha1.LabelDevice] != early || string(run.Spec.Playbook.Content) != "one" || !isAt(run, v1alpha1.PlaybookDeploying) ||
		!metav1.IsControlledBy(run, c) {
		t.Errorf("the run is %+v", run)
	}
	r.finish(early+"-conf", v1alpha1.PlaybookSuccessfullyCompleted)
	r.summary(c, "Running", "1 of 4 runs succeeded, 0 failed")
	r.edit(c, func() { c.Spec.EdgePlaybook.Playbooks[0].Content = []byte("one, better") })
	r.until("the changed playbook is run again", func() error {
		r.must(r.admin.Get(r.Context(), client.ObjectKeyFromObject(run), run))
		if string(run.Spec.Playbook.Content) != "one, better" || !isAt(run, v1alpha1.PlaybookDeploying) {
			return fmt.Errorf("the run is %+v", run)
		}
		return nil
	})
	for _, name := range []string{early + "-conf", early + "-conf-2", late + "-conf"} {
		r.finish(name, v1alpha1.PlaybookSuccessfullyCompleted)
	}
	r.finish(late+"-conf-2", v1alpha1.PlaybookCompletedWithError)
	r.summary(c, "Failed", "3 of 4 runs succeeded, 1 failed: "+late+"-conf-2 (TimedOut)")
	if s := c.Status.EdgePlaybookStatus; s.Runs != 4 || s.Succeeded != 3 || s.Failed != 1 {
		t.Errorf("the config counts %+v", s)
	}
	r.until("the failure is an event", func() error {
		if text := r.events(c.Name); !strings.Contains(text, "Warning PlaybookFailed: 3 of 4 runs succeeded, 1 failed: "+late+"-conf-2 (TimedOut)") {
			return fmt.Errorf("events are %q", text)
		}
		return nil
	})

	// A playbook less, a device less, and the end.
	r.edit(c, func() { c.Spec.EdgePlaybook.Playbooks = c.Spec.EdgePlaybook.Playbooks[:1] })
	r.runs(early+"-conf", late+"-conf")
	d = r.read(late)
	r.edit(d, func() { delete(d.Labels, v1alpha1.LabelDeviceByConfig) })
	r.runs(early + "-conf")
	r.must(r.admin.Delete(r.Context(), c))
	r.runs()
}

func isAt(run *v1alpha1.PlaybookExecution, state string) bool {
	return fleet.RunState(run.Status).Type == state
}

func (r *rig) run(name string) *v1alpha1.PlaybookExecution {
	r.Helper()
	run := &v1alpha1.PlaybookExecution{}
	r.must(r.admin.Get(r.Context(), r.key(name), run))
	return run
}

// finish says that a run ended, as the Edge API does.
func (r *rig) finish(name, state string) {
	r.Helper()
	run := r.run(name)
	report := protocol.PlaybookExecutionStatus{Name: name, ID: fleet.RunID(run), Status: state}
	if state == v1alpha1.PlaybookCompletedWithError {
		report.Reason = "TimedOut"
	}
	r.take(name, report)
}

// take writes a report of a device into a run, as the Edge API does.
func (r *rig) take(name string, report protocol.PlaybookExecutionStatus) {
	r.Helper()
	for {
		run := r.run(name)
		run.Status = fleet.TakeRun(run.Status, fleet.RunID(run), report, time.Now())
		err := r.admin.Status().Update(r.Context(), run)
		if apierrors.IsConflict(err) {
			continue
		}
		r.must(err)
		return
	}
}

// begun waits until a run is at its beginning, with another ID than before.
func (r *rig) begun(name, before string) *v1alpha1.PlaybookExecution {
	r.Helper()
	run := &v1alpha1.PlaybookExecution{}
	r.until("run "+name+" is begun anew", func() error {
		*run = v1alpha1.PlaybookExecution{}
		if err := r.admin.Get(r.Context(), r.key(name), run); err != nil {
			return err
		}
		if !isAt(run, v1alpha1.PlaybookDeploying) || run.Status.RunID != fleet.RunID(run) || run.Status.RunID == before {
			return fmt.Errorf("it is %s at generation %d with the status %+v", run.UID, run.Generation, run.Status)
		}
		return nil
	})
	return run
}

func (r *rig) summary(c *v1alpha1.EdgeConfig, reason, message string) {
	r.Helper()
	r.until("the config says "+reason, func() error {
		r.must(r.admin.Get(r.Context(), client.ObjectKeyFromObject(c), c))
		s := c.Status.EdgePlaybookStatus
		if s == nil || len(s.Conditions) != 2 || s.Conditions[1].Reason != reason || s.Conditions[1].Message != message {
			return fmt.Errorf("its status is %+v", s)
		}
		return nil
	})
}

// Defects 7.2.9 and 7.2.12: a config without playbooks crashed the operator, and
// runs could not be deleted.
func TestDefect7212RunsCanBeDeleted(t *testing.T) {
	r := newRig(t)
	id := "dev-" + r.ns
	r.device(id, map[string]string{v1alpha1.LabelDeviceByConfig: "empty"})
	empty := r.config("empty")
	r.summary(empty, "NoDevices", "0 of 0 runs succeeded, 0 failed")

	// One of flotta v0.2, with its finalizer and no labels.
	old := &v1alpha1.PlaybookExecution{ObjectMeta: metav1.ObjectMeta{
		Namespace: r.ns, Name: "old", Finalizers: []string{v1alpha1.FinalizerDeviceReference, "example.com/mine"},
	}}
	r.create(old)
	r.must(r.admin.Delete(r.Context(), old))
	r.until("our finalizer is removed, and ours alone", func() error {
		r.must(r.admin.Get(r.Context(), client.ObjectKeyFromObject(old), old))
		if !slices.Equal(old.Finalizers, []string{"example.com/mine"}) {
			return fmt.Errorf("finalizers are %v", old.Finalizers)
		}
		return nil
	})
	r.edit(old, func() { old.Finalizers = nil })
	r.gone(old)

	// Another one, of a config and a device that are there, is taken over.
	taken := &v1alpha1.PlaybookExecution{ObjectMeta: metav1.ObjectMeta{Namespace: r.ns, Name: id + "-empty", OwnerReferences: []metav1.OwnerReference{
		{APIVersion: v1alpha1.APIVersion, Kind: v1alpha1.KindEdgeConfig, Name: empty.Name, UID: empty.UID},
	}}}
	r.create(taken)
	r.edit(empty, func() {
		empty.Spec.EdgePlaybook = &v1alpha1.EdgePlaybookSpec{Playbooks: []v1alpha1.Playbook{{Content: []byte("one")}}}
	})
	r.runs(id + "-empty")
	r.must(r.admin.Get(r.Context(), client.ObjectKeyFromObject(taken), taken))
	if taken.Labels[v1alpha1.LabelDevice] != id {
		t.Errorf("the run of flotta v0.2 has labels %v", taken.Labels)
	}

	// With its device a run goes, and from the status of a device it goes first.
	r.config("conf", "one")
	d := r.read(id)
	r.edit(d, func() { d.Labels[v1alpha1.LabelDeviceByConfig] = "conf" })
	r.runs(id + "-conf")
	r.report(id, func(d *v1alpha1.EdgeDevice) {
		d.Status.PlaybookExec = []v1alpha1.PlaybookExec{{Name: id + "-conf"}, {Name: "other"}}
	})
	r.edit(d, func() { delete(d.Labels, v1alpha1.LabelDeviceByConfig) })
	r.runs()
	r.until("the device does not list the run", func() error {
		if list := r.read(id).Status.PlaybookExec; len(list) != 1 || list[0].Name != "other" {
			return fmt.Errorf("it lists %+v", list)
		}
		return nil
	})
	r.edit(d, func() { metav1.SetMetaDataLabel(&d.ObjectMeta, v1alpha1.LabelDeviceByConfig, "conf") })
	r.runs(id + "-conf")
	r.must(r.admin.Delete(r.Context(), d))
	r.gone(d)
	r.runs()
}

// Two configs and devices whose names make the same run do not fight.
func TestRunsOfTheSameNameAreTold(t *testing.T) {
	r := newRig(t)
	short, long := "a-"+r.ns, "a-"+r.ns+"-b"
	r.device(short, map[string]string{v1alpha1.LabelDeviceByConfig: "b-c"})
	r.config("b-c", "of the short one")
	r.runs(short + "-b-c")
	r.device(long, map[string]string{v1alpha1.LabelDeviceByConfig: "c"})
	r.config("c", "of the long one")
	r.until("a person is told", func() error {
		if text := r.events(short + "-b-c"); text == "" {
			return fmt.Errorf("no events")
		}
		return nil
	})
	time.Sleep(time.Second)
	run := &v1alpha1.PlaybookExecution{ObjectMeta: metav1.ObjectMeta{Namespace: r.ns, Name: short + "-b-c"}}
	r.must(r.admin.Get(r.Context(), client.ObjectKeyFromObject(run), run))
	if string(run.Spec.Playbook.Content) != "of the short one" {
		t.Errorf("the run is %+v", run)
	}
}
