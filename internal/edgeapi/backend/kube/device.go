package kube

import (
	"maps"
	"sync"
	"time"
	"unique"

	"k8s.io/apimachinery/pkg/util/resourceversion"

	"github.com/project-flotta/flotta-agent/internal/edgeapi"
	"github.com/project-flotta/flotta-agent/pkg/api/v1alpha1"
)

// device is what is known of one EdgeDevice.
type device struct {
	name edgeapi.Device
	// turn is held, by filling it, by the one who renders.
	turn chan struct{}

	mu     sync.Mutex // guards what follows; objects pointed to are immutable
	object *v1alpha1.EdgeDevice
	// written is when object was written here, until the watch has caught up;
	// zero when object is what the watch says.
	written time.Time
	gone    bool
	// epoch counts the changes to what the configuration is made of, besides
	// those that references count.
	epoch    uint64
	rendered *rendering
	report   reportMark
}

// state is a device at one moment.
type state struct {
	object   *v1alpha1.EdgeDevice
	rendered *rendering
	epoch    uint64
	report   reportMark
}

func (d *device) state() state {
	d.mu.Lock()
	defer d.mu.Unlock()
	return state{object: d.object, rendered: d.rendered, epoch: d.epoch, report: d.report}
}

// deviceStore is all EdgeDevices.
type deviceStore struct {
	live       *liveReads
	references *referenceStore

	mu         sync.RWMutex
	namespaces map[string]map[string]*device
	found      []string      // namespaces that nobody asked for yet
	wake       chan struct{} // filled when found is not empty
}

func (s *deviceStore) init(b *Backend) {
	s.live, s.references = &b.live, &b.references
	s.namespaces = make(map[string]map[string]*device)
	s.wake = make(chan struct{}, 1)
}

// find returns nil when the watch knows no such device.
func (s *deviceStore) find(d edgeapi.Device) *device {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.namespaces[d.Namespace][d.ID]
}

// takeFound returns the namespaces that devices were seen in since the last
// call.
func (s *deviceStore) takeFound() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	found := s.found
	s.found = nil
	return found
}

// each calls do with every device of a namespace, or of all when it is empty.
func (s *deviceStore) each(namespace string, do func(*device)) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for name, list := range s.namespaces {
		if namespace == "" || namespace == name {
			for _, d := range list {
				do(d)
			}
		}
	}
}

// bump makes the configurations of some devices of a namespace be rendered anew.
func (s *deviceStore) bump(namespace string, concerned func(*v1alpha1.EdgeDevice) bool) {
	s.each(namespace, func(d *device) {
		d.mu.Lock()
		defer d.mu.Unlock()
		if concerned(d.object) {
			d.epoch++
		}
	})
}

// put implements sink.
func (s *deviceStore) put(object any) {
	next, ok := object.(*v1alpha1.EdgeDevice)
	if !ok {
		return
	}
	slim(next)
	name := edgeapi.Device{Namespace: next.Namespace, ID: next.Name}
	s.live.forget(name)
	d := s.make(name, next)
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.written.IsZero() && d.object.UID == next.UID {
		// What was written here is known before the watch tells. It is believed
		// for as long as a watch can be late; a cluster that was restored from a
		// copy starts at an older version.
		if older(next.ResourceVersion, d.object.ResourceVersion) && time.Since(d.written) < watchDelay {
			return
		}
	}
	d.written = time.Time{}
	d.set(next)
}

// watchDelay is how late a watch may be before it is believed all the same.
const watchDelay = time.Minute

func older(version, than string) bool {
	order, err := resourceversion.CompareResourceVersion(version, than)
	return err == nil && order < 0
}

// make returns the entry of a device, with object when it is new.
func (s *deviceStore) make(name edgeapi.Device, object *v1alpha1.EdgeDevice) *device {
	s.mu.Lock()
	defer s.mu.Unlock()
	list, ok := s.namespaces[name.Namespace]
	if !ok {
		list = make(map[string]*device)
		s.namespaces[name.Namespace] = list
		s.found = append(s.found, name.Namespace)
		select {
		case s.wake <- struct{}{}:
		default:
		}
	}
	d, ok := list[name.ID]
	if !ok {
		d = &device{name: name, turn: make(chan struct{}, 1), object: object}
		list[name.ID] = d
	}
	return d
}

// adopt takes over what the API server answered to a read or write of ours. It
// makes no device known, because the watch may have told its end already.
func (s *deviceStore) adopt(object *v1alpha1.EdgeDevice) {
	slim(object)
	d := s.find(edgeapi.Device{Namespace: object.Namespace, ID: object.Name})
	if d == nil {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.object.UID == object.UID && older(d.object.ResourceVersion, object.ResourceVersion) {
		d.written = time.Now()
		d.set(object)
	}
}

// set makes object the device. d.mu is held.
func (d *device) set(object *v1alpha1.EdgeDevice) {
	old := d.object
	if old != object && (old.UID != object.UID || old.Generation != object.Generation ||
		old.Status.DataOBC != object.Status.DataOBC || !maps.Equal(old.Labels, object.Labels) ||
		old.DeletionTimestamp.IsZero() != object.DeletionTimestamp.IsZero()) {
		d.epoch++
	}
	d.object = object
}

// remove implements sink.
func (s *deviceStore) remove(object any) {
	o, ok := object.(*v1alpha1.EdgeDevice)
	if !ok {
		return
	}
	s.drop(edgeapi.Device{Namespace: o.Namespace, ID: o.Name})
}

func (s *deviceStore) drop(name edgeapi.Device) {
	s.mu.Lock()
	d, ok := s.namespaces[name.Namespace][name.ID]
	if ok {
		// The namespace stays: it is watched.
		delete(s.namespaces[name.Namespace], name.ID)
	}
	s.mu.Unlock()
	if !ok {
		return
	}
	d.mu.Lock()
	d.gone = true
	last := d.rendered
	d.rendered = nil
	d.mu.Unlock()
	if last != nil {
		s.references.release(last.pins)
	}
}

// replace implements sink.
func (s *deviceStore) replace(objects []any) {
	there := make(map[edgeapi.Device]bool, len(objects))
	for _, o := range objects {
		if d, ok := o.(*v1alpha1.EdgeDevice); ok {
			there[edgeapi.Device{Namespace: d.Namespace, ID: d.Name}] = true
			s.put(d)
		}
	}
	var missing []edgeapi.Device
	s.each("", func(d *device) {
		if !there[d.name] {
			missing = append(missing, d.name)
		}
	})
	for _, name := range missing {
		s.drop(name)
	}
}

// publish makes a rendering the one of the device and gives the pins of the one
// before it free. It reports whether the device is still there.
func (s *deviceStore) publish(d *device, r *rendering) bool {
	d.mu.Lock()
	last := d.rendered
	if d.gone {
		last = r
	} else {
		d.rendered = r
	}
	gone := d.gone
	d.mu.Unlock()
	if last != nil {
		s.references.release(last.pins)
	}
	return !gone
}

// slim drops what is not needed, and shares texts that are the same for the
// whole fleet: ten thousand devices have few different ones.
func slim(d *v1alpha1.EdgeDevice) {
	d.ManagedFields = nil
	d.OwnerReferences = nil
	keys := d.Annotations[v1alpha1.AnnotationRegisteredKeys]
	_, registered := d.Annotations[v1alpha1.AnnotationRegisteredKeys]
	d.Annotations = nil
	if registered {
		d.Annotations = map[string]string{v1alpha1.AnnotationRegisteredKeys: keys}
	}
	labels := make(map[string]string, len(d.Labels))
	for key, value := range d.Labels {
		labels[shared(key)] = shared(value)
	}
	d.Labels = labels
	for i := range d.Status.Conditions {
		c := &d.Status.Conditions[i]
		c.Type, c.Reason, c.Message = shared(c.Type), shared(c.Reason), shared(c.Message)
	}
	for i := range d.Status.Workloads {
		w := &d.Status.Workloads[i]
		w.Name, w.Phase, w.Reason, w.Message = shared(w.Name), shared(w.Phase), shared(w.Reason), shared(w.Message)
	}
	d.Namespace, d.Kind, d.APIVersion = shared(d.Namespace), shared(d.Kind), shared(d.APIVersion)
	d.Status.Phase = shared(d.Status.Phase)
	d.Status.LastSyncedResourceVersion = shared(d.Status.LastSyncedResourceVersion)
}

func shared(text string) string {
	if text == "" {
		return ""
	}
	return unique.Make(text).Value()
}
