//go:build integration

package kube

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/project-flotta/flotta-agent/internal/edgeapi"
	"github.com/project-flotta/flotta-agent/pkg/api/v1alpha1"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// Defect 7.2.9: a playbook without conditions is no panic. What is reported is
// in the device's status and in the run's; a run that ended is not run again.
func TestDefect729Playbooks(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.apply(`apiVersion: management.project-flotta.io/v1alpha1
kind: PlaybookExecution
metadata: {name: dev1-config, namespace: $NS, labels: {flotta/device: dev1}}
spec: {playbook: {content: LSBob3N0czogYWxs}}
---
apiVersion: management.project-flotta.io/v1alpha1
kind: PlaybookExecution
metadata: {name: dev2-config, namespace: $NS, labels: {flotta/device: dev2}}
spec: {playbook: {content: LSBob3N0czogYWxs}}`)
	d := r.device("dev1", nil)
	r.patchStatus(d, `{"status":{"PlaybookExec":[{"name":"dev1-config"}]}}`)
	var list []protocol.PlaybookExecution
	r.eventually("playbook", func() bool {
		var err error
		list, err = r.backend.Playbooks(t.Context(), d)
		return err == nil && len(list) == 1
	})
	if list[0].Name != "dev1-config" || list[0].AnsiblePlaybookString != "- hosts: all" {
		t.Errorf("playbooks %+v", list)
	}
	r.eventually("status seen", func() bool { return len(r.backend.devices.find(d).state().object.Status.PlaybookExec) == 1 })
	for _, state := range []string{"Running", "nonsense", "SuccessfullyCompleted", "SuccessfullyCompleted"} {
		h := report("")
		h.PlaybookExecutions = []protocol.PlaybookExecutionStatus{{Name: "dev1-config", Status: state}, {Name: "dev2-config", Status: state}, {Name: "no-such", Status: state}}
		r.heartbeat(d, h)
	}
	run, err := r.admin.playbook(t.Context(), r.namespace, "dev1-config")
	if err != nil {
		t.Fatal(err)
	}
	exec := r.get(d).Status.PlaybookExec
	if len(exec) != 1 || len(exec[0].PlaybookExecutionStatus.Conditions) != 2 {
		t.Fatalf("status of the device: %+v", exec)
	}
	for _, list := range [][]v1alpha1.PlaybookCondition{run.Status.Conditions, exec[0].PlaybookExecutionStatus.Conditions} {
		if len(list) != 2 || list[0].Type != "Running" || list[0].Status != "False" || list[1].Type != "SuccessfullyCompleted" || list[1].Status != "True" {
			t.Errorf("conditions %+v", list)
		}
	}
	other, err := r.admin.playbook(t.Context(), r.namespace, "dev2-config")
	if err != nil || len(other.Status.Conditions) != 0 {
		t.Errorf("the run of another device: %+v, %v", other.Status, err)
	}
	r.eventually("nothing left to run", func() bool {
		list, err := r.backend.Playbooks(t.Context(), d)
		return err == nil && len(list) == 0
	})
	if _, err := r.backend.Playbooks(t.Context(), r.name("unknown")); !errors.Is(err, edgeapi.ErrNotFound) {
		t.Errorf("playbooks of an unknown device: %v", err)
	}
}

// Defect 7.2.13: a device without playbooks has none, and that is no error. With
// some, it gets all that have not ended, in order.
func TestDefect7213Playbooks(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	d := r.device("dev1", map[string]string{v1alpha1.LabelDeviceByConfig: "config"})
	if list, err := r.backend.Playbooks(t.Context(), d); err != nil || len(list) != 0 {
		t.Fatalf("playbooks %v, %v", list, err)
	}
	names := []string{"dev1-config"}
	for i := 2; i <= 11; i++ {
		names = append(names, fmt.Sprintf("dev1-config-%d", i))
	}
	for _, name := range names {
		r.apply("apiVersion: management.project-flotta.io/v1alpha1\nkind: PlaybookExecution\nmetadata: {namespace: $NS, name: " + name +
			", labels: {flotta/device: dev1, config/device-by-config: config}}\nspec: {playbook: {content: LSBob3N0czogYWxs}}")
	}
	offered := func() string {
		list, err := r.backend.Playbooks(t.Context(), d)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, p := range list {
			got = append(got, p.Name)
		}
		return strings.Join(got, " ")
	}
	r.eventually("all offered", func() bool { return offered() == strings.Join(names, " ") })
	h := report("")
	h.PlaybookExecutions = []protocol.PlaybookExecutionStatus{
		{Name: names[0], Status: v1alpha1.PlaybookSuccessfullyCompleted}, {Name: names[1], Status: v1alpha1.PlaybookCompletedWithError}, {Name: names[2], Status: v1alpha1.PlaybookRunning},
	}
	r.heartbeat(d, h)
	r.eventually("those that ended are not", func() bool { return offered() == strings.Join(names[2:], " ") })
	exec := r.get(d).Status.PlaybookExec
	if len(exec) != 3 || exec[2].Name != names[2] || exec[2].PlaybookExecutionStatus.Conditions[0].Status != metav1.ConditionTrue {
		t.Errorf("status of the device: %+v", exec)
	}
	version := r.get(d).ResourceVersion
	r.heartbeat(d, h)
	if after := r.get(d).ResourceVersion; after != version {
		t.Error("the same report again was written")
	}
	r.remove(group, "PlaybookExecution", names[0])
	r.eventually("an entry without a run goes", func() bool {
		r.heartbeat(d, h)
		return len(r.get(d).Status.PlaybookExec) == 2
	})
}
