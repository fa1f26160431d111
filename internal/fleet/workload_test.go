package fleet_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/project-flotta/flotta-agent/internal/fleet"
	"github.com/project-flotta/flotta-agent/internal/render"
	"github.com/project-flotta/flotta-agent/pkg/api/v1alpha1"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

func running() protocol.WorkloadStatus {
	return protocol.WorkloadStatus{
		Name: "w", Status: "Running", Reason: "NotReady", Message: "no answer", DesiredDigest: "d2", AppliedDigest: "d1",
		Restarts: 4, Since: protocol.NewTime(now.Add(-time.Hour)), Notes: []string{"a note"},
		Images: []protocol.WorkloadImage{{Container: "app", Reference: "img:1", ID: "sha256:1"}},
		DataSync: &protocol.DataSyncStatus{Egress: &protocol.DataDirectionStatus{
			LastSuccess: protocol.NewTime(now), PendingFiles: 3, PendingBytes: 4, FailedFiles: 1, LastError: "no", Blocked: "full", Paused: "night",
			Problems: []protocol.DataProblem{{Reason: "WatchLimit", Message: "no more"}},
		}},
	}
}

func listing(names ...string) *v1alpha1.EdgeDevice {
	d := fleet.NewDevice("default", "dev1", "", now)
	fleet.ListWorkloads(d, names, now)
	return d
}

func take(d *v1alpha1.EdgeDevice, list ...protocol.WorkloadStatus) {
	fleet.TakeReport(d, protocol.Heartbeat{Status: "up", Version: "v1", Workloads: list}, now)
}

func TestWorkloadDetails(t *testing.T) {
	t.Parallel()
	d := listing("w")
	take(d, running())
	at := fleet.Timestamp(now)
	since := fleet.Timestamp(now.Add(-time.Hour))
	want := v1alpha1.WorkloadStatus{
		Name: "w", Phase: "Running", LastTransitionTime: &at, Reason: "NotReady", Message: "no answer",
		DesiredDigest: "d2", AppliedDigest: "d1", Restarts: 4, Since: &since, Notes: []string{"a note"},
		Images: []v1alpha1.WorkloadImage{{Container: "app", Reference: "img:1", ID: "sha256:1"}},
		DataSync: &v1alpha1.DataSyncStatus{Egress: &v1alpha1.DataDirectionStatus{
			LastSuccessTime: &at, PendingFiles: 3, PendingBytes: 4, FailedFiles: 1, LastError: "no", Blocked: "full", Paused: "night",
			Problems: []v1alpha1.DataProblem{{Reason: "WatchLimit", Message: "no more"}},
		}},
	}
	if diff := cmp.Diff(want, d.Status.Workloads[0]); diff != "" {
		t.Errorf("status (-want +got):\n%s", diff)
	}
	// An agent of flotta v0.2 in the place of ours says nothing of it.
	take(d, protocol.WorkloadStatus{Name: "w", Status: "Running"})
	if diff := cmp.Diff(v1alpha1.WorkloadStatus{Name: "w", Phase: "Running", LastTransitionTime: &at}, d.Status.Workloads[0]); diff != "" {
		t.Errorf("status (-want +got):\n%s", diff)
	}
}

// What cannot be rendered comes before what the device says, and that is there
// again when it could be.
func TestWhoseReason(t *testing.T) {
	t.Parallel()
	d := listing("w")
	take(d, running())
	problem := []render.Problem{{Workload: "w", Reason: render.ReasonSecretNotFound, Message: "no Secret"}}
	reason := func(want string) {
		t.Helper()
		if w := d.Status.Workloads[0]; w.Reason != want || (w.Message == "") != (want == "") {
			t.Errorf("reason %q, message %q, want reason %q", w.Reason, w.Message, want)
		}
	}
	fleet.Describe(d, "v1", nil, now)
	reason("NotReady")
	fleet.Describe(d, "v1", problem, now)
	reason(render.ReasonSecretNotFound)
	take(d, running())
	fleet.Describe(d, "v1", problem, now)
	reason(render.ReasonSecretNotFound)
	fleet.Describe(d, "v1", nil, now)
	reason("")
	take(d, running())
	fleet.Describe(d, "v1", nil, now)
	reason("NotReady")
	// A device cannot speak for this side.
	forged := running()
	forged.Reason = render.ReasonSecretNotFound
	take(d, forged)
	fleet.Describe(d, "v1", nil, now)
	reason("")
}

// Whatever devices send, the status of many workloads fits into an object.
func TestHostileWorkloadDetails(t *testing.T) {
	t.Parallel()
	var names []string
	w := running()
	huge := strings.Repeat("<\x00\xff&", 1<<16)
	w.Reason, w.Message, w.DesiredDigest, w.AppliedDigest, w.Restarts = huge, huge, huge, huge, -1
	w.Since = protocol.Time{Time: time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)}
	for range 100 {
		w.Notes = append(w.Notes, huge)
		w.Images = append(w.Images, protocol.WorkloadImage{Container: huge, Reference: huge, ID: huge})
	}
	var list []protocol.WorkloadStatus
	for i := range 200 {
		w.Name = fmt.Sprint("w", i)
		w.DataSync = &protocol.DataSyncStatus{Egress: &protocol.DataDirectionStatus{
			LastError: huge, Blocked: huge, Paused: huge, Problems: slices.Repeat([]protocol.DataProblem{{Reason: huge, Message: huge}}, 100),
		}}
		w.DataSync.Ingress = w.DataSync.Egress
		names = append(names, w.Name)
		list = append(list, w, protocol.WorkloadStatus{Name: "stranger", Message: huge})
	}
	d := listing(names...)
	take(d, list...)
	raw, err := json.Marshal(d.Status)
	if err != nil || len(raw) > 900<<10 {
		t.Errorf("the status has %d bytes, %v", len(raw), err)
	}
	if got := d.Status.Workloads[0]; got.Restarts != 0 || !utf8.ValidString(got.Message+got.Reason) || strings.Contains(got.Message, "\x00") {
		t.Errorf("%d restarts, reason %q", got.Restarts, got.Reason)
	}
}

// beat makes a report of a workload part of a device, as the backends do, and
// says whether it has to be written.
func beat(d *v1alpha1.EdgeDevice, w protocol.WorkloadStatus, at time.Time) (next *v1alpha1.EdgeDevice, written bool) {
	next = fleet.Clone(d)
	fleet.TakeReport(next, protocol.Heartbeat{Status: "up", Version: "v1", Workloads: []protocol.WorkloadStatus{w}}, at)
	fleet.Describe(next, "v1", nil, at)
	fleet.Calm(d, next, at, 5*time.Minute)
	return next, !cmp.Equal(d, next)
}

func TestCountsAndProgressAreNoWrites(t *testing.T) {
	t.Parallel()
	pull := protocol.WorkloadStatus{Name: "w", Status: "Deploying", Reason: protocol.ReasonPulling}
	crash := running()
	crash.LastDataUpload = protocol.NewTime(now)
	d := listing("w")
	at, writes := now, 0
	for i := range 1200 { // twenty minutes of beats each second
		at = at.Add(time.Second)
		pull.Message = fmt.Sprint("pulled ", i)
		var written bool
		if d, written = beat(d, pull, at); written {
			writes++
		}
	}
	if writes < 4 || writes > 5 {
		t.Errorf("%d writes for the progress of twenty minutes, want one every five", writes)
	}
	if message := d.Status.Workloads[0].Message; !strings.HasPrefix(message, "pulled ") || message < "pulled 900" {
		t.Errorf("the message is %q", message)
	}

	for what, change := range map[string]func(*protocol.WorkloadStatus){
		"phase":   func(w *protocol.WorkloadStatus) { w.Status = "Degraded" },
		"reason":  func(w *protocol.WorkloadStatus) { w.Reason = "ContainerExited" },
		"message": func(w *protocol.WorkloadStatus) { w.Message = "another" },
		"desired": func(w *protocol.WorkloadStatus) { w.DesiredDigest = "d3" },
		"applied": func(w *protocol.WorkloadStatus) { w.AppliedDigest = "d2" },
		"image":   func(w *protocol.WorkloadStatus) { w.Images = nil },
		"notes":   func(w *protocol.WorkloadStatus) { w.Notes = nil },
		"data":    func(w *protocol.WorkloadStatus) { w.DataSync = nil },
		"failure": func(w *protocol.WorkloadStatus) { w.DataSync.Egress.LastError = "" },
		"blocked": func(w *protocol.WorkloadStatus) { w.DataSync.Egress.Blocked = "" },
		"paused":  func(w *protocol.WorkloadStatus) { w.DataSync.Egress.Paused = "" },
		"problem": func(w *protocol.WorkloadStatus) { w.DataSync.Egress.Problems[0].Reason = "Other" },
	} {
		first, _ := beat(listing("w"), crash, now)
		more := running()
		more.Restarts, more.LastDataUpload = 9, protocol.NewTime(now.Add(time.Minute))
		more.DataSync.Egress = &protocol.DataDirectionStatus{
			LastSuccess: protocol.NewTime(now.Add(time.Minute)), PendingFiles: 9, PendingBytes: 9, FailedFiles: 9,
			LastError: "another file", Blocked: "fewer bytes", Paused: "longer", Problems: []protocol.DataProblem{{Reason: "WatchLimit", Message: "more"}},
		}
		if _, written := beat(first, more, now.Add(time.Minute)); written {
			t.Errorf("%s: a count alone was written", what)
		}
		change(&more)
		next, written := beat(first, more, now.Add(time.Minute))
		if !written || next.Status.Workloads[0].Restarts != 9 {
			t.Errorf("%s: written %v, with %d restarts", what, written, next.Status.Workloads[0].Restarts)
		}
		if seen := next.Status.LastSeenTime; !seen.Equal(&metav1.Time{Time: fleet.Timestamp(now.Add(time.Minute)).Time}) {
			t.Errorf("%s: last seen at %s", what, seen)
		}
	}
}

// TestFirstUploadIsWritten, and later ones with what else there is.
func TestFirstUploadIsWritten(t *testing.T) {
	t.Parallel()
	d, _ := beat(listing("w"), running(), now)
	first := running()
	first.LastDataUpload = protocol.NewTime(now.Add(time.Second))
	d, written := beat(d, first, now.Add(time.Second))
	if !written || d.Status.Workloads[0].LastDataUpload == nil {
		t.Errorf("written %v, last upload %v", written, d.Status.Workloads[0].LastDataUpload)
	}
	later := running()
	later.LastDataUpload = protocol.NewTime(now.Add(time.Minute))
	if _, written := beat(d, later, now.Add(time.Minute)); written {
		t.Error("the time of an upload alone was written")
	}
}

func TestAppliedGeneration(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		w    v1alpha1.WorkloadStatus
		want int64
	}{
		"applied":        {v1alpha1.WorkloadStatus{ObservedGeneration: 2, DesiredDigest: "a", AppliedDigest: "a", Phase: "Error"}, 2},
		"rolled back":    {v1alpha1.WorkloadStatus{ObservedGeneration: 2, DesiredDigest: "b", AppliedDigest: "a", Phase: "Running"}, 0},
		"not looked yet": {v1alpha1.WorkloadStatus{ObservedGeneration: 2, AppliedDigest: "a", Phase: "Running"}, 0},
		"first one":      {v1alpha1.WorkloadStatus{ObservedGeneration: 2, DesiredDigest: "b", Phase: "Deploying"}, 0},
		"v0.2":           {v1alpha1.WorkloadStatus{ObservedGeneration: 2, Phase: "Running"}, 2},
		"v0.2, ill":      {v1alpha1.WorkloadStatus{ObservedGeneration: 2, Phase: "Exited"}, 0},
		"nothing known":  {v1alpha1.WorkloadStatus{Phase: "Running"}, 0},
	} {
		if got := fleet.AppliedGeneration(tt.w); got != tt.want {
			t.Errorf("%s: %d, want %d", name, got, tt.want)
		}
	}
}

func TestObserveOnlyWhatIsInForce(t *testing.T) {
	t.Parallel()
	d := listing("a", "b")
	take(d)
	fleet.Observe(d, "v2", map[string]int64{"a": 5})
	fleet.Observe(d, "v1", map[string]int64{"a": 3, "stranger": 9})
	if w := d.Status.Workloads; w[0].ObservedGeneration != 3 || w[1].ObservedGeneration != 0 {
		t.Errorf("generations %d and %d", w[0].ObservedGeneration, w[1].ObservedGeneration)
	}
}
