package fleet

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/project-flotta/flotta-agent/internal/render"
	"github.com/project-flotta/flotta-agent/pkg/api/v1alpha1"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// Clone returns a copy whose metadata and status may be changed without changing
// the original: maps and lists are copied, what they point to is not.
func Clone(d *v1alpha1.EdgeDevice) *v1alpha1.EdgeDevice {
	c := *d
	c.Labels = maps.Clone(d.Labels)
	c.Annotations = maps.Clone(d.Annotations)
	c.Status.Workloads = slices.Clone(d.Status.Workloads)
	c.Status.PlaybookExec = slices.Clone(d.Status.PlaybookExec)
	c.Status.Conditions = slices.Clone(d.Status.Conditions)
	return &c
}

// Touch notes that the device was heard of, no more often than every interval.
func Touch(d *v1alpha1.EdgeDevice, now time.Time, interval time.Duration) {
	if last := d.Status.LastSeenTime; last == nil || now.Sub(last.Time) >= interval || now.Before(last.Time) {
		at := Timestamp(now)
		d.Status.LastSeenTime = &at
	}
}

// TakeReport takes over what a device says about itself and the workloads that
// its status lists. What a report leaves out is as it was.
func TakeReport(d *v1alpha1.EdgeDevice, report protocol.Heartbeat, now time.Time) {
	d.Status.Phase = Clip(report.Status)
	d.Status.LastSyncedResourceVersion = Clip(report.Version)
	if u := report.Upgrade; u != nil {
		d.Status.UpgradeInformation = &v1alpha1.UpgradeInformation{
			CurrentCommitID:   Clip(u.CurrentCommitID),
			LastUpgradeStatus: Clip(u.LastUpgradeStatus),
			LastUpgradeTime:   Clip(u.LastUpgradeTime),
		}
	}
	TakeHardware(d, report.Hardware)
	takeWorkloads(d, report.Workloads, now)
}

// maxWorkloadBytes bounds what all workloads of a device may say about
// themselves in its status, which is one object of at most 1.5 MiB. Even when
// JSON needs six bytes for each of them there is room for the hardware.
const maxWorkloadBytes = 128 << 10

// takeWorkloads takes over the states of the workloads that the device is to
// run; others are leftovers that it is about to remove.
func takeWorkloads(d *v1alpha1.EdgeDevice, reported []protocol.WorkloadStatus, now time.Time) {
	entries := make(map[string]*v1alpha1.WorkloadStatus, len(d.Status.Workloads))
	for i := range d.Status.Workloads {
		entries[d.Status.Workloads[i].Name] = &d.Status.Workloads[i]
	}
	byName := make(map[string]protocol.WorkloadStatus, len(entries))
	for _, w := range reported {
		if entries[w.Name] != nil {
			byName[w.Name] = w
		}
	}
	for _, w := range protocol.Bounded(slices.Collect(maps.Values(byName)), maxWorkloadBytes) {
		takeWorkload(entries[w.Name], w, now)
	}
}

// takeWorkload takes over one state. A device of flotta v0.2 says no more than
// phase and time of upload.
func takeWorkload(entry *v1alpha1.WorkloadStatus, w protocol.WorkloadStatus, now time.Time) {
	if phase := Clip(w.Status); phase != entry.Phase {
		at := Timestamp(now)
		entry.Phase, entry.LastTransitionTime = phase, &at
	}
	if !w.LastDataUpload.IsZero() {
		at := Timestamp(w.LastDataUpload.Time)
		entry.LastDataUpload = &at
	}
	entry.Reason, entry.Message = w.Reason, w.Message
	entry.DesiredDigest, entry.AppliedDigest = w.DesiredDigest, w.AppliedDigest
	entry.Restarts, entry.Notes = w.Restarts, w.Notes
	entry.Since, entry.Images = nil, nil
	if !w.Since.IsZero() {
		at := Timestamp(w.Since.Time)
		entry.Since = &at
	}
	for _, image := range w.Images {
		entry.Images = append(entry.Images, v1alpha1.WorkloadImage(image))
	}
	entry.DataSync = takeDataSync(w.DataSync)
}

// takeDataSync makes a new value: entries of a clone point to the original's.
func takeDataSync(s *protocol.DataSyncStatus) *v1alpha1.DataSyncStatus {
	if s == nil {
		return nil
	}
	return &v1alpha1.DataSyncStatus{Egress: takeDirection(s.Egress), Ingress: takeDirection(s.Ingress)}
}

func takeDirection(d *protocol.DataDirectionStatus) *v1alpha1.DataDirectionStatus {
	if d == nil {
		return nil
	}
	out := v1alpha1.DataDirectionStatus{
		PendingFiles: d.PendingFiles, PendingBytes: d.PendingBytes, FailedFiles: d.FailedFiles,
		LastError: d.LastError, Blocked: d.Blocked, Paused: d.Paused,
	}
	if !d.LastSuccess.IsZero() {
		at := Timestamp(d.LastSuccess.Time)
		out.LastSuccessTime = &at
	}
	for _, p := range d.Problems {
		out.Problems = append(out.Problems, v1alpha1.DataProblem(p))
	}
	return &out
}

// ListWorkloads makes the status list exactly the workloads with these names, in
// their order: an entry that is there stays as it is, a new one is deploying.
func ListWorkloads(d *v1alpha1.EdgeDevice, names []string, now time.Time) {
	at := Timestamp(now)
	list := make([]v1alpha1.WorkloadStatus, 0, len(names))
	for _, name := range names {
		entry := v1alpha1.WorkloadStatus{Name: name, Phase: v1alpha1.PhaseDeploying, LastTransitionTime: &at}
		if i := slices.IndexFunc(d.Status.Workloads, func(s v1alpha1.WorkloadStatus) bool { return s.Name == name }); i >= 0 {
			entry = d.Status.Workloads[i]
		}
		list = append(list, entry)
	}
	slices.SortFunc(list, func(a, b v1alpha1.WorkloadStatus) int { return cmp.Compare(a.Name, b.Name) })
	d.Status.Workloads = list
}

// Describe says in the status what became of a configuration: whether the device
// has it in force, and what could not be rendered, for the device and for each
// workload that the status lists. Version must be taken over by TakeReport first.
func Describe(d *v1alpha1.EdgeDevice, version string, problems []render.Problem, now time.Time) {
	for i := range d.Status.Workloads {
		entry := &d.Status.Workloads[i]
		if render.IsReason(entry.Reason) { // any other is the device's
			entry.Reason, entry.Message = "", ""
		}
		mine := slices.DeleteFunc(slices.Clone(problems), func(p render.Problem) bool { return p.Workload != entry.Name })
		if len(mine) > 0 {
			entry.Reason, entry.Message = mine[0].Reason, problemText(mine)
		}
	}

	applied := metav1.Condition{
		Type: v1alpha1.ConditionConfigurationApplied, Status: metav1.ConditionFalse, Reason: "Pending",
		Message: "version " + version + " is not in force on the device yet",
	}
	if d.Status.LastSyncedResourceVersion == version {
		applied.Status, applied.Reason = metav1.ConditionTrue, "Applied"
		applied.Message = "version " + version + " is in force on the device"
	}
	SetCondition(d, applied, now)

	degraded := metav1.Condition{
		Type: v1alpha1.ConditionDegraded, Status: metav1.ConditionFalse, Reason: "AsWanted", Message: "everything could be rendered",
	}
	if len(problems) > 0 {
		degraded.Status, degraded.Reason = metav1.ConditionTrue, problems[0].Reason
		degraded.Message = problemText(problems)
	}
	SetCondition(d, degraded, now)
}

// Observe notes which generation of each workload is in the configuration that
// is in force, when that is the given version. Generations are by name; those of
// workloads that could not be rendered must not be among them.
func Observe(d *v1alpha1.EdgeDevice, version string, generations map[string]int64) {
	if d.Status.LastSyncedResourceVersion != version {
		return
	}
	for i := range d.Status.Workloads {
		entry := &d.Status.Workloads[i]
		if n, ok := generations[entry.Name]; ok {
			entry.ObservedGeneration = n
		}
	}
}

// AppliedGeneration returns the generation of a workload that a device has seen
// work; 0 when that is none, or not known. A device of flotta v0.2 does not tell
// what it has applied; of such a device it is enough that the workload runs.
func AppliedGeneration(w v1alpha1.WorkloadStatus) int64 {
	applied := w.DesiredDigest == w.AppliedDigest
	if w.DesiredDigest == "" && w.AppliedDigest == "" {
		applied = strings.EqualFold(w.Phase, v1alpha1.PhaseRunning)
	}
	if !applied {
		return 0
	}
	return w.ObservedGeneration
}

func problemText(problems []render.Problem) string {
	lines := make([]string, 0, len(problems))
	for _, p := range problems {
		text := p.Message
		if p.Workload != "" {
			text = p.Workload + ": " + text
		}
		lines = append(lines, text)
	}
	return clipTo(strings.Join(lines, "; "), maxMessage)
}
