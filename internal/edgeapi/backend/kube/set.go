package kube

import (
	"sync"

	"github.com/project-flotta/flotta-agent/internal/render"
	"github.com/project-flotta/flotta-agent/pkg/api/v1alpha1"
)

// setStore is all EdgeDeviceSets.
type setStore struct {
	references *referenceStore
	mu         sync.RWMutex
	objects    map[render.Source]*v1alpha1.EdgeDeviceSet
}

func (s *setStore) init(references *referenceStore) {
	s.references = references
	s.objects = make(map[render.Source]*v1alpha1.EdgeDeviceSet)
}

func setKey(namespace, name string) render.Source {
	return render.Source{Kind: v1alpha1.KindEdgeDeviceSet, Namespace: namespace, Name: name}
}

// find returns nil when there is none.
func (s *setStore) find(namespace, name string) *v1alpha1.EdgeDeviceSet {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.objects[setKey(namespace, name)]
}

// put implements sink.
func (s *setStore) put(object any) {
	next, ok := object.(*v1alpha1.EdgeDeviceSet)
	if !ok {
		return
	}
	next.ManagedFields, next.Annotations = nil, nil
	key := setKey(next.Namespace, next.Name)
	s.mu.Lock()
	old := s.objects[key]
	s.objects[key] = next
	s.mu.Unlock()
	if old == nil || old.UID != next.UID || old.Generation != next.Generation {
		s.references.touch(key)
	}
}

// remove implements sink.
func (s *setStore) remove(object any) {
	o, ok := object.(*v1alpha1.EdgeDeviceSet)
	if !ok {
		return
	}
	key := setKey(o.Namespace, o.Name)
	s.mu.Lock()
	delete(s.objects, key)
	s.mu.Unlock()
	s.references.touch(key)
}

// replace implements sink.
func (s *setStore) replace(objects []any) {
	there := make(map[render.Source]bool, len(objects))
	for _, o := range objects {
		if set, ok := o.(*v1alpha1.EdgeDeviceSet); ok {
			there[setKey(set.Namespace, set.Name)] = true
			s.put(set)
		}
	}
	s.mu.Lock()
	var missing []render.Source
	for key := range s.objects {
		if !there[key] {
			missing = append(missing, key)
			delete(s.objects, key)
		}
	}
	s.mu.Unlock()
	for _, key := range missing {
		s.references.touch(key)
	}
}
