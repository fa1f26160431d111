package agent

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/project-flotta/flotta-agent/internal/datasync"
	"github.com/project-flotta/flotta-agent/internal/heartbeat"
	"github.com/project-flotta/flotta-agent/internal/workload"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

func TestReport(t *testing.T) {
	t.Parallel()
	uploaded := time.Date(2026, 1, 2, 3, 4, 5, 6e6, time.UTC)
	got := report(
		workload.Status{Workloads: []workload.State{
			{Name: "fine", Phase: "Running"},
			{Name: "ill", Phase: "Error", Reason: "ImagePullFailed", Message: "no such image"},
		}},
		datasync.Status{Workloads: []datasync.WorkloadStatus{
			{Name: "fine", LastUpload: uploaded, Ingress: datasync.DirectionStatus{Blocked: "disk is full"}},
			{Name: "ill", Egress: datasync.DirectionStatus{LastError: "no such bucket"}},
		}},
	)
	want := heartbeat.Report{
		Workloads: []protocol.WorkloadStatus{
			{Name: "fine", Status: "Running", LastDataUpload: protocol.NewTime(uploaded)},
			{Name: "ill", Status: "Error"},
		},
		Degraded: []string{
			"workload ill: ImagePullFailed", "ingress of fine: disk is full", "egress of ill: no such bucket",
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("report (-want +got):\n%s", diff)
	}
	if got := report(workload.Status{}, datasync.Status{}); len(got.Degraded) != 0 {
		t.Errorf("degraded without a reason: %v", got.Degraded)
	}
}
