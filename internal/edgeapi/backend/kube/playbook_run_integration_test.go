//go:build integration

package kube

import (
	"errors"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/project-flotta/flotta-agent/internal/fleet"
	"github.com/project-flotta/flotta-agent/pkg/api/v1alpha1"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// aRun is a run of dev1 with all options there are.
const aRun = `apiVersion: management.project-flotta.io/v1alpha1
kind: PlaybookExecution
metadata: {name: dev1-cfg, namespace: $NS, labels: {flotta/device: dev1, config/device-by-config: cfg}}
spec:
  user: admin
  executionAttempt: 0
  playbook:
    content: LSBob3N0czogYWxs
    timeoutSeconds: 120
    executionStrategy: StopOnFailure
    ansibleOptions: {check: true}
    privilegeEscalationOptions: {become: true, becomeMethod: sudo, becomeUser: postgres}
    requiredPrivilegeLevel: {capAdd: [12], capDrop: [21, 0]}`

func (r *rig) offered(d string) []protocol.PlaybookExecution {
	r.t.Helper()
	list, err := r.backend.Playbooks(r.t.Context(), r.name(d))
	if err != nil {
		r.t.Fatal(err)
	}
	return list
}

func (r *rig) run1() *v1alpha1.PlaybookExecution {
	r.t.Helper()
	run, err := r.admin.playbook(r.t.Context(), r.namespace, "dev1-cfg")
	if err != nil {
		r.t.Fatal(err)
	}
	return run
}

func says(id, state, reason, message string) protocol.Heartbeat {
	h := report("")
	h.PlaybookExecutions = []protocol.PlaybookExecutionStatus{{Name: "dev1-cfg", ID: id, Status: state, Reason: reason, Message: message}}
	return h
}

// Defects 7.2.13 and 7.3: what a playbook is to be run with never reached the
// device, and one that had ended could not be run again.
func TestDefect7213OptionsAndAnotherRun(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	d := r.device("dev1", nil)
	r.apply(aRun)
	r.eventually("offered", func() bool { return len(r.offered("dev1")) == 1 })
	first := r.offered("dev1")[0]
	want := protocol.PlaybookExecution{
		Name: "dev1-cfg", AnsiblePlaybookString: "- hosts: all", ID: string(r.run1().UID) + ".1", Config: "cfg", TimeoutSeconds: 120,
		Strategy: protocol.StrategyStopOnFailure, User: "admin", Check: true, Become: &protocol.PlaybookBecome{Method: "sudo", User: "postgres"},
		CapAdd: []int32{12}, CapDrop: []int32{21, 0},
	}
	if diff := cmp.Diff(want, first); diff != "" {
		t.Error(diff)
	}
	r.heartbeat(d, says(first.ID, v1alpha1.PlaybookCompletedWithError, "TimedOut\x1b[31m", "line 1\nline 2\x00"+strings.Repeat("x", 5000)))
	for _, s := range []v1alpha1.PlaybookExecutionStatus{r.run1().Status, r.get(d).Status.PlaybookExec[0].PlaybookExecutionStatus} {
		c := fleet.RunState(s)
		if s.RunID != first.ID || c.Type != v1alpha1.PlaybookCompletedWithError || c.Reason != "TimedOut\ufffd[31m" ||
			!strings.HasPrefix(c.Message, "line 1 line 2\ufffdxxx") || len(c.Message) != fleet.MaxText {
			t.Errorf("status %q %+q", s.RunID, c)
		}
	}
	r.eventually("nothing left to run", func() bool { return len(r.offered("dev1")) == 0 })
	// A heartbeat that was on its way for long.
	r.heartbeat(d, says(first.ID, v1alpha1.PlaybookRunning, "", ""))
	if c := fleet.RunState(r.run1().Status); c.Type != v1alpha1.PlaybookCompletedWithError {
		t.Errorf("a run that ended is %s again", c.Type)
	}

	// What comes after it is not offered, as the device may not know of the failure.
	next := strings.Replace(aRun, "dev1-cfg,", "dev1-cfg-2,", 1)
	r.apply(next)
	r.apply(strings.NewReplacer("dev1-cfg,", "dev1-other,", "config/device-by-config: cfg", "config/device-by-config: other").Replace(aRun))
	r.eventually("the run of the other config is offered", func() bool { return len(r.offered("dev1")) == 1 })
	r.eventually("the backend knows it", func() bool { return len(r.backend.playbooks.of(r.namespace, "dev1")) == 3 })
	if list := r.offered("dev1"); len(list) != 1 || list[0].Name != "dev1-other" {
		t.Errorf("offered are %+v", list)
	}
	r.remove(group, "PlaybookExecution", "dev1-cfg-2")
	r.remove(group, "PlaybookExecution", "dev1-other")
	r.eventually("nothing left to run", func() bool { return len(r.offered("dev1")) == 0 })

	// Somebody wants it again. No operator is needed for the device to hear of it.
	r.apply(strings.Replace(aRun, "executionAttempt: 0", "executionAttempt: 1", 1))
	r.eventually("offered again", func() bool { return len(r.offered("dev1")) == 1 })
	second := r.offered("dev1")[0]
	if second.ID == first.ID || second.ID != fleet.RunID(r.run1()) {
		t.Errorf("the runs are %s and %s", first.ID, second.ID)
	}
	r.heartbeat(d, says(first.ID, v1alpha1.PlaybookSuccessfullyCompleted, "", ""))
	if s := r.run1().Status; s.RunID != first.ID || fleet.RunState(s).Type != v1alpha1.PlaybookCompletedWithError || len(r.offered("dev1")) != 1 {
		t.Errorf("a report of the first run made the second %+v", s)
	}
	r.heartbeat(d, says(second.ID, v1alpha1.PlaybookSuccessfullyCompleted, "", ""))
	if s := r.run1().Status; s.RunID != second.ID || len(s.Conditions) != 1 || s.Conditions[0].Type != v1alpha1.PlaybookSuccessfullyCompleted {
		t.Errorf("status %+v", s)
	}
	r.eventually("nothing left to run", func() bool { return len(r.offered("dev1")) == 0 })

	// Made anew it is another run.
	r.remove(group, "PlaybookExecution", "dev1-cfg")
	r.apply(aRun)
	r.eventually("offered again", func() bool { return len(r.offered("dev1")) == 1 })
	r.heartbeat(d, says(second.ID, v1alpha1.PlaybookSuccessfullyCompleted, "", ""))
	if s := r.run1().Status; len(s.Conditions) != 0 {
		t.Errorf("a report of the object that was deleted made the new one %+v", s)
	}
}

// Defect 7.2.13: errors of writing runs were discarded, and runs were skipped when
// anything else of the device had changed. A device that reports the same ends
// again costs no writes, and is heard when something changes.
func TestDefect7213WritesOfRuns(t *testing.T) {
	t.Parallel()
	var writes atomic.Int64
	var refuse atomic.Bool
	r := bareRig(t)
	r.backend = r.run(through(func(next http.RoundTripper, q *http.Request) (*http.Response, error) {
		if q.Method == http.MethodPut && strings.HasSuffix(q.URL.Path, "/status") {
			writes.Add(1)
			if refuse.Load() && strings.Contains(q.URL.Path, "/"+playbookExecutions+"/") {
				return nil, errors.New("the line is cut")
			}
		}
		return next.RoundTrip(q)
	}))
	d := r.device("dev1", nil)
	r.apply(aRun)
	r.eventually("offered", func() bool { return len(r.offered("dev1")) == 1 })
	id := r.offered("dev1")[0].ID
	h := says(id, v1alpha1.PlaybookSuccessfullyCompleted, "", "")
	h.Status, h.Version = "degraded", "v9"
	refuse.Store(true)
	if err := r.backend.Heartbeat(t.Context(), d, h); err == nil || !strings.Contains(err.Error(), "write playbook execution "+r.namespace+"/dev1-cfg") {
		t.Fatalf("the device is told %v", err)
	}
	refuse.Store(false)
	r.heartbeat(d, h)
	if s := r.get(d).Status; s.Phase != "degraded" || len(s.PlaybookExec) != 1 || fleet.RunState(r.run1().Status).Type != v1alpha1.PlaybookSuccessfullyCompleted {
		t.Errorf("device %+v, run %+v", s, r.run1().Status)
	}
	r.eventually("seen", func() bool { return len(r.offered("dev1")) == 0 })
	r.heartbeat(d, h)
	before := writes.Load()
	for range 5 {
		r.heartbeat(d, h)
	}
	if n := writes.Load() - before; n != 0 {
		t.Errorf("%d writes for the same report", n)
	}
	r.apply(strings.Replace(aRun, "executionAttempt: 0", "executionAttempt: 9", 1))
	r.eventually("the device's entry begins anew", func() bool {
		r.heartbeat(d, h)
		s := r.get(d).Status.PlaybookExec[0].PlaybookExecutionStatus
		return s.RunID == fleet.RunID(r.run1()) && fleet.RunState(s).Type == v1alpha1.PlaybookDeploying
	})
}
