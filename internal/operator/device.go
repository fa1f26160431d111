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
	"k8s.io/apimachinery/pkg/util/validation"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/project-flotta/flotta-agent/internal/fleet"
	"github.com/project-flotta/flotta-agent/internal/render"
	"github.com/project-flotta/flotta-agent/pkg/api/v1alpha1"
)

const (
	// retryForeign is when a device is looked at again that may not be where an
	// administrator made it.
	retryForeign = time.Minute
	// besideRequest is how much later than a device its request may be made, when
	// both are applied at once: made here meanwhile, it would be in the way.
	besideRequest = 5 * time.Second
)

// devices keeps EdgeDevices.
type devices struct {
	env
	buckets buckets
}

// Reconcile makes a device list what is meant for it.
func (c *devices) Reconcile(ctx context.Context, key reconcile.Request) (reconcile.Result, error) {
	var d v1alpha1.EdgeDevice
	if err := c.client.Get(ctx, key.NamespacedName, &d); err != nil {
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	if d.DeletionTimestamp != nil {
		return settle(reconcile.Result{}, c.remove(ctx, &d))
	}
	return settle(c.keep(ctx, &d))
}

func (c *devices) keep(ctx context.Context, d *v1alpha1.EdgeDevice) (reconcile.Result, error) {
	if isNew(d) {
		if wait, err := c.admit(ctx, d); err != nil || wait > 0 {
			return reconcile.Result{RequeueAfter: wait}, err
		}
	}
	names, err := c.meantFor(ctx, d)
	if err != nil {
		return reconcile.Result{}, err
	}
	labels := make(map[string]string, len(names))
	for _, name := range names {
		labels[v1alpha1.LabelWorkloadPrefix+name] = v1alpha1.LabelTrue
	}
	err = c.mark(ctx, d, v1alpha1.KindEdgeDevice, v1alpha1.FinalizerEdgeDevice, v1alpha1.LabelWorkloadPrefix, labels)
	if err != nil {
		return reconcile.Result{}, err
	}

	now := time.Now()
	base := d.DeepCopy()
	fleet.ListWorkloads(d, names, now)
	fleet.SetCondition(d, metav1.Condition{
		Type: v1alpha1.ConditionApproved, Status: metav1.ConditionTrue, Reason: "Approved", Message: "the device was let in",
	}, now)
	online, check := onlineCondition(d, now, c.cfg.OfflineAfter)
	fleet.SetCondition(d, online, now)
	bucket, err := c.buckets.claim(ctx, d, now)
	if err != nil {
		return reconcile.Result{}, err
	}
	if !equality.Semantic.DeepEqual(base.Status, d.Status) {
		if err := c.patchStatus(ctx, base, d); err != nil {
			return reconcile.Result{}, err
		}
	}
	return reconcile.Result{RequeueAfter: soonest(check, bucket)}, nil
}

// soonest returns the shorter of two pauses; zero is none.
func soonest(a, b time.Duration) time.Duration {
	if a == 0 || b != 0 && b < a {
		return b
	}
	return a
}

// meantFor returns the names of the workloads that are meant for the device,
// sorted. Those that cannot be listed there say so themselves.
func (c *devices) meantFor(ctx context.Context, d *v1alpha1.EdgeDevice) ([]string, error) {
	var all v1alpha1.EdgeWorkloadList
	if err := c.client.List(ctx, &all, client.InNamespace(d.Namespace), client.UnsafeDisableDeepCopy); err != nil {
		return nil, fmt.Errorf("list workloads: %w", err)
	}
	var names []string
	for i := range all.Items {
		w := &all.Items[i]
		if w.DeletionTimestamp != nil || len(w.Name) > validation.LabelValueMaxLength {
			continue
		}
		if matches, err := render.Matches(w, d); err == nil && matches {
			names = append(names, w.Name)
		}
	}
	slices.Sort(names)
	return names, nil
}

// onlineCondition says whether the device was heard of, and when to look again.
func onlineCondition(d *v1alpha1.EdgeDevice, now time.Time, after time.Duration) (metav1.Condition, time.Duration) {
	c := metav1.Condition{Type: v1alpha1.ConditionOnline, Status: metav1.ConditionFalse, Reason: "NeverSeen", Message: "the device was never heard of"}
	if d.Status.LastSeenTime == nil {
		return c, 0
	}
	silent := now.Sub(d.Status.LastSeenTime.Time)
	if silent >= after {
		c.Reason, c.Message = "NotSeen", "the device was last heard of at "+d.Status.LastSeenTime.UTC().Format(time.RFC3339)
		return c, 0
	}
	c.Status, c.Reason, c.Message = metav1.ConditionTrue, "Seen", fmt.Sprintf("the device was heard of within %s", after)
	// A clock that is behind must not make it a busy loop, nor a day.
	return c, min(max(after-silent, time.Second), after) + time.Second
}

// isNew reports whether a device was made by an administrator rather than on a
// request, and not seen here before. One that registered with flotta v0.2 has
// our finalizer, and at least the hardware in its status.
func isNew(d *v1alpha1.EdgeDevice) bool {
	return !controllerutil.ContainsFinalizer(d, v1alpha1.FinalizerEdgeDevice) && !fleet.AwaitsRegistration(d) &&
		d.Annotations[v1alpha1.AnnotationRegisteredKeys] == "" &&
		d.Status.Phase == "" && d.Status.LastSyncedResourceVersion == "" && d.Status.Hardware == nil
}

// admit lets a device register that an administrator made: who may do that has
// approved it by doing so. It returns when to try again, or zero.
func (c *devices) admit(ctx context.Context, d *v1alpha1.EdgeDevice) (time.Duration, error) {
	if !c.allowed(d.Namespace) {
		c.warn(d, "NamespaceNotAllowed", "devices may not be in namespace %q: it is not one of ALLOWED_NAMESPACES", d.Namespace)
		return retryForeign, nil
	}
	var r v1alpha1.EdgeDeviceSignedRequest
	switch err := c.client.Get(ctx, requestName(d.Name), &r); {
	case apierrors.IsNotFound(err):
		if age := time.Since(d.CreationTimestamp.Time); age >= 0 && age < besideRequest {
			return besideRequest - age, nil
		}
		if err := c.client.Create(ctx, newRequest(d), client.FieldOwner(FieldOwner)); err != nil {
			return 0, fmt.Errorf("create request: %w", err)
		}
	case err != nil:
		return 0, fmt.Errorf("read request: %w", err)
	case r.Spec.TargetNamespace != d.Namespace:
		c.warn(d, "NamedElsewhere", "a device of this name asked for namespace %q: delete that request or this device", r.Spec.TargetNamespace)
		return retryForeign, nil
	case !r.Spec.Approved:
		if err := c.patch(ctx, &r, func() { r.Spec.Approved = true }); err != nil {
			return 0, err
		}
	}
	return 0, c.patch(ctx, d, func() { metav1.SetMetaDataLabel(&d.ObjectMeta, v1alpha1.LabelSignedRequest, v1alpha1.LabelTrue) })
}

// remove undoes what the device caused, and lets it go. It does not wait for the
// device, which may be away for ever.
func (c *devices) remove(ctx context.Context, d *v1alpha1.EdgeDevice) error {
	if !controllerutil.ContainsFinalizer(d, v1alpha1.FinalizerEdgeDevice) {
		return nil
	}
	if err := c.removeRequest(ctx, d); err != nil {
		return fmt.Errorf("delete request: %w", err)
	}
	if err := c.buckets.remove(ctx, d); err != nil {
		return fmt.Errorf("delete bucket claim: %w", err)
	}
	if err := c.removeRuns(ctx, d); err != nil {
		return fmt.Errorf("delete playbook executions: %w", err)
	}
	if err := c.release(ctx, d, v1alpha1.FinalizerEdgeDevice); err != nil {
		return err
	}
	c.log.Info("device removed", "namespace", d.Namespace, "device", d.Name)
	return nil
}

// removeRequest makes the device need a new approval. The request of a device
// that moved is not touched.
func (c *devices) removeRequest(ctx context.Context, d *v1alpha1.EdgeDevice) error {
	var r v1alpha1.EdgeDeviceSignedRequest
	if err := c.client.Get(ctx, requestName(d.Name), &r); err != nil {
		return client.IgnoreNotFound(err)
	}
	if r.Spec.TargetNamespace != d.Namespace {
		return nil
	}
	return client.IgnoreNotFound(c.client.Delete(ctx, &r, client.Preconditions{UID: &r.UID}))
}

// removeRuns deletes the playbook executions of the device. Its EdgeConfig owns
// them, too, and may be there for others.
func (c *devices) removeRuns(ctx context.Context, d *v1alpha1.EdgeDevice) error {
	var runs v1alpha1.PlaybookExecutionList
	err := c.client.List(ctx, &runs, client.InNamespace(d.Namespace), client.MatchingLabels{v1alpha1.LabelDevice: d.Name})
	for i := range runs.Items {
		err = errors.Join(err, client.IgnoreNotFound(c.client.Delete(ctx, &runs.Items[i])))
	}
	return err
}
