package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/project-flotta/flotta-agent/internal/edgeapi"
	"github.com/project-flotta/flotta-agent/internal/fleet"
	"github.com/project-flotta/flotta-agent/pkg/api/v1alpha1"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// maxRequestBytes bounds what a stranger can make the API server store: without
// its hardware a request is a few hundred bytes.
const maxRequestBytes = 64 << 10

// request is what is needed of an EdgeDeviceSignedRequest.
type request struct {
	target            string // namespace
	declined, granted bool
}

func requestOf(r *v1alpha1.EdgeDeviceSignedRequest) request {
	return request{target: shared(r.Spec.TargetNamespace), declined: fleet.IsDeclined(r), granted: fleet.IsGranted(r)}
}

// requestStore is all EdgeDeviceSignedRequests that count, by the device's name.
type requestStore struct {
	mu      sync.RWMutex
	objects map[string]request
	waiting int // neither granted nor declined
	// made are requests that were made here and not told by the watch yet: they
	// count as waiting, so that the bound holds while the watch is late.
	made map[string]time.Time
}

func (s *requestStore) init() {
	s.objects = make(map[string]request)
	s.made = make(map[string]time.Time)
}

func (s *requestStore) find(id string) (request, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	r, ok := s.objects[id]
	return r, ok
}

// pending returns how many requests wait for an administrator.
func (s *requestStore) pending(now time.Time) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	maps.DeleteFunc(s.made, func(_ string, at time.Time) bool { return now.Sub(at) > watchDelay })
	return s.waiting + len(s.made)
}

func (s *requestStore) note(id string, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.objects[id]; !ok {
		s.made[id] = now
	}
}

func (s *requestStore) put(object any) {
	o, ok := object.(*v1alpha1.EdgeDeviceSignedRequest)
	if !ok || o.Namespace != v1alpha1.DefaultNamespace {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.drop(o.Name)
	r := requestOf(o)
	s.objects[o.Name] = r
	if r.waits() {
		s.waiting++
	}
}

func (r request) waits() bool { return !r.declined && !r.granted }

// drop forgets a request. s.mu is held.
func (s *requestStore) drop(id string) {
	if old, ok := s.objects[id]; ok && old.waits() {
		s.waiting--
	}
	delete(s.objects, id)
	delete(s.made, id)
}

func (s *requestStore) remove(object any) {
	if o, ok := object.(*v1alpha1.EdgeDeviceSignedRequest); ok && o.Namespace == v1alpha1.DefaultNamespace {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.drop(o.Name)
	}
}

func (s *requestStore) replace(objects []any) {
	there := make(map[string]bool, len(objects))
	for _, o := range objects {
		if r, ok := o.(*v1alpha1.EdgeDeviceSignedRequest); ok {
			there[r.Name] = true
			s.put(r)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for id := range s.objects {
		if !there[id] {
			s.drop(id)
		}
	}
}

// Enrol implements edgeapi.Backend. It does not wait for an approval, also when
// that needs nobody: the device asks again.
func (b *Backend) Enrol(ctx context.Context, d edgeapi.Device, info protocol.EnrolmentInfo) (bool, error) {
	if b.exists(d) {
		return true, nil
	}
	if r, ok := b.requests.find(d.ID); ok {
		return b.enrolled(d, r)
	}
	if err := b.Ready(ctx); err != nil {
		return false, err
	}
	now := time.Now()
	if n := b.requests.pending(now); n >= b.cfg.MaxPending {
		return false, fmt.Errorf("%d requests wait for approval, no more are taken", n)
	}
	object, err := newRequest(d, info, now)
	if err != nil {
		return false, err
	}
	err = b.client.createRequest(ctx, object)
	if apierrors.IsInvalid(err) && object.Spec.Features != nil {
		object.Spec.Features = nil // the device described itself in a way that cannot be stored
		err = b.client.createRequest(ctx, object)
	}
	switch {
	case apierrors.IsAlreadyExists(err):
		// The watch is late, or another replica was faster.
		return b.enrolledLive(ctx, d)
	case apierrors.IsInvalid(err):
		return false, fmt.Errorf("create request: %w: %w", edgeapi.ErrInvalid, err)
	case err != nil:
		return false, fmt.Errorf("create request: %w", err)
	}
	b.requests.note(d.ID, now)
	b.log.Info("device asks to be managed", "device", d.String())
	return false, nil
}

// exists reports whether a device is there to stay.
func (b *Backend) exists(d edgeapi.Device) bool {
	found := b.devices.find(d)
	return found != nil && found.state().object.DeletionTimestamp == nil
}

// enrolled answers to a device that asked before.
func (b *Backend) enrolled(d edgeapi.Device, r request) (bool, error) {
	if r.declined {
		return false, fmt.Errorf("device %s was declined: %w", d.ID, edgeapi.ErrForbidden)
	}
	return b.exists(edgeapi.Device{Namespace: r.target, ID: d.ID}), nil
}

func (b *Backend) enrolledLive(ctx context.Context, d edgeapi.Device) (bool, error) {
	if !b.live.limiter.Allow() {
		return false, fmt.Errorf("read request of device %s: %w", d.ID, errBusy)
	}
	object, err := b.client.request(ctx, d.ID)
	if isMissing(err, signedRequests, d.ID) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read request of device %s: %w", d.ID, err)
	}
	return b.enrolled(d, requestOf(object))
}

func newRequest(d edgeapi.Device, info protocol.EnrolmentInfo, now time.Time) (*v1alpha1.EdgeDeviceSignedRequest, error) {
	object := fleet.NewRequest(d.Namespace, d.ID, info, now)
	object.Status = v1alpha1.EdgeDeviceSignedRequestStatus{Conditions: []v1alpha1.EdgeDeviceSignedRequestCondition{}}
	raw, err := json.Marshal(object.Spec)
	if err != nil {
		return nil, fmt.Errorf("encode request: %w", err)
	}
	if len(raw) > maxRequestBytes {
		object.Spec.Features = nil
	}
	return object, nil
}

// RegistrationTarget implements edgeapi.Backend.
func (b *Backend) RegistrationTarget(ctx context.Context, r edgeapi.Registration) (edgeapi.Device, error) {
	if r.Own {
		err := b.registrable(ctx, r.Device, r)
		if err == nil || !isNotFound(err) {
			return r.Device, err
		}
		// It may have moved since it got its certificate.
	}
	asked, ok := b.requests.find(r.Device.ID)
	if !ok {
		if !b.live.limiter.Allow() {
			return edgeapi.Device{}, fmt.Errorf("read request of device %s: %w", r.Device.ID, errBusy)
		}
		object, err := b.client.request(ctx, r.Device.ID)
		if isMissing(err, signedRequests, r.Device.ID) {
			return edgeapi.Device{}, fmt.Errorf("no request of device %s: %w", r.Device.ID, edgeapi.ErrNotFound)
		}
		if err != nil {
			return edgeapi.Device{}, fmt.Errorf("read request of device %s: %w", r.Device.ID, err)
		}
		asked = requestOf(object)
	}
	if asked.declined {
		return edgeapi.Device{}, fmt.Errorf("device %s was declined: %w", r.Device.ID, edgeapi.ErrForbidden)
	}
	target := edgeapi.Device{Namespace: asked.target, ID: r.Device.ID}
	err := b.registrable(ctx, target, r)
	if isNotFound(err) {
		return edgeapi.Device{}, fmt.Errorf("request of device %s: %w", r.Device.ID, edgeapi.ErrNotApproved)
	}
	return target, err
}

// registrable returns why a device may not register, or nil. That it may not is
// confirmed.
func (b *Backend) registrable(ctx context.Context, name edgeapi.Device, r edgeapi.Registration) error {
	d, err := b.known(ctx, name)
	if err != nil {
		return err
	}
	object := d.state().object
	if mayRegister(object, r) == nil {
		return nil
	}
	if object, err = b.confirm(ctx, name); err != nil {
		return err
	}
	if object == nil {
		return fmt.Errorf("device %s: %w", name, edgeapi.ErrNotFound)
	}
	return mayRegister(object, r)
}

func mayRegister(object *v1alpha1.EdgeDevice, r edgeapi.Registration) error {
	if object.DeletionTimestamp != nil {
		return fmt.Errorf("device %s/%s is being removed: %w", object.Namespace, object.Name, edgeapi.ErrNotFound)
	}
	if !fleet.MayRegister(object, claimOf(r)) {
		return fmt.Errorf("device %s/%s is registered with another key: %w", object.Namespace, object.Name, edgeapi.ErrForbidden)
	}
	return nil
}

func claimOf(r edgeapi.Registration) fleet.Claim {
	return fleet.Claim{Own: r.Own, Presented: r.PresentedKey, Requested: r.KeyFingerprint}
}

// CompleteRegistration implements edgeapi.Backend. The key is recorded first, in
// one write that one of several can win; what follows from it comes after, and
// anew when the device asks again.
func (b *Backend) CompleteRegistration(ctx context.Context, r edgeapi.Registration) error {
	d, err := b.known(ctx, r.Device)
	if err != nil {
		return err
	}
	r.Hardware = b.fitting(d, r.Hardware)
	now := time.Now()
	var registered *metav1.Condition
	_, err = b.update(ctx, d, func(object *v1alpha1.EdgeDevice) error {
		if err := mayRegister(object, r); err != nil {
			return err
		}
		status := object.Status
		fleet.Register(object, claimOf(r), r.Hardware, now)
		registered = meta.FindStatusCondition(object.Status.Conditions, v1alpha1.ConditionRegistered)
		object.Status = status
		return nil
	})
	if err != nil {
		return err
	}
	_, err = b.update(ctx, d, func(object *v1alpha1.EdgeDevice) error {
		fleet.TakeHardware(object, r.Hardware)
		fleet.SetCondition(object, *registered, now)
		return nil
	})
	return err
}
