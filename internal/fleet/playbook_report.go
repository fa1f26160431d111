package fleet

import (
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/project-flotta/flotta-agent/pkg/api/v1alpha1"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

const (
	// maxPlaybookBytes bounds the messages of all runs in the status of a device,
	// beside its workloads and hardware.
	maxPlaybookBytes = 64 << 10
	// minPlaybookText is left to each run of a device that has very many.
	minPlaybookText = 64
	maxRunReason    = 128
)

// TakeRun returns the status of the run with that ID after a report of its device.
// The one that it got is not changed.
//
// A report of another run of that name, such as the one before it was changed,
// says nothing; nor does a state that there is none of. A run that is over does
// not begin again: that report was on its way for long.
func TakeRun(s v1alpha1.PlaybookExecutionStatus, id string, report protocol.PlaybookExecutionStatus, now time.Time) v1alpha1.PlaybookExecutionStatus {
	return takeRun(s, id, report, MaxText, now)
}

func takeRun(s v1alpha1.PlaybookExecutionStatus, id string, report protocol.PlaybookExecutionStatus, room int, now time.Time) v1alpha1.PlaybookExecutionStatus {
	if !isRunState(report.Status) || report.ID != "" && report.ID != id || RunEnded(s, id) && !isEnd(report.Status) {
		return s
	}
	var list []v1alpha1.PlaybookCondition
	if tellsOf(s, id) {
		list = slices.Clone(s.Conditions)
	}
	at := Timestamp(now)
	for i := range list {
		c := &list[i]
		if c.Type != report.Status && c.Status != metav1.ConditionFalse {
			*c = v1alpha1.PlaybookCondition{Type: c.Type, Status: metav1.ConditionFalse, LastTransitionTime: &at}
		}
	}
	next := v1alpha1.PlaybookCondition{
		Type: report.Status, Status: metav1.ConditionTrue, LastTransitionTime: &at,
		Reason: printable(report.Reason, maxRunReason), Message: printable(report.Message, room),
	}
	i := slices.IndexFunc(list, func(c v1alpha1.PlaybookCondition) bool { return c.Type == report.Status })
	if i < 0 {
		return v1alpha1.PlaybookExecutionStatus{RunID: id, Conditions: append(list, next)}
	}
	if old := list[i]; old.Status == next.Status {
		next.LastTransitionTime = old.LastTransitionTime
		if old.Reason == next.Reason && !isEnd(next.Type) {
			next.Message = old.Message // how it gets on is not worth a write each time
		}
	}
	list[i] = next
	return v1alpha1.PlaybookExecutionStatus{RunID: id, Conditions: list}
}

func printable(text string, limit int) string {
	// Texts can be huge: what is cut away need not be printable.
	return clipTo(protocol.Printable(clipTo(text, limit)), limit)
}

func isRunState(state string) bool {
	switch state {
	case v1alpha1.PlaybookDeploying, v1alpha1.PlaybookTargetVerification, v1alpha1.PlaybookRunning,
		v1alpha1.PlaybookSuccessfullyCompleted, v1alpha1.PlaybookCompletedWithError:
		return true
	}
	return false
}

// TakeRuns writes into the status of a device what it reports of its runs, whose
// IDs are by name. Others that it names are none of it. Entries of runs that are
// no more go, and those of runs that were changed since begin anew.
func TakeRuns(d *v1alpha1.EdgeDevice, ids map[string]string, reported []protocol.PlaybookExecutionStatus, now time.Time) {
	list := slices.DeleteFunc(slices.Clone(d.Status.PlaybookExec), func(e v1alpha1.PlaybookExec) bool {
		_, ok := ids[e.Name]
		return !ok
	})
	index := make(map[string]int, len(list))
	for i, e := range list {
		index[e.Name] = i
		if id := ids[e.Name]; !tellsOf(e.PlaybookExecutionStatus, id) {
			list[i].PlaybookExecutionStatus = BegunRun(id, now)
		}
	}
	room := min(max(maxPlaybookBytes/max(len(ids), 1), minPlaybookText), MaxText)
	for _, report := range reported {
		id, ok := ids[report.Name]
		if !ok {
			continue
		}
		i, there := index[report.Name]
		var before v1alpha1.PlaybookExecutionStatus
		if there {
			before = list[i].PlaybookExecutionStatus
		}
		after := takeRun(before, id, report, room, now)
		switch {
		case there:
			list[i].PlaybookExecutionStatus = after
		case len(after.Conditions) > 0:
			index[report.Name] = len(list)
			list = append(list, v1alpha1.PlaybookExec{Name: report.Name, PlaybookExecutionStatus: after})
		}
	}
	if len(list) == 0 {
		list = nil // as it is read again
	}
	d.Status.PlaybookExec = list
}
