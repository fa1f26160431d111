package operator

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/project-flotta/flotta-agent/internal/fleet"
	"github.com/project-flotta/flotta-agent/internal/render"
	"github.com/project-flotta/flotta-agent/pkg/api/v1alpha1"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// checkListed is when it is looked again whether devices still list a workload
// that is being deleted, should an event have been missed.
const checkListed = 30 * time.Second

// maxNamed is how many devices a condition names.
const maxNamed = 5

// workloads sums EdgeWorkloads up.
type workloads struct{ env }

func (c *workloads) setUp(_ context.Context, mgr manager.Manager) error {
	return builder.ControllerManagedBy(mgr).Named("workload").
		For(&v1alpha1.EdgeWorkload{}, builder.WithPredicates(predicate.ResourceVersionChangedPredicate{})).
		Watches(&v1alpha1.EdgeDevice{}, workloadsOfDevice()).
		WithOptions(controller.Options{MaxConcurrentReconciles: c.cfg.WorkloadConcurrency}).
		Complete(c)
}

// Reconcile writes what became of a workload, and lets one go that no device
// lists any more.
func (c *workloads) Reconcile(ctx context.Context, key reconcile.Request) (reconcile.Result, error) {
	var w v1alpha1.EdgeWorkload
	if err := c.client.Get(ctx, key.NamespacedName, &w); err != nil {
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	if w.DeletionTimestamp != nil {
		return settle(c.remove(ctx, &w))
	}
	err := c.mark(ctx, &w, v1alpha1.KindEdgeWorkload, v1alpha1.FinalizerDeviceReference, v1alpha1.LabelSelectorPrefix, selectorLabels(&w))
	if err != nil {
		return settle(reconcile.Result{}, err)
	}
	return settle(reconcile.Result{}, c.sumUp(ctx, &w))
}

func (c *workloads) remove(ctx context.Context, w *v1alpha1.EdgeWorkload) (reconcile.Result, error) {
	var users v1alpha1.EdgeDeviceList
	err := c.client.List(ctx, &users, client.InNamespace(w.Namespace), client.MatchingFields{byWorkload: w.Name}, client.UnsafeDisableDeepCopy)
	if err != nil {
		return reconcile.Result{}, fmt.Errorf("list devices: %w", err)
	}
	if slices.ContainsFunc(users.Items, func(d v1alpha1.EdgeDevice) bool { return d.DeletionTimestamp == nil }) {
		return reconcile.Result{RequeueAfter: checkListed}, nil
	}
	return reconcile.Result{}, c.release(ctx, w, v1alpha1.FinalizerDeviceReference)
}

// selectorLabels is the index of what a workload selects by, as in flotta v0.2,
// without the keys that cannot be written so.
func selectorLabels(w *v1alpha1.EdgeWorkload) map[string]string {
	out := make(map[string]string)
	add := func(key, value string) {
		if len(validation.IsQualifiedName(key)) == 0 && len(validation.IsValidLabelValue(value)) == 0 {
			out[key] = value
		}
	}
	switch s := w.Spec.DeviceSelector; {
	case w.Spec.Device != "":
		add(v1alpha1.LabelSelectorDeviceName, w.Spec.Device)
	case s != nil:
		for key := range s.MatchLabels {
			add(v1alpha1.LabelSelectorPrefix+key, v1alpha1.LabelTrue)
		}
		for _, e := range s.MatchExpressions {
			key := v1alpha1.LabelSelectorPrefix + e.Key
			if e.Operator == metav1.LabelSelectorOpDoesNotExist {
				key = v1alpha1.LabelSelectorDoesNotExist
			}
			add(key, v1alpha1.LabelTrue)
		}
	}
	return out
}

func (c *workloads) sumUp(ctx context.Context, w *v1alpha1.EdgeWorkload) error {
	now := time.Now()
	base := w.DeepCopy()
	accepted := acceptance(w)
	var sum sum
	if accepted.Status == metav1.ConditionTrue {
		devices, err := c.matched(ctx, w)
		if err != nil {
			return err
		}
		sum = sumOf(w, devices)
	}
	s := &w.Status
	s.ObservedGeneration = w.Generation
	s.Matched, s.Running, s.Updated, s.Failed = sum.matched, sum.running, sum.updated, int32(len(sum.failed)) //nolint:gosec // a fleet is smaller
	accepted.ObservedGeneration = w.Generation
	ready := sum.condition(accepted)
	ready.ObservedGeneration = w.Generation
	s.Conditions = fleet.WithCondition(fleet.WithCondition(s.Conditions, accepted, now), ready, now)
	if equality.Semantic.DeepEqual(base.Status, w.Status) {
		return nil
	}
	return c.patchStatus(ctx, base, w)
}

// acceptance says whether the spec can be used as it is.
func acceptance(w *v1alpha1.EdgeWorkload) metav1.Condition {
	c := metav1.Condition{Type: v1alpha1.WorkloadAccepted, Status: metav1.ConditionFalse}
	_, err := render.Matches(w, &v1alpha1.EdgeDevice{ObjectMeta: metav1.ObjectMeta{Namespace: w.Namespace}})
	switch {
	case len(w.Name) > validation.LabelValueMaxLength:
		c.Reason = "NameTooLong"
		c.Message = fmt.Sprintf("the name has %d characters; devices name the pod after it, which bounds it to %d", len(w.Name), validation.LabelValueMaxLength)
	case w.Spec.Type != v1alpha1.WorkloadTypePod:
		c.Reason, c.Message = "UnsupportedType", fleet.Clip(fmt.Sprintf("type is %q, only %q can be run", w.Spec.Type, v1alpha1.WorkloadTypePod))
	case err != nil:
		c.Reason, c.Message = "InvalidSelector", fleet.Clip(err.Error())
	default:
		c.Status, c.Reason, c.Message = metav1.ConditionTrue, "Accepted", "the workload can be rendered for devices"
	}
	return c
}

// matched returns the devices that the workload is meant for.
func (c *workloads) matched(ctx context.Context, w *v1alpha1.EdgeWorkload) ([]*v1alpha1.EdgeDevice, error) {
	if w.Spec.Device != "" {
		var d v1alpha1.EdgeDevice
		err := c.client.Get(ctx, types.NamespacedName{Namespace: w.Namespace, Name: w.Spec.Device}, &d)
		if err != nil || d.DeletionTimestamp != nil {
			return nil, client.IgnoreNotFound(err)
		}
		return []*v1alpha1.EdgeDevice{&d}, nil
	}
	var all v1alpha1.EdgeDeviceList
	if err := c.client.List(ctx, &all, client.InNamespace(w.Namespace), client.UnsafeDisableDeepCopy); err != nil {
		return nil, fmt.Errorf("list devices: %w", err)
	}
	var out []*v1alpha1.EdgeDevice
	for i := range all.Items {
		d := &all.Items[i]
		if ok, err := render.Matches(w, d); err == nil && ok && d.DeletionTimestamp == nil {
			out = append(out, d)
		}
	}
	return out, nil
}

// sum is a workload over its devices.
type sum struct {
	matched, running, updated int32
	failed                    []string // device: why
}

// standing is what counts of a workload's state on one device.
type standing struct {
	running bool
	failure string // empty: none
	applied int64  // the generation that was seen to work; 0: none that is known
}

func standingOf(w v1alpha1.WorkloadStatus) standing {
	s := standing{applied: fleet.AppliedGeneration(w)}
	switch {
	case w.Reason != "" && !protocol.InProgress(w.Reason):
		s.failure = cmp.Or(w.Message, w.Reason)
	case strings.EqualFold(w.Phase, v1alpha1.PhaseRunning):
		s.running = true
	case hasFailed(w.Phase):
		s.failure = "it is " + w.Phase
	}
	return s
}

func sumOf(w *v1alpha1.EdgeWorkload, devices []*v1alpha1.EdgeDevice) sum {
	total := sum{matched: int32(len(devices))} //nolint:gosec // a fleet is smaller
	for _, d := range devices {
		i := slices.IndexFunc(d.Status.Workloads, func(e v1alpha1.WorkloadStatus) bool { return e.Name == w.Name })
		if i < 0 {
			continue
		}
		s := standingOf(d.Status.Workloads[i])
		if s.failure != "" {
			total.failed = append(total.failed, d.Name+": "+s.failure)
		}
		if s.running {
			total.running++
		}
		if s.applied == w.Generation { // which is never 0
			total.updated++
		}
	}
	slices.Sort(total.failed)
	return total
}

// hasFailed tells the words, Podman's among them, that devices have for a
// workload that does not run although it should.
func hasFailed(phase string) bool {
	return slices.Contains([]string{"error", "crashed", "failed", "degraded", "dead"}, strings.ToLower(phase))
}

func (s sum) condition(accepted metav1.Condition) metav1.Condition {
	c := metav1.Condition{Type: v1alpha1.WorkloadReady, Status: metav1.ConditionFalse}
	switch {
	case accepted.Status != metav1.ConditionTrue:
		c.Reason, c.Message = accepted.Reason, accepted.Message
	case s.matched == 0:
		c.Reason, c.Message = "NoDevices", "no device of the namespace matches"
	case len(s.failed) > 0:
		c.Reason = "Failed"
		named := s.failed[:min(maxNamed, len(s.failed))]
		c.Message = strings.Join(named, "; ")
		if more := len(s.failed) - len(named); more > 0 {
			c.Message += fmt.Sprintf("; and %d more", more)
		}
	case s.running < s.matched:
		c.Reason, c.Message = "Deploying", fmt.Sprintf("it runs on %d of %d devices", s.running, s.matched)
	default:
		c.Status, c.Reason, c.Message = metav1.ConditionTrue, "Running", fmt.Sprintf("it runs on all %d devices", s.matched)
	}
	c.Message = fleet.Clip(c.Message)
	return c
}
