package fleet_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/project-flotta/flotta-agent/internal/fleet"
	"github.com/project-flotta/flotta-agent/internal/render"
	"github.com/project-flotta/flotta-agent/pkg/api/v1alpha1"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// Defect 7.2.8: a report without hardware details or without an upgrade cleared
// what was known.
func TestDefect728ReportsNeverClear(t *testing.T) {
	t.Parallel()
	d := fleet.NewDevice("default", "dev1", "", now)
	fleet.TakeReport(d, protocol.Heartbeat{
		Status: "up", Version: "v1",
		Upgrade: &protocol.UpgradeStatus{CurrentCommitID: "c0ffee"},
		Hardware: &protocol.HardwareInfo{
			Hostname: "host", CPU: &protocol.CPU{Architecture: "x86_64", Count: 4}, Memory: &protocol.Memory{PhysicalBytes: 1 << 30},
		},
	}, now)
	fleet.TakeReport(d, protocol.Heartbeat{Status: "degraded", Version: "v2", Hardware: &protocol.HardwareInfo{Memory: &protocol.Memory{UsableBytes: 5}}}, now)
	s := d.Status
	if s.Phase != "degraded" || s.LastSyncedResourceVersion != "v2" || s.UpgradeInformation.CurrentCommitID != "c0ffee" ||
		s.Hardware.CPU.Count != 4 || s.Hardware.Memory.PhysicalBytes != 1<<30 || s.Hardware.Memory.UsableBytes != 5 {
		t.Errorf("status %+v, hardware %+v", s, s.Hardware)
	}
	if d.Labels[v1alpha1.LabelCPUArchitecture] != "x86_64" || d.Labels[v1alpha1.LabelHostname] != "host" {
		t.Errorf("labels %v", d.Labels)
	}
}

// Defect 7.2.3: the order of workloads was random, so equal reports changed the
// object.
func TestDefect723EqualReportsChangeNothing(t *testing.T) {
	t.Parallel()
	d := fleet.NewDevice("default", "dev1", "", now)
	fleet.ListWorkloads(d, []string{"c", "a", "b"}, now)
	report := protocol.Heartbeat{Status: "up", Version: "v1", Workloads: []protocol.WorkloadStatus{
		{Name: "b", Status: "Running"}, {Name: "a", Status: "Running"}, {Name: "stranger", Status: "Running"}, {Name: "c", Status: "Crashed"},
	}}
	fleet.TakeReport(d, report, now)
	fleet.Describe(d, "v1", nil, now)
	before := fleet.Clone(d)
	later := now.Add(time.Hour)
	fleet.ListWorkloads(d, []string{"b", "c", "a"}, later)
	fleet.TakeReport(d, report, later)
	fleet.Describe(d, "v1", nil, later)
	if diff := cmp.Diff(before, d); diff != "" {
		t.Errorf("the same report changed the object:\n%s", diff)
	}
	var names []string
	for _, w := range d.Status.Workloads {
		names = append(names, w.Name+" "+w.Phase)
	}
	if diff := cmp.Diff([]string{"a Running", "b Running", "c Crashed"}, names); diff != "" {
		t.Error(diff)
	}
}

func TestDescribe(t *testing.T) {
	t.Parallel()
	d := fleet.NewDevice("default", "dev1", "", now)
	fleet.ListWorkloads(d, []string{"good", "bad"}, now)
	problems := []render.Problem{
		{Workload: "bad", Reason: "SecretNotFound", Message: "no Secret " + strings.Repeat("x", 9000)},
		{Reason: "InvalidStorage", Message: "no bucket"},
	}
	fleet.TakeReport(d, protocol.Heartbeat{Version: "v1"}, now)
	fleet.Describe(d, "v2", problems, now)
	conditions := map[string]metav1.Condition{}
	for _, c := range d.Status.Conditions {
		conditions[c.Type] = c
	}
	degraded, applied := conditions[v1alpha1.ConditionDegraded], conditions[v1alpha1.ConditionConfigurationApplied]
	if degraded.Status != "True" || degraded.Reason != "SecretNotFound" || len(degraded.Message) > 4096 {
		t.Errorf("degraded: %s %s, message of %d bytes", degraded.Status, degraded.Reason, len(degraded.Message))
	}
	if applied.Status != "False" || !strings.Contains(applied.Message, "v2") {
		t.Errorf("applied: %+v", applied)
	}
	for _, w := range d.Status.Workloads {
		if (w.Reason == "SecretNotFound") != (w.Name == "bad") {
			t.Errorf("workload %s has the reason %q", w.Name, w.Reason)
		}
	}
	later := now.Add(time.Minute)
	fleet.TakeReport(d, protocol.Heartbeat{Version: "v2"}, later)
	fleet.Describe(d, "v2", nil, later)
	for _, c := range d.Status.Conditions {
		moved := c.LastTransitionTime.Equal(new(fleet.Timestamp(later)))
		want := c.Type == v1alpha1.ConditionDegraded || c.Type == v1alpha1.ConditionConfigurationApplied
		if moved != want {
			t.Errorf("time of %s: %s", c.Type, c.LastTransitionTime)
		}
	}
}

func TestTouchIsCoarse(t *testing.T) {
	t.Parallel()
	d := &v1alpha1.EdgeDevice{}
	fleet.Touch(d, now, 5*time.Minute)
	first := d.Status.LastSeenTime
	fleet.Touch(d, now.Add(4*time.Minute), 5*time.Minute)
	if d.Status.LastSeenTime != first {
		t.Error("written within the interval")
	}
	for _, at := range []time.Time{now.Add(5 * time.Minute), now.Add(-time.Hour)} {
		fleet.Touch(d, at, 5*time.Minute)
		if !d.Status.LastSeenTime.Equal(new(fleet.Timestamp(at))) {
			t.Errorf("at %s it says %s", at, d.Status.LastSeenTime)
		}
	}
}
