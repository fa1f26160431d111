package file

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/project-flotta/flotta-agent/internal/durable"
	"github.com/project-flotta/flotta-agent/internal/edgeapi"
	"github.com/project-flotta/flotta-agent/internal/fleet"
	"github.com/project-flotta/flotta-agent/pkg/api/v1alpha1"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// maxRequestBytes bounds what a stranger can make the server store: without its
// hardware a request is a few hundred bytes.
const maxRequestBytes = 64 << 10

// Enrol implements edgeapi.Backend.
func (b *Backend) Enrol(ctx context.Context, d edgeapi.Device, info protocol.EnrolmentInfo) (bool, error) {
	if exists, decided, err := b.enrolled(d); decided {
		return exists, err
	}
	release, err := b.disk.acquire(ctx)
	if err != nil {
		return false, err
	}
	defer release()
	if exists, decided, err := b.enrolled(d); decided {
		return exists, err
	}
	b.mu.RLock()
	_, known := b.requests[d.ID]
	pending := len(b.requests) - len(b.devices)
	target := b.target(d)
	b.mu.RUnlock()
	if !known {
		if pending >= b.cfg.MaxPending {
			return false, fmt.Errorf("%d requests wait for approval, no more are taken", pending)
		}
		if err := b.writeRequest(d.ID, createdAt(fleet.NewRequest(target.Namespace, target.ID, info, time.Now()), time.Now())); err != nil {
			return false, err
		}
		b.log.Info("device asks to be managed", "device", target.String())
	}
	if err := b.settleRequest(d.ID, time.Now()); err != nil {
		return false, err
	}
	exists, _, err := b.enrolled(d)
	return exists, err
}

// enrolled looks at what is known about a device that enrols, and reports
// whether that decides the answer.
func (b *Backend) enrolled(d edgeapi.Device) (exists, decided bool, err error) {
	b.mu.RLock()
	defer b.mu.RUnlock()
	request, asked := b.requests[d.ID]
	if asked && request.object != nil && fleet.IsDeclined(request.object) {
		return false, true, fmt.Errorf("device %s was declined: %w", d.ID, edgeapi.ErrForbidden)
	}
	if _, ok := b.devices[d]; ok {
		return true, true, nil
	}
	if !asked {
		return false, false, nil
	}
	if request.object == nil {
		return false, true, fmt.Errorf("request of device %s cannot be read", d.ID)
	}
	if _, ok := b.devices[edgeapi.Device{Namespace: request.object.Spec.TargetNamespace, ID: d.ID}]; ok {
		return true, true, nil
	}
	return false, !b.approves(request.object), nil
}

// target is where a device goes that asks for a namespace: where its manifest
// is, if there is exactly one, because the administrator wrote that.
func (b *Backend) target(d edgeapi.Device) edgeapi.Device {
	if r := b.catalog.request(d.ID); r != nil {
		return edgeapi.Device{Namespace: r.Spec.TargetNamespace, ID: d.ID}
	}
	if list := b.catalog.devices[d.ID]; len(list) == 1 {
		return list[0]
	}
	return d
}

// approves reports whether a request is to be granted. b.mu is held.
func (b *Backend) approves(r *v1alpha1.EdgeDeviceSignedRequest) bool {
	if b.cfg.AutoApprove || r.Spec.Approved {
		return true
	}
	if ahead := b.catalog.request(r.Name); ahead != nil && ahead.Spec.Approved {
		return true
	}
	return b.catalog.device(edgeapi.Device{Namespace: r.Spec.TargetNamespace, ID: r.Name}) != nil
}

// settleRequest does what follows from a request: makes the device of one that
// was approved, ends the one of one that was declined, and forgets the request of
// a device that was removed. The disk lock is held.
func (b *Backend) settleRequest(id string, now time.Time) error {
	b.mu.RLock()
	entry, ok := b.requests[id]
	if !ok || entry.object == nil || !entry.gone.IsZero() {
		b.mu.RUnlock()
		return nil
	}
	r := entry.object
	d := edgeapi.Device{Namespace: r.Spec.TargetNamespace, ID: id}
	_, exists := b.devices[d]
	approved := b.approves(r)
	set := r.Spec.TargetSet
	if ahead := b.catalog.request(id); ahead != nil && ahead.Spec.TargetSet != "" {
		set = ahead.Spec.TargetSet
	}
	b.mu.RUnlock()

	granted := fleet.IsGranted(r)
	if !exists {
		// A file that was not read yet is a device all the same.
		_, err := os.Lstat(b.devicePath(d))
		if exists = !errors.Is(err, fs.ErrNotExist); exists && !fleet.IsDeclined(r) {
			return nil
		}
	}
	switch {
	case fleet.IsDeclined(r):
		if !exists {
			return nil
		}
		b.log.Info("device declined", "device", d.String())
		return b.removeDevice(d)
	case !approved, granted && exists:
		return nil
	case granted:
		// It was made once and is not there: it was removed, and asks again.
		b.log.Info("request forgotten with its device", "device", d.String())
		return b.removeRequest(id)
	}
	if !exists {
		if err := b.writeDevice(d, createdAt(fleet.NewDevice(d.Namespace, d.ID, set, now), now), nil); err != nil {
			return err
		}
		b.log.Info("device approved", "device", d.String())
	}
	next := *r
	next.Spec.Approved = true
	next.Status.Conditions = fleet.WithRequestCondition(r.Status.Conditions, v1alpha1.SignedRequestApproved, "", now)
	return b.writeRequest(id, &next)
}

// createdAt sets what a cluster would set.
func createdAt[T metav1.Object](object T, now time.Time) T {
	object.SetCreationTimestamp(fleet.Timestamp(now))
	return object
}

// writeRequest stores a request. The disk lock is held.
func (b *Backend) writeRequest(id string, r *v1alpha1.EdgeDeviceSignedRequest) error {
	data, err := storeRequest(b.requestPath(id), r)
	if err != nil {
		return err
	}
	b.setRequest(id, r, string(data))
	return nil
}

func storeRequest(path string, r *v1alpha1.EdgeDeviceSignedRequest) ([]byte, error) {
	data, err := yaml.Marshal(r)
	if err == nil && len(data) > maxRequestBytes && r.Spec.Features != nil {
		bare := *r
		bare.Spec.Features = nil
		data, err = yaml.Marshal(&bare)
	}
	if err != nil {
		return nil, fmt.Errorf("encode request %s: %w", r.Name, err)
	}
	if err := durable.WriteFile(path, data, filePerm); err != nil {
		return nil, fmt.Errorf("store request %s: %w", r.Name, err)
	}
	return data, nil
}

func (b *Backend) setRequest(id string, r *v1alpha1.EdgeDeviceSignedRequest, raw string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	entry, ok := b.requests[id]
	if !ok {
		entry = &requestEntry{}
		b.requests[id] = entry
	}
	entry.object, entry.raw, entry.gone = r, raw, time.Time{}
	delete(b.state, b.relative(b.requestPath(id)))
}

// removeRequest forgets a request. The disk lock is held.
func (b *Backend) removeRequest(id string) error {
	if err := removeDurably(b.requestPath(id)); err != nil {
		return fmt.Errorf("remove request %s: %w", id, err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.requests, id)
	delete(b.state, b.relative(b.requestPath(id)))
	return nil
}

// decodeRequest reads the file of a request.
func decodeRequest(id string, data []byte) (*v1alpha1.EdgeDeviceSignedRequest, error) {
	var r v1alpha1.EdgeDeviceSignedRequest
	if err := decodeState(data, v1alpha1.KindEdgeDeviceSignedRequest, &r); err != nil {
		return nil, err
	}
	r.Namespace = v1alpha1.DefaultNamespace
	if r.Name != id {
		return nil, fmt.Errorf("file is for device %s but holds %s", id, r.Name)
	}
	if err := validateObject(&r); err != nil {
		return nil, err
	}
	return &r, nil
}

func readRequest(path, id string) (*v1alpha1.EdgeDeviceSignedRequest, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	return decodeRequest(id, data)
}

// RegistrationTarget implements edgeapi.Backend.
func (b *Backend) RegistrationTarget(_ context.Context, r edgeapi.Registration) (edgeapi.Device, error) {
	b.mu.RLock()
	defer b.mu.RUnlock()
	if r.Own {
		if entry, ok := b.devices[r.Device]; ok {
			return r.Device, registrable(entry.object, r)
		}
	}
	request, ok := b.requests[r.Device.ID]
	if !ok || request.object == nil {
		return edgeapi.Device{}, fmt.Errorf("no request of device %s: %w", r.Device.ID, edgeapi.ErrNotFound)
	}
	if fleet.IsDeclined(request.object) {
		return edgeapi.Device{}, fmt.Errorf("device %s was declined: %w", r.Device.ID, edgeapi.ErrForbidden)
	}
	target := edgeapi.Device{Namespace: request.object.Spec.TargetNamespace, ID: r.Device.ID}
	entry, ok := b.devices[target]
	if !ok {
		return edgeapi.Device{}, fmt.Errorf("request of device %s: %w", r.Device.ID, edgeapi.ErrNotApproved)
	}
	return target, registrable(entry.object, r)
}

// registrable returns why a device may not register, or nil.
func registrable(object *v1alpha1.EdgeDevice, r edgeapi.Registration) error {
	if object == nil {
		return errors.New("the file of the device cannot be read")
	}
	if !fleet.MayRegister(object, claimOf(r)) {
		return fmt.Errorf("device %s/%s is registered with another key: %w", object.Namespace, object.Name, edgeapi.ErrForbidden)
	}
	return nil
}

func claimOf(r edgeapi.Registration) fleet.Claim {
	return fleet.Claim{Own: r.Own, Presented: r.PresentedKey, Requested: r.KeyFingerprint}
}

// CompleteRegistration implements edgeapi.Backend.
func (b *Backend) CompleteRegistration(ctx context.Context, r edgeapi.Registration) error {
	now := time.Now()
	return b.update(ctx, r.Device, func(object *v1alpha1.EdgeDevice) error {
		if err := registrable(object, r); err != nil {
			return err
		}
		fleet.Register(object, claimOf(r), r.Hardware, now)
		return nil
	})
}

// Authorise implements edgeapi.Backend.
func (b *Backend) Authorise(_ context.Context, d edgeapi.Device, fingerprint string) error {
	b.mu.RLock()
	defer b.mu.RUnlock()
	entry, ok := b.devices[d]
	if !ok || entry.object == nil || fleet.MaySpeak(entry.object, fingerprint) {
		return nil
	}
	return fmt.Errorf("device %s registered with another key: %w", d, edgeapi.ErrUnauthorised)
}
