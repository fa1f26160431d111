package operator

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/project-flotta/flotta-agent/internal/fleet"
	"github.com/project-flotta/flotta-agent/pkg/api/v1alpha1"
)

// summary is what became of all runs of a config.
type summary struct {
	runs, done int
	failed     []string // each with its reason
}

// add counts a run. It returns the error, unless that is one that counts as a
// failure of the run.
func (s *summary) add(name string, status v1alpha1.PlaybookExecutionStatus, err error) error {
	s.runs++
	if r, ok := asRefusal(err); ok {
		text := name + " (" + r.reason + ")"
		if r.reason == "Invalid" { // nothing else tells what is
			text = name + " (" + r.Error() + ")"
		}
		s.failed = append(s.failed, fleet.Clip(text))
		return nil
	}
	switch state := fleet.RunState(status); state.Type {
	case v1alpha1.PlaybookSuccessfullyCompleted:
		s.done++
	case v1alpha1.PlaybookCompletedWithError:
		if state.Reason != "" {
			name += " (" + state.Reason + ")"
		}
		s.failed = append(s.failed, name)
	}
	return err
}

func (s *summary) finished() bool { return s.runs > 0 && s.done+len(s.failed) == s.runs }

func (s *summary) reason() string {
	switch {
	case s.runs == 0:
		return "NoDevices"
	case len(s.failed) > 0:
		return "Failed"
	case s.done == s.runs:
		return "Succeeded"
	}
	return "Running"
}

func (s *summary) text() string {
	text := fmt.Sprintf("%d of %d runs succeeded, %d failed", s.done, s.runs, len(s.failed))
	if n := len(s.failed); n > 0 {
		text += ": " + strings.Join(s.failed[:min(n, maxNamed)], ", ")
		if n > maxNamed {
			text += fmt.Sprintf(" and %d more", n-maxNamed)
		}
	}
	return text
}

// report sums the runs up in the status of the config. A failure that is new is an
// Event as well.
func (c *configs) report(ctx context.Context, config *v1alpha1.EdgeConfig, sum summary) error {
	base := config.DeepCopy()
	if config.Status.EdgePlaybookStatus == nil {
		config.Status.EdgePlaybookStatus = &v1alpha1.EdgePlaybookStatus{}
	}
	s := config.Status.EdgePlaybookStatus
	before := *s
	s.Runs, s.Succeeded, s.Failed = count(sum.runs), count(sum.done), count(len(sum.failed))
	s.Conditions = withConfigCondition(s.Conditions, v1alpha1.EdgePlaybookDeploying, sum.runs > 0 && !sum.finished(), sum)
	s.Conditions = withConfigCondition(s.Conditions, v1alpha1.EdgePlaybookCompleted, sum.finished(), sum)
	if equality.Semantic.DeepEqual(base.Status, config.Status) {
		return nil
	}
	if err := c.patchStatus(ctx, base, config); err != nil {
		return err
	}
	switch {
	case s.Failed > before.Failed:
		c.warn(config, "PlaybookFailed", "%s", fleet.Clip(sum.text()))
	case sum.reason() == "Succeeded" && before.Succeeded < s.Succeeded:
		c.say(config, "PlaybooksSucceeded", "%s", sum.text())
	}
	return nil
}

func count(n int) int32 { return int32(min(n, 1<<30)) } //nolint:gosec // it is bounded here

func withConfigCondition(list []v1alpha1.PlaybookCondition, kind string, is bool, sum summary) []v1alpha1.PlaybookCondition {
	at := fleet.Timestamp(time.Now())
	next := v1alpha1.PlaybookCondition{
		Type: kind, Status: metav1.ConditionFalse, Reason: sum.reason(), Message: sum.text(), LastTransitionTime: &at,
	}
	if is {
		next.Status = metav1.ConditionTrue
	}
	list = slices.Clone(list)
	i := slices.IndexFunc(list, func(c v1alpha1.PlaybookCondition) bool { return c.Type == kind })
	if i < 0 {
		return append(list, next)
	}
	if list[i].Status == next.Status {
		next.LastTransitionTime = list[i].LastTransitionTime
	}
	list[i] = next
	return list
}
