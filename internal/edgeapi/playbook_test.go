package edgeapi_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/project-flotta/flotta-agent/internal/edgeapi"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// asked returns the JSON text that a device gets for its question for playbooks.
func (r *rig) asked(c *http.Client, id string) string {
	r.t.Helper()
	got := r.send(c, id, protocol.DirectiveAnsible, nil)
	want(r.t, "ansible", got, http.StatusOK)
	var m protocol.MessageResponse
	r.must(json.Unmarshal(got.body, &m))
	var text string
	r.must(json.Unmarshal(m.Content, &text))
	return text
}

// A playbook goes from a manifest to a device and its result back, over the wire,
// with every option under its name.
func TestPlaybooksOverTheWire(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{auto: true})
	own, _ := r.join("dev1")
	if got := r.asked(own, "dev1"); got != "[]" {
		t.Errorf("without playbooks a device gets %s", got)
	}
	r.write("manifests/dev1.yaml", `{apiVersion: management.project-flotta.io/v1alpha1, kind: EdgeDevice, metadata: {name: dev1, labels: {config/device-by-config: cfg}}}`)
	r.write("manifests/cfg.yaml", `apiVersion: management.project-flotta.io/v1alpha1
kind: EdgeConfig
metadata: {name: cfg}
spec:
  edgePlaybook:
    user: admin
    playbooks:
    - content: `+base64.StdEncoding.EncodeToString([]byte("- hosts: all # <é>\n"))+`
      timeoutSeconds: 120
      executionStrategy: StopOnFailure
      ansibleOptions: {check: true}
      privilegeEscalationOptions: {become: true, becomeMethod: sudo, becomeUser: postgres}
      requiredPrivilegeLevel: {capAdd: [12], capDrop: [21]}
`)
	var text string
	r.eventually("offered", func() bool { text = r.asked(own, "dev1"); return text != "[]" })
	var list []map[string]any
	r.must(json.Unmarshal([]byte(text), &list))
	id, _ := list[0]["id"].(string)
	wanted := []map[string]any{{
		"name": "dev1-cfg", "ansible_playbook_string": "- hosts: all # <é>\n", "last_data_upload": "0001-01-01T00:00:00.000Z", "id": id,
		"config": "cfg", "timeout_seconds": 120.0, "execution_strategy": "StopOnFailure", "user": "admin", "check": true,
		"become": map[string]any{"method": "sudo", "user": "postgres"}, "cap_add": []any{12.0}, "cap_drop": []any{21.0},
	}}
	if diff := cmp.Diff(wanted, list); diff != "" || id == "" {
		t.Errorf("id %q: %s", id, diff)
	}
	report := func(id, status string) {
		t.Helper()
		want(t, "heartbeat", r.send(own, "dev1", protocol.DirectiveHeartbeat, protocol.Heartbeat{PlaybookExecutions: []protocol.PlaybookExecutionStatus{
			{Name: "dev1-cfg", ID: id, Status: status},
		}}), http.StatusOK)
	}
	report("another", protocol.PlaybookSuccessfullyCompleted)
	report(id, protocol.PlaybookRunning)
	if got := r.asked(own, "dev1"); got != text {
		t.Errorf("while it runs, the device gets %s", got)
	}
	report(id, protocol.PlaybookCompletedWithError)
	if got := r.asked(own, "dev1"); got != "[]" {
		t.Errorf("after the end the device gets %s", got)
	}
}

// noPlaybooks fails to tell playbooks.
type noPlaybooks struct{ edgeapi.Backend }

func (noPlaybooks) Playbooks(context.Context, edgeapi.Device) ([]protocol.PlaybookExecution, error) {
	return nil, errors.New("disk on fire")
}

// Defects 7.2.13 and 7.2.21: having no playbooks was an error, and a failure was
// answered in the words of another operation.
func TestDefect7221PlaybooksFail(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{auto: true, edit: func(c *edgeapi.Config) { c.Backend = noPlaybooks{c.Backend} }})
	own, _ := r.join("dev1")
	want(t, "failing", r.send(own, "dev1", protocol.DirectiveAnsible, nil), http.StatusInternalServerError)
	if log := r.log.String(); !strings.Contains(log, "operation=ansible") || !strings.Contains(log, "list playbooks of default/dev1: disk on fire") {
		t.Errorf("the log says\n%s", log)
	}
	if got := r.metric(`flotta_api_request_duration_seconds_count{code="500",operation="ansible"}`); got != "1" {
		t.Errorf("counted %q failures of ansible", got)
	}
}
