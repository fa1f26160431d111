package file

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/project-flotta/flotta-agent/internal/edgeapi"
	"github.com/project-flotta/flotta-agent/internal/fleet"
	"github.com/project-flotta/flotta-agent/pkg/api/v1alpha1"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// config is a manifest of an EdgeConfig; each playbook may end in more fields.
func config(name string, playbooks ...string) string {
	var text strings.Builder
	fmt.Fprintf(&text, "apiVersion: management.project-flotta.io/v1alpha1\nkind: EdgeConfig\nmetadata: {name: %s}\nspec:\n  edgePlaybook:\n    user: ops\n    playbooks:\n", name)
	for _, p := range playbooks {
		content, more, _ := strings.Cut(p, ";")
		fmt.Fprintf(&text, "    - {content: %s%s}\n", base64.StdEncoding.EncodeToString([]byte(content)), more)
	}
	return text.String()
}

func labelled(id, labels string) string {
	return fmt.Sprintf("apiVersion: management.project-flotta.io/v1alpha1\nkind: EdgeDevice\nmetadata: {name: %s, labels: {%s}}\n", id, labels)
}

func (r *rig) playbooks(d edgeapi.Device) []protocol.PlaybookExecution {
	r.t.Helper()
	list, err := r.Playbooks(r.t.Context(), d)
	r.must(err)
	return list
}

func (r *rig) offers(d edgeapi.Device, want ...string) []protocol.PlaybookExecution {
	r.t.Helper()
	var list []protocol.PlaybookExecution
	r.eventually(fmt.Sprint("the device is to run ", want), func() bool {
		list = r.playbooks(d)
		names := []string{}
		for _, p := range list {
			names = append(names, p.Name)
		}
		return cmp.Equal(names, append([]string{}, want...))
	})
	return list
}

func (r *rig) tells(d edgeapi.Device, list ...protocol.PlaybookExecutionStatus) {
	r.t.Helper()
	r.must(r.Heartbeat(r.t.Context(), d, protocol.Heartbeat{Status: "up", PlaybookExecutions: list}))
}

func ended(p protocol.PlaybookExecution, state, reason string) protocol.PlaybookExecutionStatus {
	return protocol.PlaybookExecutionStatus{Name: p.Name, ID: p.ID, Status: state, Reason: reason, Message: "said so"}
}

// Playbooks work as they do in a cluster: those of the configs that the labels of a
// device name, in their order, once, and again when they change.
func TestPlaybooks(t *testing.T) {
	t.Parallel()
	const done, failed = v1alpha1.PlaybookSuccessfullyCompleted, v1alpha1.PlaybookCompletedWithError
	dir := t.TempDir()
	r := newRig(t, dir)
	d := r.enrolled("dev1")
	r.save("config.yaml", config("ssh", "one;, timeoutSeconds: 30, executionStrategy: RetryOnFailure", "two"))
	r.save("more.yaml", config("audit", "three"))
	r.offers(d)
	r.save("device.yaml", labelled("dev1", "config/device-by-config: ssh, config/more: audit"))
	list := r.offers(d, "dev1-audit", "dev1-ssh", "dev1-ssh-2")
	want := protocol.PlaybookExecution{
		Name: "dev1-ssh", AnsiblePlaybookString: "one", ID: list[1].ID, Config: "ssh", TimeoutSeconds: 30, Strategy: protocol.StrategyRetryOnFailure, User: "ops",
	}
	if diff := cmp.Diff(want, list[1]); diff != "" || want.ID == "" {
		t.Error(diff)
	}
	r.tells(d, ended(list[0], done, ""), ended(list[1], failed, "Failed"), ended(list[2], v1alpha1.PlaybookRunning, ""),
		protocol.PlaybookExecutionStatus{Name: "stranger", Status: done})
	r.offers(d, "dev1-ssh-2")
	r.tells(d, ended(list[1], failed, "Failed"), ended(list[2], done, ""))
	r.offers(d)
	stored := r.stored(d).Status.PlaybookExec
	if len(stored) != 3 || fleet.RunState(stored[1].PlaybookExecutionStatus).Message != "said so" {
		t.Errorf("stored %+v", stored)
	}
	rows, err := NewAdmin(dir).List()
	if err != nil || len(rows) != 1 || rows[0].Problem != "playbook dev1-ssh failed: Failed said so" {
		t.Errorf("listed as %+v, %v", rows, err)
	}

	// Nothing is run again because the server starts anew or the manifest is saved.
	r.stop()
	r = newRig(t, dir)
	r.save("more.yaml", "# an audit\n"+config("audit", "three"))
	r.save("config.yaml", config("ssh", "one, mended;, timeoutSeconds: 30, executionStrategy: RetryOnFailure", "two"))
	again := r.offers(d, "dev1-ssh")
	if again[0].ID == list[1].ID {
		t.Error("a playbook that changed has the same id")
	}
	r.tells(d, ended(list[1], done, "")) // of the one before
	r.offers(d, "dev1-ssh")
	r.tells(d, ended(again[0], done, ""))
	r.offers(d)
	r.save("device.yaml", labelled("dev1", "config/more: audit"))
	r.eventually("entries of runs that are no more go", func() bool {
		r.tells(d)
		return len(r.stored(d).Status.PlaybookExec) == 1
	})
	if _, err := r.Playbooks(t.Context(), dev("nobody")); err == nil {
		t.Error("an unknown device has playbooks")
	}
}

// What was skipped because of a failure before it is run once that is mended.
func TestSkippedPlaybooksGoOn(t *testing.T) {
	t.Parallel()
	const done, failed = v1alpha1.PlaybookSuccessfullyCompleted, v1alpha1.PlaybookCompletedWithError
	r := newRig(t, t.TempDir())
	d := r.enrolled("dev1")
	r.save("device.yaml", labelled("dev1", "config/device-by-config: ssh"))
	r.save("config.yaml", config("ssh", "one;, executionStrategy: StopOnFailure", "two"))
	list := r.offers(d, "dev1-ssh", "dev1-ssh-2")
	r.tells(d, ended(list[0], failed, "TimedOut"), ended(list[1], failed, v1alpha1.PlaybookSkipped))
	r.offers(d)
	// What the device has not heard of is not offered either, but by another config.
	r.save("config.yaml", config("ssh", "one;, executionStrategy: StopOnFailure", "two", "three")+"---\n"+config("a", "four"))
	r.save("device.yaml", labelled("dev1", "config/device-by-config: ssh, config/2: a"))
	r.offers(d, "dev1-a")
	r.save("config.yaml", config("ssh", "one, mended;, executionStrategy: StopOnFailure", "two"))
	first := r.offers(d, "dev1-ssh")
	r.tells(d, ended(first[0], done, ""))
	second := r.offers(d, "dev1-ssh-2")
	if second[0].ID == list[1].ID || !strings.HasPrefix(second[0].ID, list[1].ID) {
		t.Errorf("the run that goes on has the id %s, before it had %s", second[0].ID, list[1].ID)
	}
	r.tells(d, ended(list[1], failed, v1alpha1.PlaybookSkipped)) // on its way for long
	r.tells(d, ended(second[0], v1alpha1.PlaybookRunning, ""))
	if now := r.offers(d, "dev1-ssh-2"); now[0].ID != second[0].ID {
		t.Errorf("the id changes to %s while it runs", now[0].ID)
	}
	time.Sleep(1100 * time.Millisecond) // times of conditions are in whole seconds
	r.tells(d, ended(second[0], failed, v1alpha1.PlaybookSkipped))
	r.offers(d)
	r.offers(d)
}

func TestConfigsAreChecked(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("a", 64)
	for _, test := range []struct{ name, text, want string }{
		{"empty", config("c", ""), "playbooks[0].content is empty"},
		{"not text", config("c", "a", "\xff"), "playbooks[1].content is not a text"},
		{"timeout", config("c", "a;, timeoutSeconds: -1"), "timeoutSeconds -1"},
		{"strategy", config("c", "a;, executionStrategy: Retry"), "must be StopOnFailure, RetryOnFailure or ExecuteOnce"},
		{"method", config("c", "a;, privilegeEscalationOptions: {becomeMethod: --x}"), "must be sudo or su"},
		{"become", config("c", "a;, privilegeEscalationOptions: {becomeUser: --x}"), `becomeUser: "--x" is not the name of a user`},
		{"user", strings.Replace(config("c", "a"), "user: ops", "user: "+long, 1), "is not the name of a user"},
		{"capability", config("c", "a;, requiredPrivilegeLevel: {capAdd: [38]}"), "no capability 38"},
		{"negative capability", config("c", "a;, requiredPrivilegeLevel: {capDrop: [-1]}"), "no capability -1"},
		{"name", config(long, "a"), "64 bytes"},
		{"mistyped", config("c", "a;, timeout: 3"), "timeout"},
		{"by hand", strings.Replace(config("c", "a"), "EdgeConfig", "PlaybookExecution", 1), "cannot be made by hand"},
	} {
		objects, broken := decodeManifest("f", []byte(test.text))
		if len(objects) != 0 || len(broken) != 1 || !strings.Contains(broken[0].err.Error(), test.want) {
			t.Errorf("%s: %d objects, %+v, want %q", test.name, len(objects), broken, test.want)
		}
	}
	for _, text := range []string{
		config("c", "a;, executionStrategy: RetryOnFailure, privilegeEscalationOptions: {become: true, becomeMethod: su, becomeUser: _a.b-c}"),
		config("c", "a;, requiredPrivilegeLevel: {capAdd: [0, 37]}"),
		"apiVersion: management.project-flotta.io/v1alpha1\nkind: EdgeConfig\nmetadata: {name: c}\nspec: {}\n",
	} {
		if objects, broken := decodeManifest("f", []byte(text)); len(objects) != 1 {
			t.Errorf("%s: %+v", text, broken)
		}
	}
}

// A config that breaks stays in force as it was, and the devices that it is for
// say so.
func TestBrokenConfig(t *testing.T) {
	t.Parallel()
	r := newRig(t, t.TempDir())
	d, other := r.enrolled("dev1"), r.enrolled("dev2")
	r.save("device.yaml", labelled("dev1", "config/device-by-config: ssh"))
	r.save("config.yaml", config("ssh", "one"))
	before := r.offers(d, "dev1-ssh")
	for _, text := range []string{config("ssh", "one;, executionStrategy: Retry"), "{"} {
		r.save("config.yaml", text)
		r.eventually("the device is degraded", func() bool {
			status, reason, message := condition(r.stored(d), v1alpha1.ConditionDegraded)
			return status == "True" && reason == "InvalidManifest" && strings.Contains(message, "config.yaml")
		})
		if diff := cmp.Diff(before, r.playbooks(d)); diff != "" {
			t.Error(diff)
		}
		if status, _, _ := condition(r.stored(other), v1alpha1.ConditionDegraded); status == "True" {
			t.Error("a device that has nothing to do with it is degraded")
		}
		r.save("config.yaml", config("ssh", "one"))
		r.eventually("all is well", func() bool {
			status, _, _ := condition(r.stored(d), v1alpha1.ConditionDegraded)
			return status == "False"
		})
	}
	if got := r.playbooks(d); !bytes.Equal([]byte(got[0].ID), []byte(before[0].ID)) {
		t.Errorf("the id is %s, before it was %s", got[0].ID, before[0].ID)
	}
}

// Defect 7.2.22: samples did not match what was read.
func TestSampleOfAConfig(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../../../config/samples/edgeconfig.yaml")
	if err != nil {
		t.Fatal(err)
	}
	objects, broken := decodeManifest("edgeconfig.yaml", text)
	if len(broken) > 0 || len(objects) != 1 {
		t.Fatalf("%d objects, %+v", len(objects), broken)
	}
	c, ok := objects[0].value.(*v1alpha1.EdgeConfig)
	if !ok {
		t.Fatalf("the sample is a %T", objects[0].value)
	}
	for line := range strings.Lines(string(c.Spec.EdgePlaybook.Playbooks[0].Content)) {
		if !strings.Contains(string(text), "#   "+line) {
			t.Errorf("the sample's comment does not show %q", line)
		}
	}
}
