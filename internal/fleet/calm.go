package fleet

import (
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/project-flotta/flotta-agent/pkg/api/v1alpha1"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// Calm decides what a report is worth, after it was taken over into next, a
// changed clone of before. Counts, the progress of a pull and the times of uploads
// differ from report to report, and a write for each would be one a second for
// each device that starts something, or one a minute for each that sends data. So when nothing else differs, next becomes as before again,
// but for once every interval, which is when the device is noted as seen
// as well. With anything else they are written at once, and the device is seen.
func Calm(before, next *v1alpha1.EdgeDevice, now time.Time, interval time.Duration) {
	Touch(next, now, interval)
	if next.Status.LastSeenTime != before.Status.LastSeenTime {
		return
	}
	if equality.Semantic.DeepEqual(steady(before), steady(next)) {
		next.Status.Workloads = before.Status.Workloads
		return
	}
	Touch(next, now, 0) // it is written anyway
}

// steady returns a status without what moves all the time.
func steady(d *v1alpha1.EdgeDevice) v1alpha1.EdgeDeviceStatus {
	s := d.Status
	s.Workloads = slices.Clone(s.Workloads)
	for i := range s.Workloads {
		w := &s.Workloads[i]
		w.Restarts = 0
		if protocol.InProgress(w.Reason) {
			w.Message = ""
		}
		if w.LastDataUpload != nil { // that there was one at all is news
			w.LastDataUpload = &metav1.Time{}
		}
		w.DataSync = steadySync(w.DataSync)
	}
	return s
}

// steadySync leaves what is wrong, and neither how much nor the wording: errors
// name the file that happened to be the first, and how many bytes are free.
func steadySync(s *v1alpha1.DataSyncStatus) *v1alpha1.DataSyncStatus {
	if s == nil {
		return nil
	}
	steady := func(d *v1alpha1.DataDirectionStatus) *v1alpha1.DataDirectionStatus {
		var out v1alpha1.DataDirectionStatus
		if d == nil {
			return &out
		}
		out.LastError, out.Blocked, out.Paused = sign(d.LastError), sign(d.Blocked), sign(d.Paused)
		for _, p := range d.Problems {
			out.Problems = append(out.Problems, v1alpha1.DataProblem{Reason: p.Reason})
		}
		return &out
	}
	return &v1alpha1.DataSyncStatus{Egress: steady(s.Egress), Ingress: steady(s.Ingress)}
}

// sign says no more than that there is a text.
func sign(text string) string {
	if text == "" {
		return ""
	}
	return "some"
}
