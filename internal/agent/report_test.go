package agent

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
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
	since := uploaded.Add(-time.Hour)
	workloads := workload.Status{ConfigDigest: "c1", Workloads: []workload.State{
		{Name: "fine", Phase: "Running", Desired: "d1", Applied: "d1", Notes: []string{"a note"}},
		{
			Name: "ill", Phase: "Error", Reason: "ImagePullFailed", Message: "no such image", Desired: "d3", Applied: "d2",
			Restarts: 5, Since: since, Images: []workload.ImageState{{Container: "app", Reference: "img:1", ID: "sha256:1"}},
		},
		{Name: "new", Phase: "Deploying", Reason: protocol.ReasonPulling, Message: "pulling img:2", Desired: "d4"},
	}}
	sync := datasync.Status{Workloads: []datasync.WorkloadStatus{
		{Name: "fine", LastUpload: uploaded, Ingress: datasync.DirectionStatus{Blocked: "disk is full"}},
		{Name: "ill", Egress: datasync.DirectionStatus{LastError: "no such bucket"}},
	}}
	want := heartbeat.Report{
		Workloads: []protocol.WorkloadStatus{
			{
				Name: "fine", Status: "Running", LastDataUpload: protocol.NewTime(uploaded), DesiredDigest: "d1", AppliedDigest: "d1",
				Notes:    []string{"a note"},
				DataSync: &protocol.DataSyncStatus{Ingress: &protocol.DataDirectionStatus{Blocked: "disk is full"}},
			},
			{
				Name: "ill", Status: "Error", Reason: "ImagePullFailed", Message: "no such image", DesiredDigest: "d3", AppliedDigest: "d2",
				Restarts: 5, Since: protocol.NewTime(since),
				Images:   []protocol.WorkloadImage{{Container: "app", Reference: "img:1", ID: "sha256:1"}},
				DataSync: &protocol.DataSyncStatus{Egress: &protocol.DataDirectionStatus{LastError: "no such bucket"}},
			},
			{Name: "new", Status: "Deploying", Reason: "Pulling", Message: "pulling img:2", DesiredDigest: "d4"},
		},
		// Neither a note nor being on the way is a reason.
		Degraded: []string{
			"workload ill: ImagePullFailed", "ingress of fine: disk is full", "egress of ill: no such bucket",
		},
	}
	if diff := cmp.Diff(want, report(workloads, sync, "c1")); diff != "" {
		t.Errorf("report (-want +got):\n%s", diff)
	}
	if got := report(workload.Status{}, datasync.Status{}, ""); len(got.Degraded) != 0 {
		t.Errorf("degraded without a reason: %v", got.Degraded)
	}
	// Not yet about the configuration that is in force: it must not look applied.
	for _, w := range report(workloads, sync, "c2").Workloads {
		if w.DesiredDigest != "" {
			t.Errorf("%s says it is to be %s", w.Name, w.DesiredDigest)
		}
	}
}

// A heartbeat is taken, however many workloads there are and whatever they write.
func TestReportIsBounded(t *testing.T) {
	t.Parallel()
	for _, n := range []int{1, 50, 500} {
		var status workload.Status
		notes := slices.Repeat([]string{strings.Repeat("<", 300)}, 300)
		images := slices.Repeat([]workload.ImageState{{Container: "app", Reference: strings.Repeat("<", 300), ID: strings.Repeat("i", 64)}}, 300)
		for i := range n {
			status.Workloads = append(status.Workloads, workload.State{
				Name: fmt.Sprintf("w%061d", i), Phase: "Error", Reason: "ContainerExited", Message: strings.Repeat("<\x1b[31m\xff", 200),
				Desired: strings.Repeat("d", 32), Applied: strings.Repeat("a", 32), Notes: notes, Images: images,
			})
		}
		var sync datasync.Status
		for _, w := range status.Workloads {
			hostile := datasync.DirectionStatus{LastError: strings.Repeat("<\x1b[31m\xff", 2000), Problems: slices.Repeat([]datasync.Problem{{Reason: "R", Message: strings.Repeat("<", 5000)}}, 16)}
			sync.Workloads = append(sync.Workloads, datasync.WorkloadStatus{Name: w.Name, Egress: hostile, Ingress: hostile})
		}
		got := report(status, sync, "")
		raw, err := json.Marshal(protocol.Heartbeat{Workloads: got.Workloads})
		if err != nil || len(raw) > 900<<10 {
			t.Errorf("%d workloads make a heartbeat of %d bytes, %v", n, len(raw), err)
		}
		for _, w := range got.Workloads {
			if strings.Contains(w.Message, "\x1b") {
				t.Fatalf("message %q", w.Message)
			}
		}
	}
}

func TestNewsIsNotCountsAndProgress(t *testing.T) {
	t.Parallel()
	state := workload.State{
		Name: "w", Phase: "Running", Reason: "NotReady", Message: "m", Desired: "d", Applied: "a", Restarts: 1,
		Images: []workload.ImageState{{ID: "i"}}, Notes: []string{"n"},
	}
	for what, tt := range map[string]struct {
		change func(*workload.State)
		want   bool
	}{
		"nothing":  {func(*workload.State) {}, false},
		"restarts": {func(w *workload.State) { w.Restarts++ }, false},
		"phase":    {func(w *workload.State) { w.Phase = "Exited" }, true},
		"reason":   {func(w *workload.State) { w.Reason = "" }, true},
		"message":  {func(w *workload.State) { w.Message = "another" }, true},
		"desired":  {func(w *workload.State) { w.Desired = "x" }, true},
		"applied":  {func(w *workload.State) { w.Applied = "x" }, true},
		"image":    {func(w *workload.State) { w.Images = nil }, true},
		"note":     {func(w *workload.State) { w.Notes = nil }, true},
		"name":     {func(w *workload.State) { w.Name = "x" }, true},
	} {
		next := state
		tt.change(&next)
		if got := isNews(workload.Status{Workloads: []workload.State{state}}, workload.Status{Workloads: []workload.State{next}}); got != tt.want {
			t.Errorf("%s: news is %v", what, got)
		}
	}
	pulling := state
	pulling.Reason = protocol.ReasonPulling
	further := pulling
	further.Message = "further"
	if isNews(workload.Status{Workloads: []workload.State{pulling}}, workload.Status{Workloads: []workload.State{further}}) {
		t.Error("the progress of a pull is news")
	}
	if !isNews(workload.Status{}, workload.Status{Workloads: []workload.State{state}}) {
		t.Error("a new workload is no news")
	}
}
