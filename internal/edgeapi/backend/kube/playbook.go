package kube

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"maps"
	"slices"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

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
	stopped := make(map[string]bool) // by config
	for _, run := range b.playbooks.of(name.Namespace, name.ID) {
		id, config := fleet.RunID(run), run.Labels[v1alpha1.LabelDeviceByConfig]
		switch {
		case run.DeletionTimestamp != nil || run.Spec.Playbook == nil:
		case fleet.RunEnded(run.Status, id):
			stopped[config] = stopped[config] || config != "" && fleet.Stops(run)
		case !stopped[config]: // a device that got it now would not know of the one before
			list = append(list, fleet.RunMessage(run, id))
		}
	}
	return list, nil
}

// runIDs returns the IDs of runs by name.
func runIDs(runs []*v1alpha1.PlaybookExecution) map[string]string {
	ids := make(map[string]string, len(runs))
	for _, run := range runs {
		ids[run.Name] = fleet.RunID(run)
	}
	return ids
}

// runsHash identifies runs as they are now, with their status.
func (b *Backend) runsHash(runs []*v1alpha1.PlaybookExecution) uint64 {
	var h maphash.Hash
	h.SetSeed(b.events.seed)
	for _, run := range runs {
		// Writing to a hash does not fail, and none of this holds a blank.
		_, _ = h.WriteString(run.Name + " " + string(run.UID) + " " + run.ResourceVersion + " ")
	}
	return h.Sum64()
}

// writePlaybooks writes what a device reports into the runs themselves. One that
// cannot be written keeps no other from it.
func (b *Backend) writePlaybooks(ctx context.Context, runs []*v1alpha1.PlaybookExecution, reported []protocol.PlaybookExecutionStatus, now time.Time) error {
	byName := make(map[string]*v1alpha1.PlaybookExecution, len(runs))
	for _, run := range runs {
		byName[run.Name] = run
	}
	var errs []error
	for _, report := range reported {
		run := byName[report.Name]
		if run == nil {
			continue
		}
		after, err := b.writePlaybook(ctx, run, report, now)
		if err != nil {
			errs = append(errs, fmt.Errorf("write playbook execution %s/%s: %w", run.Namespace, run.Name, err))
		}
		byName[report.Name] = after // for a report that names it twice
	}
	return errors.Join(errs...)
}

// writePlaybook returns the run as it is then, or nil when it is no more.
func (b *Backend) writePlaybook(ctx context.Context, run *v1alpha1.PlaybookExecution, report protocol.PlaybookExecutionStatus, now time.Time) (*v1alpha1.PlaybookExecution, error) {
	var err error
	for range maxConflicts {
		next := fleet.TakeRun(run.Status, fleet.RunID(run), report, now)
		if equality.Semantic.DeepEqual(next, run.Status) {
			return run, nil
		}
		into := &v1alpha1.PlaybookExecution{}
		err = b.client.putStatus(ctx, playbookExecutions, v1alpha1.KindPlaybookExecution, run, next, into)
		switch {
		case err == nil:
			return into, nil
		case isMissing(err, playbookExecutions, run.Name):
			return nil, nil
		case !apierrors.IsConflict(err):
			return run, err
		}
		fresh, readErr := b.client.playbook(ctx, run.Namespace, run.Name)
		if readErr != nil {
			if isMissing(readErr, playbookExecutions, run.Name) {
				return nil, nil
			}
			return run, readErr
		}
		run = fresh
	}
	return run, err
}
