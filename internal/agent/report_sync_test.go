package agent

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/project-flotta/flotta-agent/internal/console"
	"github.com/project-flotta/flotta-agent/internal/datasync"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

func syncStatus(now time.Time) datasync.Status {
	return datasync.Status{Workloads: []datasync.WorkloadStatus{
		{
			Name: "camera", LastUpload: now.Add(-time.Minute),
			Egress: datasync.DirectionStatus{
				Files: 7, Bytes: 700, Spent: 1500 * time.Millisecond, Pending: 2, PendingBytes: 20, Failed: 3, Skipped: 4, Refused: 5,
				LastSuccess: now.Add(-time.Second), Paused: "until 18:00",
				Flying:   []datasync.Transfer{{Path: "a", Size: 10, Done: 8, Since: now.Add(-4 * time.Second)}, {Path: "b", Since: now.Add(time.Hour)}},
				Problems: []datasync.Problem{{Reason: "WatchLimit", Message: "no more folders"}},
			},
		},
		{Name: "idle", Egress: datasync.DirectionStatus{Paused: "until 18:00"}},
		{Name: "new"},
	}}
}

// A problem that stands degrades the device, a pause that its settings want does
// not.
func TestSyncProblems(t *testing.T) {
	t.Parallel()
	want := []string{"egress of camera: WatchLimit: no more folders"}
	if diff := cmp.Diff(want, syncProblems(syncStatus(time.Now()))); diff != "" {
		t.Error(diff)
	}
}

func TestHeartbeatSaysHowDataIs(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	want := &protocol.DataSyncStatus{Egress: &protocol.DataDirectionStatus{
		LastSuccess: protocol.NewTime(now.Add(-time.Second)), PendingFiles: 2, PendingBytes: 20, FailedFiles: 3, Paused: "until 18:00",
		Problems: []protocol.DataProblem{{Reason: "WatchLimit", Message: "no more folders"}},
	}}
	if diff := cmp.Diff(want, dataSync(syncStatus(now), "camera")); diff != "" {
		t.Error(diff)
	}
	for _, name := range []string{"new", "unknown"} {
		if got := dataSync(syncStatus(now), name); got != nil {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

func TestConsoleSaysHowDataIs(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	status := syncStatus(now)
	want := []console.DataSync{
		{
			Workload: "camera", LastUpload: now.Add(-time.Minute),
			Egress: &console.DataDirection{
				Files: 7, Bytes: 700, Seconds: 1.5, Pending: 2, PendingBytes: 20, Failed: 3, Skipped: 4, Refused: 5,
				LastSuccess: now.Add(-time.Second), Paused: "until 18:00",
				InFlight: []console.Transfer{
					{Path: "a", Size: 10, Done: 8, Since: now.Add(-4 * time.Second), Rate: 2}, {Path: "b", Since: now.Add(time.Hour)},
				},
				Problems: []console.DataProblem{{Reason: "WatchLimit", Message: "no more folders"}},
			},
		},
		{Workload: "idle", Egress: &console.DataDirection{Paused: "until 18:00"}},
		{Workload: "new"},
	}
	if diff := cmp.Diff(want, consoleSync(status, now)); diff != "" {
		t.Error(diff)
	}
}

// Who asks for a workload that has no data paths is told so.
func TestSynchroniseNothing(t *testing.T) {
	t.Parallel()
	engine, err := datasync.New(datasync.Config{Desired: noDesire{}, VolumesDir: t.TempDir(), IndexPath: t.TempDir() + "/index"})
	if err != nil {
		t.Fatal(err)
	}
	r := reporting{sync: engine}
	if got := r.synchronise(t.Context(), console.SyncRequest{}); len(got) != 0 {
		t.Errorf("all of none: %+v", got)
	}
	for _, audit := range []bool{false, true} {
		got := r.synchronise(t.Context(), console.SyncRequest{Workloads: []string{"b", "a", "b"}, Audit: audit})
		if len(got) != 2 || got[0].Workload != "a" || got[0].Error == "" || got[1].Workload != "b" {
			t.Errorf("audit %v: %+v", audit, got)
		}
	}
}
