package operator

import (
	"context"
	"errors"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/project-flotta/flotta-agent/internal/fleet"
	"github.com/project-flotta/flotta-agent/pkg/api/v1alpha1"
)

const (
	// retryNamespace is when a request is looked at again whose namespace does
	// not exist: namespaces are not watched, which would need the right to.
	retryNamespace = 10 * time.Second
	// retryDeleting is when a request is looked at again whose device of the
	// same name is still being deleted.
	retryDeleting = time.Second
)

// requests lets devices in.
type requests struct{ env }

func (c *requests) setUp(_ context.Context, mgr manager.Manager) error {
	gone := predicate.Funcs{
		CreateFunc: func(event.CreateEvent) bool { return false },
		UpdateFunc: func(event.UpdateEvent) bool { return false },
	}
	return builder.ControllerManagedBy(mgr).Named("request").
		For(&v1alpha1.EdgeDeviceSignedRequest{}, builder.WithPredicates(predicate.Or(
			predicate.GenerationChangedPredicate{}, predicate.AnnotationChangedPredicate{}))).
		Watches(&v1alpha1.EdgeDevice{}, handler.EnqueueRequestsFromMapFunc(requestOfDevice), builder.WithPredicates(gone)).
		WithOptions(controller.Options{MaxConcurrentReconciles: c.cfg.Concurrency}).
		Complete(c)
}

func requestOfDevice(_ context.Context, object client.Object) []reconcile.Request {
	return []reconcile.Request{{NamespacedName: requestName(object.GetName())}}
}

func requestName(device string) types.NamespacedName {
	return types.NamespacedName{Namespace: v1alpha1.DefaultNamespace, Name: device}
}

// Reconcile grants a request, or says in its conditions why it is not granted.
func (c *requests) Reconcile(ctx context.Context, key reconcile.Request) (reconcile.Result, error) {
	var r v1alpha1.EdgeDeviceSignedRequest
	if err := c.client.Get(ctx, key.NamespacedName, &r); err != nil {
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	if r.DeletionTimestamp != nil {
		return reconcile.Result{}, nil
	}
	return settle(c.decide(ctx, &r))
}

func (c *requests) decide(ctx context.Context, r *v1alpha1.EdgeDeviceSignedRequest) (reconcile.Result, error) {
	switch {
	case r.Namespace != v1alpha1.DefaultNamespace:
		return reconcile.Result{}, c.state(ctx, r, v1alpha1.SignedRequestPending, "requests are looked at in namespace "+v1alpha1.DefaultNamespace+" only")
	case fleet.IsGranted(r):
		return reconcile.Result{}, c.forgetOrphan(ctx, r)
	case r.Annotations[v1alpha1.AnnotationDeclined] == v1alpha1.LabelTrue:
		return reconcile.Result{}, c.state(ctx, r, v1alpha1.SignedRequestDeclined, "declined by the annotation "+v1alpha1.AnnotationDeclined)
	case !c.allowed(r.Spec.TargetNamespace):
		return reconcile.Result{}, c.state(ctx, r, v1alpha1.SignedRequestPending,
			fmt.Sprintf("devices may not be in namespace %q: it is not one of ALLOWED_NAMESPACES", r.Spec.TargetNamespace))
	case !r.Spec.Approved && !c.cfg.AutoApprove:
		return reconcile.Result{}, c.state(ctx, r, v1alpha1.SignedRequestPending, "waits for spec.approved")
	case !r.Spec.Approved:
		if err := c.patch(ctx, r, func() { r.Spec.Approved = true }); err != nil {
			return reconcile.Result{}, err
		}
	}
	return c.grant(ctx, r)
}

// grant makes the device.
func (c *requests) grant(ctx context.Context, r *v1alpha1.EdgeDeviceSignedRequest) (reconcile.Result, error) {
	d := fleet.NewDevice(r.Spec.TargetNamespace, r.Name, r.Spec.TargetSet, r.CreationTimestamp.Time)
	d.Finalizers = []string{v1alpha1.FinalizerEdgeDevice}
	err := c.client.Create(ctx, d, client.FieldOwner(FieldOwner))
	var status apierrors.APIStatus
	switch {
	case err == nil:
		c.log.Info("device approved", "namespace", d.Namespace, "device", d.Name)
		c.say(r, "Approved", "made EdgeDevice %s/%s", d.Namespace, d.Name)
	case apierrors.IsAlreadyExists(err):
		deleting, err := c.isDeleting(ctx, d)
		if err != nil {
			return reconcile.Result{}, err
		}
		if deleting {
			return reconcile.Result{RequeueAfter: retryDeleting}, nil
		}
	case apierrors.IsNotFound(err), apierrors.IsForbidden(err), apierrors.IsInvalid(err):
		if !errors.As(err, &status) {
			return reconcile.Result{}, err
		}
		return reconcile.Result{RequeueAfter: retryNamespace}, c.state(ctx, r, v1alpha1.SignedRequestPending,
			fleet.Clip("approved, but the device cannot be made: "+status.Status().Message))
	default:
		return reconcile.Result{}, fmt.Errorf("create device: %w", err)
	}
	return reconcile.Result{}, c.state(ctx, r, v1alpha1.SignedRequestApproved, "")
}

// isDeleting reports whether the device of that name is on its way out, or gone
// already. It asks the API server, because the cache may not have heard of either.
func (c *requests) isDeleting(ctx context.Context, d *v1alpha1.EdgeDevice) (bool, error) {
	var there v1alpha1.EdgeDevice
	err := c.live.Get(ctx, client.ObjectKeyFromObject(d), &there)
	if apierrors.IsNotFound(err) {
		return true, nil
	}
	return there.DeletionTimestamp != nil, err
}

// forgetOrphan deletes a request whose device is no more: else the device could
// never ask again.
func (c *requests) forgetOrphan(ctx context.Context, r *v1alpha1.EdgeDeviceSignedRequest) error {
	var d v1alpha1.EdgeDevice
	name := types.NamespacedName{Namespace: r.Spec.TargetNamespace, Name: r.Name}
	if err := c.client.Get(ctx, name, &d); !apierrors.IsNotFound(err) {
		return err
	}
	if err := c.live.Get(ctx, name, &d); !apierrors.IsNotFound(err) {
		return err
	}
	c.log.Info("request of a deleted device removed", "namespace", name.Namespace, "device", name.Name)
	return c.client.Delete(ctx, r, client.Preconditions{UID: &r.UID, ResourceVersion: &r.ResourceVersion})
}

// state writes the one condition that is true.
func (c *requests) state(ctx context.Context, r *v1alpha1.EdgeDeviceSignedRequest, kind, message string) error {
	base := r.DeepCopy()
	r.Status.Conditions = fleet.WithRequestCondition(r.Status.Conditions, kind, message, time.Now())
	if equality.Semantic.DeepEqual(base.Status, r.Status) {
		return nil
	}
	return c.patchStatus(ctx, base, r)
}

// newRequest is the request of a device that an administrator made.
func newRequest(d *v1alpha1.EdgeDevice) *v1alpha1.EdgeDeviceSignedRequest {
	name := requestName(d.Name)
	return &v1alpha1.EdgeDeviceSignedRequest{
		ObjectMeta: metav1.ObjectMeta{Namespace: name.Namespace, Name: name.Name},
		Spec:       v1alpha1.EdgeDeviceSignedRequestSpec{TargetNamespace: d.Namespace, Approved: true},
	}
}
