package operator

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/project-flotta/flotta-agent/internal/fleet"
	"github.com/project-flotta/flotta-agent/pkg/api/v1alpha1"
)

// configs makes PlaybookExecutions: one for each playbook of an EdgeConfig and
// each device that carries its name in the label config/device-by-config.
type configs struct{ env }

func (c *configs) setUp(_ context.Context, mgr manager.Manager) error {
	// Only the label of a device counts, not its reports.
	relabelled := predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool {
		return e.ObjectOld.GetLabels()[v1alpha1.LabelDeviceByConfig] != e.ObjectNew.GetLabels()[v1alpha1.LabelDeviceByConfig] ||
			e.ObjectNew.GetDeletionTimestamp() != nil
	}}
	err := builder.ControllerManagedBy(mgr).Named("config").
		For(&v1alpha1.EdgeConfig{}).
		Owns(&v1alpha1.PlaybookExecution{}).
		Watches(&v1alpha1.EdgeDevice{}, handler.EnqueueRequestsFromMapFunc(configOfDevice), builder.WithPredicates(relabelled)).
		WithOptions(controller.Options{MaxConcurrentReconciles: c.cfg.ConfigConcurrency}).
		Complete(c)
	if err != nil {
		return err
	}
	return (&runs{c.env}).setUp(mgr)
}

func configOfDevice(_ context.Context, device client.Object) []reconcile.Request {
	name := device.GetLabels()[v1alpha1.LabelDeviceByConfig]
	if name == "" {
		return nil
	}
	return []reconcile.Request{{NamespacedName: types.NamespacedName{Namespace: device.GetNamespace(), Name: name}}}
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
	wanted, err := c.wanted(ctx, &config)
	if err != nil {
		return reconcile.Result{}, err
	}
	var errs []error
	for _, run := range there {
		if !slices.ContainsFunc(wanted, func(w *v1alpha1.PlaybookExecution) bool { return w.Name == run.Name }) {
			errs = append(errs, client.IgnoreNotFound(c.client.Delete(ctx, run)))
		}
	}
	for _, run := range wanted {
		errs = append(errs, c.ensure(ctx, run))
	}
	if config.UID != "" {
		errs = append(errs, c.report(ctx, &config, wanted, there))
	}
	return settle(reconcile.Result{}, errors.Join(errs...))
}

func (c *configs) runsOf(ctx context.Context, config types.NamespacedName) ([]*v1alpha1.PlaybookExecution, error) {
	var list v1alpha1.PlaybookExecutionList
	err := c.client.List(ctx, &list, client.InNamespace(config.Namespace), client.MatchingLabels{v1alpha1.LabelDeviceByConfig: config.Name})
	if err != nil {
		return nil, fmt.Errorf("list playbook executions: %w", err)
	}
	runs := make([]*v1alpha1.PlaybookExecution, len(list.Items))
	for i := range list.Items {
		runs[i] = &list.Items[i]
	}
	return runs, nil
}

// wanted returns the runs that a config asks for; none when it is gone.
func (c *configs) wanted(ctx context.Context, config *v1alpha1.EdgeConfig) ([]*v1alpha1.PlaybookExecution, error) {
	if config.UID == "" || config.Spec.EdgePlaybook == nil {
		return nil, nil
	}
	var devices v1alpha1.EdgeDeviceList
	err := c.client.List(ctx, &devices, client.InNamespace(config.Namespace), client.UnsafeDisableDeepCopy,
		client.MatchingLabels{v1alpha1.LabelDeviceByConfig: config.Name})
	if err != nil {
		return nil, fmt.Errorf("list devices: %w", err)
	}
	var runs []*v1alpha1.PlaybookExecution
	for i := range devices.Items {
		if devices.Items[i].DeletionTimestamp != nil {
			continue
		}
		for n := range config.Spec.EdgePlaybook.Playbooks {
			runs = append(runs, newRun(config, devices.Items[i].Name, n))
		}
	}
	return runs, nil
}

func newRun(config *v1alpha1.EdgeConfig, device string, n int) *v1alpha1.PlaybookExecution {
	return &v1alpha1.PlaybookExecution{
		ObjectMeta: metav1.ObjectMeta{
			Namespace:  config.Namespace,
			Name:       runName(device, config.Name, n),
			Labels:     map[string]string{v1alpha1.LabelDevice: device, v1alpha1.LabelDeviceByConfig: config.Name},
			Finalizers: []string{v1alpha1.FinalizerDeviceReference},
			OwnerReferences: []metav1.OwnerReference{
				*metav1.NewControllerRef(config, v1alpha1.GroupVersion().WithKind(v1alpha1.KindEdgeConfig)),
			},
		},
		Spec: v1alpha1.PlaybookExecutionSpec{Playbook: config.Spec.EdgePlaybook.Playbooks[n].DeepCopy()},
	}
}

// runName is <device>-<config> for the first playbook of a config, as in flotta
// v0.2, and <device>-<config>-<n> for the n-th. What is too long ends in a hash.
func runName(device, config string, n int) string {
	name := device + "-" + config
	if n > 0 {
		name += "-" + strconv.Itoa(n+1)
	}
	if len(name) <= validation.DNS1123SubdomainMaxLength {
		return name
	}
	sum := sha256.Sum256([]byte(device + "\x00" + config + "\x00" + strconv.Itoa(n)))
	tail := "-" + hex.EncodeToString(sum[:8])
	return strings.TrimRight(name[:validation.DNS1123SubdomainMaxLength-len(tail)], "-.") + tail
}

// ensure makes one run as it is wanted. A playbook that changed is run again.
func (c *configs) ensure(ctx context.Context, wanted *v1alpha1.PlaybookExecution) error {
	var run v1alpha1.PlaybookExecution
	err := c.client.Get(ctx, client.ObjectKeyFromObject(wanted), &run)
	switch {
	case apierrors.IsNotFound(err):
		run = *wanted.DeepCopy()
		if err := c.client.Create(ctx, &run, client.FieldOwner(FieldOwner)); err != nil {
			return fmt.Errorf("create playbook execution: %w", err)
		}
		return c.begin(ctx, &run)
	case err != nil:
		return fmt.Errorf("read playbook execution: %w", err)
	case run.DeletionTimestamp != nil:
		return nil // it is made again when it is gone
	case !isRun(&run, wanted):
		c.warn(&run, "NameTaken", "EdgeConfig %s wants this name for device %s; rename the config",
			wanted.Labels[v1alpha1.LabelDeviceByConfig], wanted.Labels[v1alpha1.LabelDevice])
		return nil
	}
	changed := !equality.Semantic.DeepEqual(run.Spec.Playbook, wanted.Spec.Playbook)
	if changed || run.Labels[v1alpha1.LabelDevice] == "" {
		err := c.patch(ctx, &run, func() {
			for key, value := range wanted.Labels {
				metav1.SetMetaDataLabel(&run.ObjectMeta, key, value)
			}
			run.Spec.Playbook = wanted.Spec.Playbook
		})
		if err != nil {
			return err
		}
	}
	if changed || len(run.Status.Conditions) == 0 {
		return c.begin(ctx, &run)
	}
	return nil
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
	base, at := run.DeepCopy(), fleet.Timestamp(time.Now())
	run.Status.Conditions = []v1alpha1.PlaybookCondition{
		{Type: v1alpha1.PlaybookDeploying, Status: metav1.ConditionTrue, LastTransitionTime: &at},
	}
	return c.patchStatus(ctx, base, run)
}

// report sums the runs up in the status of the config.
func (c *configs) report(ctx context.Context, config *v1alpha1.EdgeConfig, wanted, there []*v1alpha1.PlaybookExecution) error {
	done, failed := 0, 0
	for _, run := range there {
		switch {
		case !slices.ContainsFunc(wanted, func(w *v1alpha1.PlaybookExecution) bool { return w.Name == run.Name }):
		case runIs(run, v1alpha1.PlaybookSuccessfullyCompleted):
			done++
		case runIs(run, v1alpha1.PlaybookCompletedWithError):
			failed++
		}
	}
	reason := "Running"
	switch {
	case len(wanted) == 0:
		reason = "NoDevices"
	case failed > 0:
		reason = "Failed"
	case done == len(wanted):
		reason = "Succeeded"
	}
	finished := len(wanted) > 0 && done+failed == len(wanted)
	text := fmt.Sprintf("%d of %d runs succeeded, %d failed", done, len(wanted), failed)
	base := config.DeepCopy()
	if config.Status.EdgePlaybookStatus == nil {
		config.Status.EdgePlaybookStatus = &v1alpha1.EdgePlaybookStatus{}
	}
	s := config.Status.EdgePlaybookStatus
	s.Conditions = withConfigCondition(s.Conditions, v1alpha1.EdgePlaybookDeploying, len(wanted) > 0 && !finished, reason, text)
	s.Conditions = withConfigCondition(s.Conditions, v1alpha1.EdgePlaybookCompleted, finished, reason, text)
	if equality.Semantic.DeepEqual(base.Status, config.Status) {
		return nil
	}
	return c.patchStatus(ctx, base, config)
}

func runIs(run *v1alpha1.PlaybookExecution, state string) bool {
	return slices.ContainsFunc(run.Status.Conditions, func(c v1alpha1.PlaybookCondition) bool {
		return c.Type == state && c.Status == metav1.ConditionTrue
	})
}

func withConfigCondition(list []v1alpha1.PlaybookCondition, kind string, is bool, reason, message string) []v1alpha1.PlaybookCondition {
	at := fleet.Timestamp(time.Now())
	next := v1alpha1.PlaybookCondition{Type: kind, Status: metav1.ConditionFalse, Reason: reason, Message: message, LastTransitionTime: &at}
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
