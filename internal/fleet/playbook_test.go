package fleet_test

import (
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/project-flotta/flotta-agent/internal/fleet"
	"github.com/project-flotta/flotta-agent/pkg/api/v1alpha1"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

func newConfig(name string, playbooks ...string) *v1alpha1.EdgeConfig {
	c := &v1alpha1.EdgeConfig{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}}
	c.Spec.EdgePlaybook = &v1alpha1.EdgePlaybookSpec{User: "ops"}
	for _, p := range playbooks {
		c.Spec.EdgePlaybook.Playbooks = append(c.Spec.EdgePlaybook.Playbooks, v1alpha1.Playbook{Content: []byte(p)})
	}
	return c
}

func TestConfigsOf(t *testing.T) {
	t.Parallel()
	got := fleet.ConfigsOf(map[string]string{
		"config/device-by-config": "ssh", "config/2": "audit", "config/3": "ssh", "config/4": "", "configs/5": "no", "config": "no",
	})
	if diff := cmp.Diff([]string{"audit", "ssh"}, got); diff != "" {
		t.Error(diff)
	}
	if got := fleet.ConfigsOf(nil); len(got) != 0 {
		t.Errorf("no labels name %v", got)
	}
}

// Defect 7.2.13: all playbooks of a config had the same name.
func TestDefect7213NamesOfRuns(t *testing.T) {
	t.Parallel()
	runs := fleet.NewRuns(newConfig("ssh", "one", "two", "three"), "dev1")
	var names []string
	for _, run := range runs {
		names = append(names, run.Name)
		if run.Spec.User != "ops" || run.Labels[v1alpha1.LabelDevice] != "dev1" || run.Labels[v1alpha1.LabelDeviceByConfig] != "ssh" {
			t.Errorf("the run is %+v", run)
		}
	}
	if diff := cmp.Diff([]string{"dev1-ssh", "dev1-ssh-2", "dev1-ssh-3"}, names); diff != "" {
		t.Error(diff)
	}
	if runs := fleet.NewRuns(&v1alpha1.EdgeConfig{}, "dev1"); len(runs) != 0 {
		t.Errorf("a config without playbooks makes %v", runs)
	}
	seen := map[string]bool{}
	for _, device := range []string{strings.Repeat("a", 253), strings.Repeat("a", 252) + "b", strings.Repeat("a.", 126) + "a"} {
		for _, run := range fleet.NewRuns(newConfig("ssh", "one", "two"), device) {
			if msgs := validation.IsDNS1123Subdomain(run.Name); len(msgs) > 0 || seen[run.Name] {
				t.Errorf("name %q: %v, seen: %t", run.Name, msgs, seen[run.Name])
			}
			seen[run.Name] = true
		}
	}
}

func TestRunDigestIsOfWhatIsDone(t *testing.T) {
	t.Parallel()
	digest := func(c *v1alpha1.EdgeConfig) string {
		d, err := fleet.RunDigest(fleet.NewRuns(c, "dev1")[0])
		if err != nil || d == "" {
			t.Fatalf("digest %q, %v", d, err)
		}
		return d
	}
	same := digest(newConfig("ssh", "one"))
	if again := digest(newConfig("ssh", "one")); again != same {
		t.Errorf("the same twice is %s and %s", same, again)
	}
	seen := map[string]string{same: "nothing"}
	for what, change := range map[string]func(*v1alpha1.EdgePlaybookSpec){
		"content":  func(s *v1alpha1.EdgePlaybookSpec) { s.Playbooks[0].Content = []byte("two") },
		"user":     func(s *v1alpha1.EdgePlaybookSpec) { s.User = "root" },
		"timeout":  func(s *v1alpha1.EdgePlaybookSpec) { s.Playbooks[0].TimeoutSeconds = 1 },
		"strategy": func(s *v1alpha1.EdgePlaybookSpec) { s.Playbooks[0].ExecutionStrategy = "StopOnFailure" },
		"check": func(s *v1alpha1.EdgePlaybookSpec) {
			s.Playbooks[0].AnsibleOptions = &v1alpha1.AnsibleOptions{Check: true}
		},
		"become": func(s *v1alpha1.EdgePlaybookSpec) {
			s.Playbooks[0].PrivilegeEscalationOptions = &v1alpha1.PrivilegeEscalationOptions{Become: true}
		},
		"become user": func(s *v1alpha1.EdgePlaybookSpec) {
			s.Playbooks[0].PrivilegeEscalationOptions = &v1alpha1.PrivilegeEscalationOptions{Become: true, BecomeUser: "a"}
		},
		"cap add": func(s *v1alpha1.EdgePlaybookSpec) {
			s.Playbooks[0].RequiredPrivilegeLevel = &v1alpha1.RequiredPrivilegeLevel{CapAdd: []int8{1}}
		},
		"cap drop": func(s *v1alpha1.EdgePlaybookSpec) {
			s.Playbooks[0].RequiredPrivilegeLevel = &v1alpha1.RequiredPrivilegeLevel{CapDrop: []int8{1}}
		},
	} {
		c := newConfig("ssh", "one")
		change(c.Spec.EdgePlaybook)
		d := digest(c)
		if other, taken := seen[d]; taken {
			t.Errorf("%s changes what %s does", what, other)
		}
		seen[d] = what
	}
	c := newConfig("ssh", "one")
	c.Spec.EdgePlaybook.Playbooks[0].PrivilegeEscalationOptions = &v1alpha1.PrivilegeEscalationOptions{BecomeUser: "a"}
	if m := fleet.RunMessage(fleet.NewRuns(c, "dev1")[0], "x"); m.Become != nil || m.ID != "x" {
		t.Errorf("a user to become without becoming is %+v", m)
	}
}

func reported(id, state, reason, message string) protocol.PlaybookExecutionStatus {
	return protocol.PlaybookExecutionStatus{Name: "run", ID: id, Status: state, Reason: reason, Message: message}
}

func TestTakeRun(t *testing.T) {
	t.Parallel()
	const running, done, failed = v1alpha1.PlaybookRunning, v1alpha1.PlaybookSuccessfullyCompleted, v1alpha1.PlaybookCompletedWithError
	at := func(minutes int) time.Time { return now.Add(time.Duration(minutes) * time.Minute) }
	for _, test := range []struct {
		name    string
		reports []protocol.PlaybookExecutionStatus
		want    string // state reason message, and the minute of the state
		minute  int
	}{
		{"begun", nil, "Deploying  ", 0},
		{"its course", []protocol.PlaybookExecutionStatus{reported("a", running, "", ""), reported("a", done, "", "ok=3")}, "SuccessfullyCompleted  ok=3", 2},
		{"without an id", []protocol.PlaybookExecutionStatus{reported("", done, "", "")}, "SuccessfullyCompleted  ", 1},
		{"another run", []protocol.PlaybookExecutionStatus{reported("b", done, "", "")}, "Deploying  ", 0},
		{"no state", []protocol.PlaybookExecutionStatus{reported("a", "Done", "", ""), reported("a", "", "", "")}, "Deploying  ", 0},
		{"late", []protocol.PlaybookExecutionStatus{reported("a", failed, "TimedOut", ""), reported("a", running, "", "")}, "CompletedWithError TimedOut ", 1},
		{"better news", []protocol.PlaybookExecutionStatus{reported("a", failed, "Failed", "x"), reported("a", done, "", "")}, "SuccessfullyCompleted  ", 2},
		{"chatter", []protocol.PlaybookExecutionStatus{reported("a", running, "", "1 %"), reported("a", running, "", "2 %")}, "Running  1 %", 1},
		{"another reason", []protocol.PlaybookExecutionStatus{reported("a", running, "X", "1 %"), reported("a", running, "Y", "2 %")}, "Running Y 2 %", 1},
		{"unprintable", []protocol.PlaybookExecutionStatus{reported("a", failed, "\x1b", "a\n\x00b\xff")}, "CompletedWithError \ufffd a \ufffdb\ufffd", 1},
	} {
		s := fleet.BegunRun("a", at(0))
		for i, report := range test.reports {
			before := s
			kept := append([]v1alpha1.PlaybookCondition(nil), before.Conditions...)
			s = fleet.TakeRun(s, "a", report, at(i+1))
			if diff := cmp.Diff(kept, before.Conditions); diff != "" {
				t.Errorf("%s: the status before was changed: %s", test.name, diff)
			}
		}
		c := fleet.RunState(s)
		if got := c.Type + " " + c.Reason + " " + c.Message; got != test.want || !c.LastTransitionTime.Equal(new(fleet.Timestamp(at(test.minute)))) {
			t.Errorf("%s: %q since %s, want %q", test.name, got, c.LastTransitionTime, test.want)
		}
	}
	old := v1alpha1.PlaybookExecutionStatus{RunID: "a", Conditions: []v1alpha1.PlaybookCondition{{Type: done, Status: metav1.ConditionTrue}}}
	if fleet.RunEnded(old, "b") || !fleet.RunEnded(old, "a") {
		t.Error("a run ends with another one")
	}
	if s := fleet.TakeRun(old, "b", reported("b", running, "", ""), now); len(s.Conditions) != 1 || s.RunID != "b" || fleet.RunEnded(s, "b") {
		t.Errorf("the next run is %+v", s)
	}
}

func TestMayGoOn(t *testing.T) {
	t.Parallel()
	state := func(kind, reason string, minutes int) v1alpha1.PlaybookExecutionStatus {
		return fleet.TakeRun(v1alpha1.PlaybookExecutionStatus{}, "a", reported("a", kind, reason, ""), now.Add(time.Duration(minutes)*time.Minute))
	}
	const done, failed = v1alpha1.PlaybookSuccessfullyCompleted, v1alpha1.PlaybookCompletedWithError
	skipped := state(failed, v1alpha1.PlaybookSkipped, 5)
	run := func(strategy string, s v1alpha1.PlaybookExecutionStatus) *v1alpha1.PlaybookExecution {
		return &v1alpha1.PlaybookExecution{Spec: v1alpha1.PlaybookExecutionSpec{Playbook: &v1alpha1.Playbook{ExecutionStrategy: strategy}}, Status: s}
	}
	stop := func(s v1alpha1.PlaybookExecutionStatus) *v1alpha1.PlaybookExecution { return run("StopOnFailure", s) }
	once := func(s v1alpha1.PlaybookExecutionStatus) *v1alpha1.PlaybookExecution { return run("", s) }
	type list = []*v1alpha1.PlaybookExecution
	for _, test := range []struct {
		name   string
		run    v1alpha1.PlaybookExecutionStatus
		before list
		want   bool
	}{
		{"mended", skipped, list{stop(state(done, "", 6))}, true},
		{"mended among others", skipped, list{stop(state(done, "", 1)), stop(state(done, "", 6)), stop(state(done, "", 2))}, true},
		{"mended after what need not succeed", skipped, list{once(state(failed, "Failed", 1)), stop(state(done, "", 6)), once(v1alpha1.PlaybookExecutionStatus{})}, true},
		{"need not succeed any more", skipped, list{once(state(failed, "Failed", 6))}, true},
		{"nothing changed", skipped, list{stop(state(done, "", 4))}, false},
		{"not yet", skipped, list{stop(state(done, "", 6)), stop(state(v1alpha1.PlaybookRunning, "", 7))}, false},
		{"still failing", skipped, list{stop(state(failed, "Failed", 6))}, false},
		{"one is unknown", skipped, list{stop(state(done, "", 6)), stop(v1alpha1.PlaybookExecutionStatus{})}, false},
		{"the first", skipped, nil, false},
		{"failed by itself", state(failed, "Failed", 5), list{stop(state(done, "", 6))}, false},
		{"succeeded", state(done, "", 5), list{stop(state(done, "", 6))}, false},
		{"never begun", v1alpha1.PlaybookExecutionStatus{}, list{stop(state(done, "", 6))}, false},
	} {
		if _, got := fleet.MayGoOn(test.run, test.before); got != test.want {
			t.Errorf("%s: %t", test.name, got)
		}
	}
}

// What a device says of very many runs is bounded in its status, and what it says
// of others is none of it.
func TestTakeRunsIsBounded(t *testing.T) {
	t.Parallel()
	d := fleet.NewDevice("default", "dev1", "", now)
	d.Status.PlaybookExec = []v1alpha1.PlaybookExec{{Name: "gone"}}
	ids := map[string]string{}
	var reports []protocol.PlaybookExecutionStatus
	for _, c := range "abcdefghijklmnopqrstuvwxyz" {
		for range 10 {
			name := strings.Repeat(string(c), len(ids)+1)
			ids[name] = "id"
			reports = append(reports, protocol.PlaybookExecutionStatus{Name: name, ID: "id", Status: "Running", Message: strings.Repeat("é\x00", 5000)})
		}
	}
	reports = append(reports, protocol.PlaybookExecutionStatus{Name: "stranger", Status: "Running"}, protocol.PlaybookExecutionStatus{Name: "a", ID: "other", Status: "SuccessfullyCompleted"})
	fleet.TakeRuns(d, ids, reports, now)
	if len(d.Status.PlaybookExec) != len(ids) {
		t.Fatalf("%d entries for %d runs", len(d.Status.PlaybookExec), len(ids))
	}
	size := 0
	for _, e := range d.Status.PlaybookExec {
		c := fleet.RunState(e.PlaybookExecutionStatus)
		size += len(c.Message)
		if c.Type != "Running" || !utf8.ValidString(c.Message) || strings.ContainsFunc(c.Message, unicode.IsControl) || c.Message == "" {
			t.Fatalf("entry %s: %+q", e.Name, c)
		}
	}
	if size > 64<<10 {
		t.Errorf("%d bytes of messages", size)
	}
	before := fleet.Clone(d)
	fleet.TakeRuns(d, ids, reports, now.Add(time.Hour))
	if diff := cmp.Diff(before, d); diff != "" {
		t.Errorf("the same report again changed the status:\n%s", diff)
	}
	fleet.TakeRuns(d, nil, nil, now)
	if d.Status.PlaybookExec != nil {
		t.Error("entries without runs stay")
	}
}
