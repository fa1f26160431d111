package operator

import (
	"context"
	"errors"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
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

// configs makes PlaybookExecutions: one for each playbook of an EdgeConfig and
// each device that carries its name in a label config/*.
type configs struct{ env }

// byConfig is the index of EdgeDevices by the EdgeConfigs that their labels name.
const byConfig = "configs"

func (c *configs) setUp(ctx context.Context, mgr manager.Manager) error {
	err := mgr.GetFieldIndexer().IndexField(ctx, &v1alpha1.EdgeDevice{}, byConfig, func(device client.Object) []string {
		return fleet.ConfigsOf(device.GetLabels())
	})
	if err != nil {
		return err
	}
	// Only the labels of a device count, not its reports.
	relabelled := predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool {
		return !slices.Equal(fleet.ConfigsOf(e.ObjectOld.GetLabels()), fleet.ConfigsOf(e.ObjectNew.GetLabels())) ||
			e.ObjectNew.GetDeletionTimestamp() != nil
	}}
	err = builder.ControllerManagedBy(mgr).Named("config").
		For(&v1alpha1.EdgeConfig{}, builder.WithPredicates(predicate.GenerationChangedPredicate{})).
		Watches(&v1alpha1.PlaybookExecution{}, configsOfRun()).
		Watches(&v1alpha1.EdgeDevice{}, handler.EnqueueRequestsFromMapFunc(configsOfDevice), builder.WithPredicates(relabelled)).
		WithOptions(controller.Options{MaxConcurrentReconciles: c.cfg.ConfigConcurrency}).
		Complete(c)
	if err != nil {
		return err
	}
	return (&runs{c.env}).setUp(mgr)
}

func configsOfDevice(_ context.Context, device client.Object) []reconcile.Request {
	var requests []reconcile.Request
	for _, name := range fleet.ConfigsOf(device.GetLabels()) {
		requests = append(requests, reconcile.Request{NamespacedName: types.NamespacedName{Namespace: device.GetNamespace(), Name: name}})
	}
	return requests
}

// configsOfRun enqueues the config of a run a little later: a thousand runs that
// end one after the other are one change of their config.
func configsOfRun() handler.EventHandler {
	add := func(q queue, run client.Object) {
		name := run.GetLabels()[v1alpha1.LabelDeviceByConfig]
		if name == "" { // of flotta v0.2
			for _, o := range run.GetOwnerReferences() {
				if o.Kind == v1alpha1.KindEdgeConfig {
					name = o.Name
				}
			}
		}
		if name != "" {
			q.AddAfter(reconcile.Request{NamespacedName: types.NamespacedName{Namespace: run.GetNamespace(), Name: name}}, gather)
		}
	}
	return handler.Funcs{
		CreateFunc: func(_ context.Context, e event.CreateEvent, q queue) { add(q, e.Object) },
		DeleteFunc: func(_ context.Context, e event.DeleteEvent, q queue) { add(q, e.Object) },
		UpdateFunc: func(_ context.Context, e event.UpdateEvent, q queue) {
			add(q, e.ObjectOld)
			add(q, e.ObjectNew)
		},
	}
}

// Reconcile makes the runs of an EdgeConfig those that it asks for.
func (c *configs) Reconcile(ctx context.Context, key reconcile.Request) (reconcile.Result, error) {
	var config v1alpha1.EdgeConfig
	if err := c.client.Get(ctx, key.NamespacedName, &config); client.IgnoreNotFound(err) != nil {
		return reconcile.Result{}, err
	} else if err != nil || config.DeletionTimestamp != nil {
		config = v1alpha1.EdgeConfig{ObjectMeta: metav1.ObjectMeta{Namespace: key.Namespace, Name: key.Name}}
	}
	there, err := c.runsOf(ctx, key.NamespacedName)
	if err != nil {
		return reconcile.Result{}, err
	}
	devices, err := c.devicesOf(ctx, &config)
	if err != nil {
		return reconcile.Result{}, err
	}
	var errs []error
	var sum summary
	wanted := make(map[string]bool)
	for _, device := range devices {
		var before []*v1alpha1.PlaybookExecution
		for _, run := range newRuns(&config, device) {
			wanted[run.Name] = true
			status, err := c.ensure(ctx, run, there[run.Name], before)
			run.Status = status
			before = append(before, run)
			errs = append(errs, sum.add(run.Name, status, err))
		}
	}
	for name, run := range there {
		if !wanted[name] {
			errs = append(errs, c.client.Delete(ctx, run))
		}
	}
	if config.UID != "" {
		err := c.report(ctx, &config, sum)
		if apierrors.IsInvalid(err) {
			// Stored before the schema asked for more. Only its writer can mend it.
			c.warn(&config, "Invalid", "its status cannot be written: %s", fleet.Clip(err.Error()))
			err = nil
		}
		errs = append(errs, err)
	}
	return sorted(errs)
}

// sorted says what is to be done about errors: what another writer caused heals
// by itself, and what is being removed needs nothing. None hides another.
func sorted(errs []error) (reconcile.Result, error) {
	var result reconcile.Result
	var rest []error
	for _, err := range errs {
		switch {
		case err == nil, apierrors.IsNotFound(err), apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		case apierrors.IsConflict(err), apierrors.IsAlreadyExists(err):
			result.RequeueAfter = retryConflict
		default:
			rest = append(rest, err)
		}
	}
	if len(rest) > 0 {
		return reconcile.Result{}, errors.Join(rest...)
	}
	return result, nil
}

// runsOf returns the runs of a config by name. They must not be changed.
func (c *configs) runsOf(ctx context.Context, config types.NamespacedName) (map[string]*v1alpha1.PlaybookExecution, error) {
	var list v1alpha1.PlaybookExecutionList
	err := c.client.List(ctx, &list, client.InNamespace(config.Namespace), client.UnsafeDisableDeepCopy,
		client.MatchingLabels{v1alpha1.LabelDeviceByConfig: config.Name})
	if err != nil {
		return nil, fmt.Errorf("list playbook executions: %w", err)
	}
	runs := make(map[string]*v1alpha1.PlaybookExecution, len(list.Items))
	for i := range list.Items {
		runs[list.Items[i].Name] = &list.Items[i]
	}
	return runs, nil
}

// devicesOf returns the devices that a config is for; none when it is gone.
func (c *configs) devicesOf(ctx context.Context, config *v1alpha1.EdgeConfig) ([]string, error) {
	if config.UID == "" || config.Spec.EdgePlaybook == nil {
		return nil, nil
	}
	var devices v1alpha1.EdgeDeviceList
	err := c.client.List(ctx, &devices, client.InNamespace(config.Namespace), client.UnsafeDisableDeepCopy,
		client.MatchingFields{byConfig: config.Name})
	if err != nil {
		return nil, fmt.Errorf("list devices: %w", err)
	}
	var names []string
	for i := range devices.Items {
		if devices.Items[i].DeletionTimestamp == nil {
			names = append(names, devices.Items[i].Name)
		}
	}
	slices.Sort(names)
	return names, nil
}

func newRuns(config *v1alpha1.EdgeConfig, device string) []*v1alpha1.PlaybookExecution {
	runs := fleet.NewRuns(config, device)
	for _, run := range runs {
		run.Finalizers = []string{v1alpha1.FinalizerDeviceReference}
		run.OwnerReferences = []metav1.OwnerReference{
			*metav1.NewControllerRef(config, v1alpha1.GroupVersion().WithKind(v1alpha1.KindEdgeConfig)),
		}
	}
	return runs
}
