package operator

import (
	"context"
	"slices"

	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/project-flotta/flotta-agent/pkg/api/v1alpha1"
)

// runs lets PlaybookExecutions go that are being deleted: their finalizer is
// there to take them out of the status of their device first.
type runs struct{ env }

func (c *runs) setUp(mgr manager.Manager) error {
	deleting := predicate.NewPredicateFuncs(func(o client.Object) bool { return o.GetDeletionTimestamp() != nil })
	return builder.ControllerManagedBy(mgr).Named("run").
		For(&v1alpha1.PlaybookExecution{}, builder.WithPredicates(deleting)).
		WithOptions(controller.Options{MaxConcurrentReconciles: c.cfg.ConfigConcurrency}).
		Complete(c)
}

// Reconcile takes a deleted run out of the status of its device.
func (c *runs) Reconcile(ctx context.Context, key reconcile.Request) (reconcile.Result, error) {
	var run v1alpha1.PlaybookExecution
	if err := c.client.Get(ctx, key.NamespacedName, &run); err != nil {
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	if run.DeletionTimestamp == nil || !controllerutil.ContainsFinalizer(&run, v1alpha1.FinalizerDeviceReference) {
		return reconcile.Result{}, nil
	}
	if err := c.unlist(ctx, &run); err != nil {
		return settle(reconcile.Result{}, err)
	}
	return settle(reconcile.Result{}, c.release(ctx, &run, v1alpha1.FinalizerDeviceReference))
}

func (c *runs) unlist(ctx context.Context, run *v1alpha1.PlaybookExecution) error {
	var d v1alpha1.EdgeDevice
	name := types.NamespacedName{Namespace: run.Namespace, Name: run.Labels[v1alpha1.LabelDevice]}
	if err := c.client.Get(ctx, name, &d); err != nil {
		return client.IgnoreNotFound(err)
	}
	base := d.DeepCopy()
	d.Status.PlaybookExec = slices.DeleteFunc(d.Status.PlaybookExec, func(e v1alpha1.PlaybookExec) bool { return e.Name == run.Name })
	if len(base.Status.PlaybookExec) == len(d.Status.PlaybookExec) {
		return nil
	}
	return client.IgnoreNotFound(c.patchStatus(ctx, base, &d))
}
