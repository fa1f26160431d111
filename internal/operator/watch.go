package operator

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/project-flotta/flotta-agent/internal/fleet"
	"github.com/project-flotta/flotta-agent/internal/render"
	"github.com/project-flotta/flotta-agent/pkg/api/v1alpha1"
)

// byWorkload is the index of EdgeDevices by the workloads that they list.
const byWorkload = "workloads"

// gather is how long changes of devices are gathered before they are looked at. A
// device that registers changes several times within that, and a thousand that
// report one after the other are one change of their workload.
const gather = 300 * time.Millisecond

type queue = workqueue.TypedRateLimitingInterface[reconcile.Request]

func (e env) indexDevices(ctx context.Context, mgr manager.Manager) error {
	return mgr.GetFieldIndexer().IndexField(ctx, &v1alpha1.EdgeDevice{}, byWorkload, func(object client.Object) []string {
		d, ok := object.(*v1alpha1.EdgeDevice)
		if !ok {
			return nil
		}
		return listed(d)
	})
}

// listed returns the workloads that a device lists, in its status or labels.
func listed(d *v1alpha1.EdgeDevice) []string {
	names := make(map[string]bool)
	for _, s := range d.Status.Workloads {
		names[s.Name] = true
	}
	for key := range withPrefix(d.Labels, v1alpha1.LabelWorkloadPrefix) {
		names[strings.TrimPrefix(key, v1alpha1.LabelWorkloadPrefix)] = true
	}
	return slices.Sorted(maps.Keys(names))
}

func (c *devices) setUp(_ context.Context, mgr manager.Manager) error {
	built, err := builder.ControllerManagedBy(mgr).Named("device").
		Watches(&v1alpha1.EdgeDevice{}, gathered(), builder.WithPredicates(predicate.Funcs{UpdateFunc: deviceMatters})).
		Watches(&v1alpha1.EdgeWorkload{}, c.devicesOfWorkload(), builder.WithPredicates(predicate.Funcs{UpdateFunc: workloadMatters})).
		Watches(&v1alpha1.EdgeDeviceSet{}, handler.EnqueueRequestsFromMapFunc(c.members),
			builder.WithPredicates(predicate.GenerationChangedPredicate{})).
		WithOptions(controller.Options{MaxConcurrentReconciles: c.cfg.Concurrency}).
		Build(c)
	if err != nil {
		return err
	}
	c.buckets = buckets{env: c.env}
	return c.buckets.watch(mgr, built)
}

// gathered enqueues an object a little later.
func gathered() handler.EventHandler {
	add := func(q queue, object client.Object) {
		q.AddAfter(reconcile.Request{NamespacedName: client.ObjectKeyFromObject(object)}, gather)
	}
	return handler.Funcs{
		CreateFunc: func(_ context.Context, e event.CreateEvent, q queue) { add(q, e.Object) },
		UpdateFunc: func(_ context.Context, e event.UpdateEvent, q queue) { add(q, e.ObjectNew) },
	}
}

// deviceMatters tells what the operator looks at from the reports of a device,
// which are most of what happens to it.
func deviceMatters(e event.UpdateEvent) bool {
	before, ok := e.ObjectOld.(*v1alpha1.EdgeDevice)
	after, ok2 := e.ObjectNew.(*v1alpha1.EdgeDevice)
	if !ok || !ok2 || before.UID != after.UID {
		return true
	}
	return before.Generation != after.Generation || (before.DeletionTimestamp == nil) != (after.DeletionTimestamp == nil) ||
		!maps.Equal(before.Labels, after.Labels) || !slices.Equal(before.Finalizers, after.Finalizers) ||
		before.Status.DataOBC != after.Status.DataOBC || !slices.Equal(listed(before), listed(after)) ||
		!conditionsKept(before, after) || !seenTold(after)
}

// conditionsKept reports whether an update left the operator's conditions alone.
func conditionsKept(before, after *v1alpha1.EdgeDevice) bool {
	for _, kind := range []string{v1alpha1.ConditionApproved, v1alpha1.ConditionOnline, v1alpha1.ConditionBucketReady} {
		if !equality.Semantic.DeepEqual(fleet.Condition(before, kind), fleet.Condition(after, kind)) {
			return false
		}
	}
	return true
}

// seenTold reports whether a device that was heard of counts as online already;
// then the operator looks again by itself in time.
func seenTold(d *v1alpha1.EdgeDevice) bool {
	online := fleet.Condition(d, v1alpha1.ConditionOnline)
	return d.Status.LastSeenTime == nil || online != nil && online.Status == "True"
}

func workloadMatters(e event.UpdateEvent) bool {
	return e.ObjectOld.GetUID() != e.ObjectNew.GetUID() || e.ObjectOld.GetGeneration() != e.ObjectNew.GetGeneration() ||
		(e.ObjectOld.GetDeletionTimestamp() == nil) != (e.ObjectNew.GetDeletionTimestamp() == nil)
}

// devicesOfWorkload enqueues the devices that a workload is meant for, was meant
// for, or is listed by.
func (c *devices) devicesOfWorkload() handler.EventHandler {
	add := func(ctx context.Context, q queue, object client.Object) {
		w, ok := object.(*v1alpha1.EdgeWorkload)
		if !ok {
			return
		}
		for _, name := range c.devicesFor(ctx, w) {
			q.Add(reconcile.Request{NamespacedName: name})
		}
	}
	return handler.Funcs{
		CreateFunc: func(ctx context.Context, e event.CreateEvent, q queue) { add(ctx, q, e.Object) },
		DeleteFunc: func(ctx context.Context, e event.DeleteEvent, q queue) { add(ctx, q, e.Object) },
		UpdateFunc: func(ctx context.Context, e event.UpdateEvent, q queue) {
			add(ctx, q, e.ObjectOld)
			add(ctx, q, e.ObjectNew)
		},
	}
}

func (e env) devicesFor(ctx context.Context, w *v1alpha1.EdgeWorkload) []types.NamespacedName {
	var all v1alpha1.EdgeDeviceList
	if err := e.client.List(ctx, &all, client.InNamespace(w.Namespace), client.UnsafeDisableDeepCopy); err != nil {
		e.log.Error("list devices of a workload", "namespace", w.Namespace, "workload", w.Name, "error", err)
		return nil
	}
	var names []types.NamespacedName
	for i := range all.Items {
		d := &all.Items[i]
		matches, err := render.Matches(w, d)
		if err == nil && matches || slices.Contains(listed(d), w.Name) {
			names = append(names, client.ObjectKeyFromObject(d))
		}
	}
	return names
}

// members enqueues the devices of a set.
func (c *devices) members(ctx context.Context, set client.Object) []reconcile.Request {
	var all v1alpha1.EdgeDeviceList
	err := c.client.List(ctx, &all, client.InNamespace(set.GetNamespace()), client.UnsafeDisableDeepCopy,
		client.MatchingLabels{v1alpha1.LabelMemberOf: set.GetName()})
	if err != nil {
		c.log.Error("list members of a set", "namespace", set.GetNamespace(), "set", set.GetName(), "error", err)
		return nil
	}
	requests := make([]reconcile.Request, 0, len(all.Items))
	for i := range all.Items {
		requests = append(requests, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(&all.Items[i])})
	}
	return requests
}

// workloadsOfDevice enqueues the workloads whose sum a device changes.
func workloadsOfDevice() handler.EventHandler {
	add := func(q queue, object client.Object, names []string) {
		for _, name := range names {
			q.AddAfter(reconcile.Request{NamespacedName: types.NamespacedName{Namespace: object.GetNamespace(), Name: name}}, gather)
		}
	}
	all := func(q queue, object client.Object) {
		if d, ok := object.(*v1alpha1.EdgeDevice); ok {
			add(q, object, listed(d))
		}
	}
	return handler.Funcs{
		CreateFunc: func(_ context.Context, e event.CreateEvent, q queue) { all(q, e.Object) },
		DeleteFunc: func(_ context.Context, e event.DeleteEvent, q queue) { all(q, e.Object) },
		UpdateFunc: func(_ context.Context, e event.UpdateEvent, q queue) {
			before, ok := e.ObjectOld.(*v1alpha1.EdgeDevice)
			after, ok2 := e.ObjectNew.(*v1alpha1.EdgeDevice)
			if ok && ok2 {
				add(q, after, changedWorkloads(before, after))
			}
		},
	}
}

// changedWorkloads returns the workloads whose state on a device is another one.
func changedWorkloads(before, after *v1alpha1.EdgeDevice) []string {
	states := func(d *v1alpha1.EdgeDevice) map[string]standing {
		m := make(map[string]standing)
		for _, name := range listed(d) {
			m[name] = standing{}
		}
		for _, s := range d.Status.Workloads {
			m[s.Name] = standingOf(s)
		}
		return m
	}
	old, now := states(before), states(after)
	var names []string
	for name, state := range now {
		if was, ok := old[name]; !ok || was != state {
			names = append(names, name)
		}
	}
	for name := range old {
		if _, ok := now[name]; !ok {
			names = append(names, name)
		}
	}
	return names
}
