package operator

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/project-flotta/flotta-agent/internal/fleet"
	"github.com/project-flotta/flotta-agent/pkg/api/v1alpha1"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// refusal is why a run is not there that a config asks for. Trying again does not
// help: a person has to change something.
type refusal struct{ reason, message string }

func (r refusal) Error() string { return r.reason + ": " + r.message }

// ensure makes one run as it is wanted, and returns its status. Known is the run
// as it was listed, or nil; it is not changed. Before are the runs of the same
// device and config that come first.
func (c *configs) ensure(ctx context.Context, wanted, known *v1alpha1.PlaybookExecution, before []*v1alpha1.PlaybookExecution) (v1alpha1.PlaybookExecutionStatus, error) {
	if known != nil && isDone(known, wanted, before) {
		return known.Status, nil
	}
	run := &v1alpha1.PlaybookExecution{}
	err := c.client.Get(ctx, client.ObjectKeyFromObject(wanted), run)
	switch {
	case apierrors.IsNotFound(err):
		return c.create(ctx, wanted, before)
	case err != nil:
		return run.Status, fmt.Errorf("read playbook execution: %w", err)
	case run.DeletionTimestamp != nil:
		return v1alpha1.PlaybookExecutionStatus{}, nil // it is made again when it is gone
	case !isRun(run, wanted):
		r := refusal{"NameTaken", fmt.Sprintf("EdgeConfig %s wants this name for device %s; rename the config",
			wanted.Labels[v1alpha1.LabelDeviceByConfig], wanted.Labels[v1alpha1.LabelDevice])}
		c.warn(run, r.reason, "%s", r.message)
		return v1alpha1.PlaybookExecutionStatus{}, r
	}
	err = c.keep(ctx, run, wanted, before)
	if apierrors.IsInvalid(err) {
		err = refusal{"Invalid", err.Error()}
	}
	return run.Status, err
}

func (c *configs) create(ctx context.Context, wanted *v1alpha1.PlaybookExecution, before []*v1alpha1.PlaybookExecution) (v1alpha1.PlaybookExecutionStatus, error) {
	run := wanted.DeepCopy()
	err := c.client.Create(ctx, run, client.FieldOwner(FieldOwner))
	switch {
	case apierrors.IsInvalid(err):
		// The config was stored before the schema asked for more, or the name of the
		// device is too long for a label.
		return v1alpha1.PlaybookExecutionStatus{}, refusal{"Invalid", err.Error()}
	case err != nil:
		return v1alpha1.PlaybookExecutionStatus{}, fmt.Errorf("create playbook execution: %w", err)
	}
	if err := c.begin(ctx, run); err != nil {
		return run.Status, err
	}
	err = c.skip(ctx, run, before)
	return run.Status, err
}

// keep changes a run that is there. What was changed, here or by somebody who
// raised its executionAttempt, is run again: the API server then counts another
// generation than the one that the status tells of.
func (c *configs) keep(ctx context.Context, run, wanted *v1alpha1.PlaybookExecution, before []*v1alpha1.PlaybookExecution) error {
	if run.Labels[v1alpha1.LabelDevice] == "" {
		// One of flotta v0.2, which had no place for the user. It is the same run.
		err := c.patch(ctx, run, func() {
			for key, value := range wanted.Labels {
				metav1.SetMetaDataLabel(&run.ObjectMeta, key, value)
			}
			run.Spec.User = wanted.Spec.User
		})
		if err != nil {
			return err
		}
	}
	if run.Status.RunID == "" && len(run.Status.Conditions) > 0 {
		// Before anything changes it has to be known what the status is of.
		base := run.DeepCopy()
		run.Status.RunID = fleet.RunID(run)
		if err := c.patchStatus(ctx, base, run); err != nil {
			return err
		}
	}
	again := goesOn(run, before)
	if again || !isAsWanted(run, wanted) {
		err := c.patch(ctx, run, func() {
			run.Spec.Playbook, run.Spec.User = wanted.Spec.Playbook.DeepCopy(), wanted.Spec.User
			if again {
				run.Spec.ExecutionAttempt++
			}
		})
		if err != nil {
			return err
		}
	}
	if run.Status.RunID != fleet.RunID(run) {
		if err := c.begin(ctx, run); err != nil {
			return err
		}
	}
	return c.skip(ctx, run, before)
}

// skip ends a run that a failure before it keeps from being run. A device that has
// heard of it does so by itself.
func (c *configs) skip(ctx context.Context, run *v1alpha1.PlaybookExecution, before []*v1alpha1.PlaybookExecution) error {
	failed := stoppedBy(run, before)
	if failed == nil {
		return nil
	}
	base := run.DeepCopy()
	run.Status = fleet.TakeRun(run.Status, run.Status.RunID, protocol.PlaybookExecutionStatus{
		Status: v1alpha1.PlaybookCompletedWithError, Reason: v1alpha1.PlaybookSkipped, Message: failed.Name + ", which comes before it, failed",
	}, time.Now())
	return c.patchStatus(ctx, base, run)
}

// stoppedBy returns what keeps a run from being run that no device has begun.
func stoppedBy(run *v1alpha1.PlaybookExecution, before []*v1alpha1.PlaybookExecution) *v1alpha1.PlaybookExecution {
	i := slices.IndexFunc(before, fleet.Stops)
	if i < 0 || fleet.RunState(run.Status).Type != v1alpha1.PlaybookDeploying {
		return nil
	}
	return before[i]
}

// isDone reports whether keep would change nothing.
func isDone(run, wanted *v1alpha1.PlaybookExecution, before []*v1alpha1.PlaybookExecution) bool {
	return run.DeletionTimestamp == nil && isRun(run, wanted) && run.Labels[v1alpha1.LabelDevice] != "" &&
		isAsWanted(run, wanted) && run.Status.RunID == fleet.RunID(run) && !goesOn(run, before) && stoppedBy(run, before) == nil
}

func isAsWanted(run, wanted *v1alpha1.PlaybookExecution) bool {
	return run.Spec.User == wanted.Spec.User && equality.Semantic.DeepEqual(run.Spec.Playbook, wanted.Spec.Playbook)
}

// goesOn reports whether a run that was skipped is to be run after all.
func goesOn(run *v1alpha1.PlaybookExecution, before []*v1alpha1.PlaybookExecution) bool {
	_, ok := fleet.MayGoOn(run.Status, before)
	return ok && run.Status.RunID == fleet.RunID(run)
}

// isRun reports whether what has the name of a wanted run is that run. Those of
// flotta v0.2 have no labels and are told by their owner.
func isRun(run, wanted *v1alpha1.PlaybookExecution) bool {
	if run.Labels[v1alpha1.LabelDevice] == "" {
		return slices.ContainsFunc(run.OwnerReferences, func(o metav1.OwnerReference) bool { return o.UID == wanted.OwnerReferences[0].UID })
	}
	return run.Labels[v1alpha1.LabelDevice] == wanted.Labels[v1alpha1.LabelDevice] &&
		run.Labels[v1alpha1.LabelDeviceByConfig] == wanted.Labels[v1alpha1.LabelDeviceByConfig]
}

// begin puts a run at its beginning.
func (c *configs) begin(ctx context.Context, run *v1alpha1.PlaybookExecution) error {
	base := run.DeepCopy()
	run.Status = fleet.BegunRun(fleet.RunID(run), time.Now())
	return c.patchStatus(ctx, base, run)
}

// asRefusal returns why a run is not there, if that is what err says.
func asRefusal(err error) (refusal, bool) {
	var r refusal
	return r, errors.As(err, &r)
}
