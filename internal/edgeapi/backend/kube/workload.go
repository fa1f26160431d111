package kube

import (
	"maps"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/project-flotta/flotta-agent/pkg/api/v1alpha1"
)

// workload is an EdgeWorkload with its selector ready for use.
type workload struct {
	object   *v1alpha1.EdgeWorkload // immutable
	selector labels.Selector        // nil when it names a device, or nobody
}

// matches is render.Matches without the work of reading the selector.
func (w *workload) matches(d *v1alpha1.EdgeDevice) bool {
	if w == nil {
		return false
	}
	if w.object.Spec.Device != "" {
		return w.object.Spec.Device == d.Name
	}
	return w.selector != nil && w.selector.Matches(labels.Set(d.Labels))
}

// namespaceWorkloads are the workloads of one namespace.
type namespaceWorkloads struct {
	all      map[string]*workload            // by name
	byDevice map[string]map[string]*workload // those that name a device, by it
	chosen   map[string]*workload            // those with a selector
}

// workloadStore is all EdgeWorkloads.
type workloadStore struct {
	devices    *deviceStore
	mu         sync.RWMutex
	namespaces map[string]*namespaceWorkloads
}

func (s *workloadStore) init(devices *deviceStore) {
	s.devices = devices
	s.namespaces = make(map[string]*namespaceWorkloads)
}

// of returns what is meant for a device and is not being deleted.
func (s *workloadStore) of(d *v1alpha1.EdgeDevice) []v1alpha1.EdgeWorkload {
	s.mu.RLock()
	defer s.mu.RUnlock()
	n := s.namespaces[d.Namespace]
	if n == nil {
		return nil
	}
	var list []v1alpha1.EdgeWorkload
	for _, w := range n.byDevice[d.Name] {
		if w.object.DeletionTimestamp == nil {
			list = append(list, *w.object)
		}
	}
	for _, w := range n.chosen {
		if w.object.DeletionTimestamp == nil && w.matches(d) {
			list = append(list, *w.object)
		}
	}
	return list
}

// put implements sink.
func (s *workloadStore) put(object any) {
	next, ok := object.(*v1alpha1.EdgeWorkload)
	if !ok {
		return
	}
	next.ManagedFields = nil
	next.Status = v1alpha1.EdgeWorkloadStatus{}
	delete(next.Annotations, corev1.LastAppliedConfigAnnotation)
	w := &workload{object: next}
	if next.Spec.Device == "" && next.Spec.DeviceSelector != nil {
		// A selector that is wrong chooses nobody; the operator says so.
		if selector, err := metav1.LabelSelectorAsSelector(next.Spec.DeviceSelector); err == nil {
			w.selector = selector
		}
	}
	old := s.set(next.Namespace, next.Name, w)
	if old != nil && sameWorkload(old.object, next) {
		return
	}
	s.devices.bump(next.Namespace, func(d *v1alpha1.EdgeDevice) bool { return old.matches(d) || w.matches(d) })
}

// sameWorkload reports whether two states of a workload are rendered alike.
func sameWorkload(a, b *v1alpha1.EdgeWorkload) bool {
	return a.UID == b.UID && a.Generation == b.Generation &&
		(a.DeletionTimestamp == nil) == (b.DeletionTimestamp == nil) &&
		maps.Equal(forPodman(a.Labels), forPodman(b.Labels)) && maps.Equal(forPodman(a.Annotations), forPodman(b.Annotations))
}

func forPodman(set map[string]string) map[string]string {
	out := maps.Clone(set)
	maps.DeleteFunc(out, func(key, _ string) bool { return !strings.HasPrefix(key, v1alpha1.PodmanPrefix) })
	return out
}

// set makes w the workload of that name, none when it is nil, and returns the
// one before.
func (s *workloadStore) set(namespace, name string, w *workload) *workload {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.namespaces[namespace]
	if n == nil {
		n = &namespaceWorkloads{
			all: make(map[string]*workload), byDevice: make(map[string]map[string]*workload), chosen: make(map[string]*workload),
		}
		s.namespaces[namespace] = n
	}
	old := n.all[name]
	if old != nil {
		device := old.object.Spec.Device
		delete(n.byDevice[device], name)
		if len(n.byDevice[device]) == 0 {
			delete(n.byDevice, device)
		}
	}
	delete(n.all, name)
	delete(n.chosen, name)
	if w == nil {
		return old
	}
	n.all[name] = w
	switch device := w.object.Spec.Device; {
	case device != "":
		if n.byDevice[device] == nil {
			n.byDevice[device] = make(map[string]*workload)
		}
		n.byDevice[device][name] = w
	case w.selector != nil:
		n.chosen[name] = w
	}
	return old
}

// remove implements sink.
func (s *workloadStore) remove(object any) {
	if o, ok := object.(*v1alpha1.EdgeWorkload); ok {
		s.drop(o.Namespace, o.Name)
	}
}

func (s *workloadStore) drop(namespace, name string) {
	old := s.set(namespace, name, nil)
	s.devices.bump(namespace, func(d *v1alpha1.EdgeDevice) bool { return old.matches(d) })
}

// replace implements sink.
func (s *workloadStore) replace(objects []any) {
	there := make(map[[2]string]bool, len(objects))
	for _, o := range objects {
		if w, ok := o.(*v1alpha1.EdgeWorkload); ok {
			there[[2]string{w.Namespace, w.Name}] = true
			s.put(w)
		}
	}
	var missing [][2]string
	s.mu.RLock()
	for namespace, n := range s.namespaces {
		for name := range n.all {
			if key := [2]string{namespace, name}; !there[key] {
				missing = append(missing, key)
			}
		}
	}
	s.mu.RUnlock()
	for _, key := range missing {
		s.drop(key[0], key[1])
	}
}
