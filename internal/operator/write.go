package operator

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/project-flotta/flotta-agent/pkg/api/v1alpha1"
)

// retryConflict is when an object is looked at again that another writer
// changed: by then the cache has heard of it.
const retryConflict = 200 * time.Millisecond

// settle makes a conflict, which is nobody's fault, a reconcile a little later.
func settle(result reconcile.Result, err error) (reconcile.Result, error) {
	if apierrors.IsConflict(err) {
		return reconcile.Result{RequeueAfter: retryConflict}, nil
	}
	return result, client.IgnoreNotFound(err)
}

// mark makes finalizer one of the object's, and labels all those that start with
// prefix. It changes no other label and no other finalizer. The object is
// replaced by what the API server has now, if that was asked.
func (e env) mark(ctx context.Context, object client.Object, kind, finalizer, prefix string, labels map[string]string) error {
	if controllerutil.ContainsFinalizer(object, finalizer) && maps.Equal(withPrefix(object.GetLabels(), prefix), labels) {
		return nil
	}
	u := &unstructured.Unstructured{}
	u.SetAPIVersion(v1alpha1.APIVersion)
	u.SetKind(kind)
	u.SetNamespace(object.GetNamespace())
	u.SetName(object.GetName())
	u.SetUID(object.GetUID()) // an object that is gone by now must not be made by this
	u.SetLabels(labels)
	u.SetFinalizers([]string{finalizer})
	err := e.client.Apply(ctx, client.ApplyConfigurationFromUnstructured(u), client.FieldOwner(FieldOwner), client.ForceOwnership)
	if err != nil {
		return fmt.Errorf("apply metadata: %w", err)
	}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, object); err != nil {
		return fmt.Errorf("read applied object: %w", err)
	}
	return e.unmark(ctx, object, prefix, labels)
}

// unmark removes the labels of ours that apply left, because another writer,
// such as an operator of flotta v0.2, owns them too.
func (e env) unmark(ctx context.Context, object client.Object, prefix string, labels map[string]string) error {
	stale := withPrefix(object.GetLabels(), prefix)
	maps.DeleteFunc(stale, func(key, _ string) bool { _, wanted := labels[key]; return wanted })
	if len(stale) == 0 {
		return nil
	}
	return e.patch(ctx, object, func() {
		next := object.GetLabels()
		maps.DeleteFunc(next, func(key, _ string) bool { _, drop := stale[key]; return drop })
		object.SetLabels(next)
	})
}

func withPrefix(labels map[string]string, prefix string) map[string]string {
	out := make(map[string]string)
	for key, value := range labels {
		if strings.HasPrefix(key, prefix) {
			out[key] = value
		}
	}
	return out
}

// patch writes what change does to the object's metadata and spec, unless
// another one wrote it meanwhile.
func (e env) patch(ctx context.Context, object client.Object, change func()) error {
	base, ok := object.DeepCopyObject().(client.Object)
	if !ok {
		return fmt.Errorf("copy %T: not an object", object)
	}
	change()
	err := e.client.Patch(ctx, object, lockedPatch(base), client.FieldOwner(FieldOwner))
	if err != nil {
		return fmt.Errorf("patch %s: %w", object.GetName(), err)
	}
	return nil
}

// patchStatus writes the difference of two states of an object's status, unless
// another one wrote it meanwhile.
func (e env) patchStatus(ctx context.Context, base, object client.Object) error {
	err := e.client.Status().Patch(ctx, object, lockedPatch(base), client.FieldOwner(FieldOwner))
	if err != nil {
		return fmt.Errorf("patch status of %s: %w", object.GetName(), err)
	}
	return nil
}

func lockedPatch(base client.Object) client.Patch {
	return client.MergeFromWithOptions(base, client.MergeFromWithOptimisticLock{})
}

// release removes one finalizer.
func (e env) release(ctx context.Context, object client.Object, finalizer string) error {
	if !controllerutil.ContainsFinalizer(object, finalizer) {
		return nil
	}
	return e.patch(ctx, object, func() {
		object.SetFinalizers(slices.DeleteFunc(slices.Clone(object.GetFinalizers()), func(f string) bool { return f == finalizer }))
	})
}

// say records an Event about an object.
func (e env) say(object client.Object, reason, format string, args ...any) {
	e.events.Eventf(object, nil, corev1.EventTypeNormal, reason, "Reconcile", format, args...)
}

// warn records an Event about something that a person has to look at.
func (e env) warn(object client.Object, reason, format string, args ...any) {
	e.events.Eventf(object, nil, corev1.EventTypeWarning, reason, "Reconcile", format, args...)
}
