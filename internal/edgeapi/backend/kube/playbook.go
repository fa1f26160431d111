package kube

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/project-flotta/flotta-agent/internal/edgeapi"
	"github.com/project-flotta/flotta-agent/internal/fleet"
	"github.com/project-flotta/flotta-agent/internal/render"
	"github.com/project-flotta/flotta-agent/pkg/api/v1alpha1"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// playbookStore is all PlaybookExecutions that have a device.
type playbookStore struct {
	mu      sync.RWMutex
	objects map[render.Source]*v1alpha1.PlaybookExecution
	devices map[render.Source]map[string]*v1alpha1.PlaybookExecution // by device, by name
}

func (s *playbookStore) init() {
	s.objects = make(map[render.Source]*v1alpha1.PlaybookExecution)
	s.devices = make(map[render.Source]map[string]*v1alpha1.PlaybookExecution)
}

func playbookKey(namespace, name string) render.Source {
	return render.Source{Kind: v1alpha1.KindPlaybookExecution, Namespace: namespace, Name: name}
}

// of returns the runs of a device: those of one EdgeConfig after each other, in
// the order of the numbers that their names end with.
func (s *playbookStore) of(namespace, device string) []*v1alpha1.PlaybookExecution {
	s.mu.RLock()
	defer s.mu.RUnlock()
	runs := s.devices[playbookKey(namespace, device)]
	if len(runs) == 0 {
		return nil
	}
	return slices.SortedFunc(maps.Values(runs), func(a, b *v1alpha1.PlaybookExecution) int {
		return cmp.Or(
			cmp.Compare(a.Labels[v1alpha1.LabelDeviceByConfig], b.Labels[v1alpha1.LabelDeviceByConfig]),
			cmp.Compare(len(a.Name), len(b.Name)),
			cmp.Compare(a.Name, b.Name),
		)
	})
}

// put implements sink.
func (s *playbookStore) put(object any) {
	next, ok := object.(*v1alpha1.PlaybookExecution)
	if !ok {
		return
	}
	next.ManagedFields, next.Annotations = nil, nil
	s.mu.Lock()
	defer s.mu.Unlock()
	s.drop(playbookKey(next.Namespace, next.Name))
	device := next.Labels[v1alpha1.LabelDevice]
	if device == "" {
		return
	}
	s.objects[playbookKey(next.Namespace, next.Name)] = next
	key := playbookKey(next.Namespace, device)
	if s.devices[key] == nil {
		s.devices[key] = make(map[string]*v1alpha1.PlaybookExecution)
	}
	s.devices[key][next.Name] = next
}

// drop forgets a run. s.mu is held.
func (s *playbookStore) drop(key render.Source) {
	old := s.objects[key]
	if old == nil {
		return
	}
	delete(s.objects, key)
	device := playbookKey(old.Namespace, old.Labels[v1alpha1.LabelDevice])
	delete(s.devices[device], old.Name)
	if len(s.devices[device]) == 0 {
		delete(s.devices, device)
	}
}

// remove implements sink.
func (s *playbookStore) remove(object any) {
	if o, ok := object.(*v1alpha1.PlaybookExecution); ok {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.drop(playbookKey(o.Namespace, o.Name))
	}
}

// replace implements sink.
func (s *playbookStore) replace(objects []any) {
	there := make(map[render.Source]bool, len(objects))
	for _, o := range objects {
		if p, ok := o.(*v1alpha1.PlaybookExecution); ok {
			there[playbookKey(p.Namespace, p.Name)] = true
			s.put(p)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for key := range s.objects {
		if !there[key] {
			s.drop(key)
		}
	}
}

// Playbooks implements edgeapi.Backend.
func (b *Backend) Playbooks(ctx context.Context, name edgeapi.Device) ([]protocol.PlaybookExecution, error) {
	if _, err := b.known(ctx, name); err != nil {
		return nil, err
	}
	var list []protocol.PlaybookExecution
	for _, run := range b.playbooks.of(name.Namespace, name.ID) {
		if run.DeletionTimestamp != nil || run.Spec.Playbook == nil || completed(run.Status.Conditions) {
			continue
		}
		list = append(list, protocol.PlaybookExecution{Name: run.Name, AnsiblePlaybookString: string(run.Spec.Playbook.Content)})
	}
	return list, nil
}

func completed(conditions []v1alpha1.PlaybookCondition) bool {
	return slices.ContainsFunc(conditions, func(c v1alpha1.PlaybookCondition) bool {
		return c.Status == metav1.ConditionTrue &&
			(c.Type == v1alpha1.PlaybookSuccessfullyCompleted || c.Type == v1alpha1.PlaybookCompletedWithError)
	})
}

// withPlaybookState returns the list with state as the one condition that is
// true. A state that there is none of changes nothing. The list that it got is
// not changed.
func withPlaybookState(list []v1alpha1.PlaybookCondition, state string, now time.Time) []v1alpha1.PlaybookCondition {
	switch state {
	case v1alpha1.PlaybookDeploying, v1alpha1.PlaybookTargetVerification, v1alpha1.PlaybookRunning,
		v1alpha1.PlaybookSuccessfullyCompleted, v1alpha1.PlaybookCompletedWithError:
	default:
		return list
	}
	at := fleet.Timestamp(now)
	list = slices.Clone(list)
	found := false
	for i := range list {
		status := metav1.ConditionFalse
		if list[i].Type == state {
			status, found = metav1.ConditionTrue, true
		}
		if list[i].Status != status {
			list[i].Status, list[i].LastTransitionTime = status, &at
		}
	}
	if !found {
		list = append(list, v1alpha1.PlaybookCondition{Type: state, Status: metav1.ConditionTrue, LastTransitionTime: &at})
	}
	return list
}

// takePlaybooks writes into the status of a device what it reports of its runs.
// Others that it names are none of it; entries of runs that are no more go.
func takePlaybooks(d *v1alpha1.EdgeDevice, runs []*v1alpha1.PlaybookExecution, reported []protocol.PlaybookExecutionStatus, now time.Time) {
	exists := func(name string) bool {
		return slices.ContainsFunc(runs, func(r *v1alpha1.PlaybookExecution) bool { return r.Name == name })
	}
	list := slices.DeleteFunc(slices.Clone(d.Status.PlaybookExec), func(e v1alpha1.PlaybookExec) bool { return !exists(e.Name) })
	for _, report := range reported {
		if !exists(report.Name) {
			continue
		}
		i := slices.IndexFunc(list, func(e v1alpha1.PlaybookExec) bool { return e.Name == report.Name })
		if i < 0 {
			i = len(list)
			list = append(list, v1alpha1.PlaybookExec{Name: report.Name})
		}
		status := &list[i].PlaybookExecutionStatus
		status.Conditions = withPlaybookState(status.Conditions, report.Status, now)
	}
	d.Status.PlaybookExec = list
}

// writePlaybooks writes what a device reports into the runs themselves.
func (b *Backend) writePlaybooks(ctx context.Context, runs []*v1alpha1.PlaybookExecution, reported []protocol.PlaybookExecutionStatus, now time.Time) error {
	for _, report := range reported {
		i := slices.IndexFunc(runs, func(r *v1alpha1.PlaybookExecution) bool { return r.Name == report.Name })
		if i < 0 {
			continue
		}
		if err := b.writePlaybook(ctx, runs[i], report.Status, now); err != nil {
			return fmt.Errorf("write playbook execution %s/%s: %w", runs[i].Namespace, runs[i].Name, err)
		}
	}
	return nil
}

func (b *Backend) writePlaybook(ctx context.Context, run *v1alpha1.PlaybookExecution, state string, now time.Time) error {
	var err error
	for range maxConflicts {
		next := withPlaybookState(run.Status.Conditions, state, now)
		if equality.Semantic.DeepEqual(next, run.Status.Conditions) {
			return nil
		}
		into := &v1alpha1.PlaybookExecution{}
		status := v1alpha1.PlaybookExecutionStatus{Conditions: next}
		err = b.client.putStatus(ctx, playbookExecutions, v1alpha1.KindPlaybookExecution, run, status, into)
		if err == nil || isMissing(err, playbookExecutions, run.Name) {
			return nil
		}
		if !apierrors.IsConflict(err) {
			return err
		}
		name := run.Name
		if run, err = b.client.playbook(ctx, run.Namespace, run.Name); err != nil {
			if isMissing(err, playbookExecutions, name) {
				return nil
			}
			return err
		}
	}
	return err
}
