package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/project-flotta/flotta-agent/internal/edgeapi"
	"github.com/project-flotta/flotta-agent/internal/fleet"
	"github.com/project-flotta/flotta-agent/pkg/api/v1alpha1"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

const (
	// maxConflicts is how often a change of what few write is computed anew.
	maxConflicts = 8
	// conflictTime is how long a change of a device is computed anew: whoever
	// writes it all the time is faster most of the times.
	conflictTime = 10 * time.Second
	// conflictDelay is the mean time before that.
	conflictDelay = 10 * time.Millisecond
)

// change is what became of an update.
type change struct {
	before, after *v1alpha1.EdgeDevice
	written       bool
}

// update changes a device by mutate, which gets a copy of the newest state and
// may be called several times; an error of it ends the update. When the copy
// differs, the API server has it before update returns.
func (b *Backend) update(ctx context.Context, d *device, mutate func(*v1alpha1.EdgeDevice) error) (change, error) {
	base := d.state().object
	uid := base.UID
	written := false
	started := time.Now()
	for try := 0; try == 0 || time.Since(started) < conflictTime; try++ {
		if try > 0 {
			var err error
			if base, err = b.again(ctx, d); err != nil {
				return change{}, err
			}
			if base.UID != uid {
				return change{}, fmt.Errorf("device %s was made anew meanwhile", d.name)
			}
		}
		next := fleet.Clone(base)
		if err := mutate(next); err != nil {
			return change{}, err
		}
		after, err := b.write(ctx, base, next)
		switch {
		case err == nil:
			c := change{before: base, after: base, written: written}
			if after != nil {
				c.after, c.written = after, true
			}
			b.announce(d.name, c)
			return c, nil
		case isMissing(err, edgeDevices, d.name.ID):
			return change{}, fmt.Errorf("device %s: %w", d.name, edgeapi.ErrNotFound)
		case !apierrors.IsConflict(err):
			return change{}, fmt.Errorf("write device %s: %w", d.name, err)
		}
		b.metrics.conflicts.Inc()
		written = written || after != nil
	}
	return change{}, fmt.Errorf("write device %s: others change it all the time", d.name)
}

// again reads a device after somebody else was faster.
func (b *Backend) again(ctx context.Context, d *device) (*v1alpha1.EdgeDevice, error) {
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-time.After(rand.N(2 * conflictDelay)):
	}
	object, err := b.client.device(ctx, d.name.Namespace, d.name.ID)
	if isMissing(err, edgeDevices, d.name.ID) {
		return nil, fmt.Errorf("device %s: %w", d.name, edgeapi.ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("read device %s: %w", d.name, err)
	}
	b.devices.adopt(object)
	return object, nil
}

// write writes what differs, on the condition that base is still what there is,
// and returns the device as it is then; nil when nothing differs.
func (b *Backend) write(ctx context.Context, base, next *v1alpha1.EdgeDevice) (after *v1alpha1.EdgeDevice, err error) {
	labels, annotations := diff(base.Labels, next.Labels), diff(base.Annotations, next.Annotations)
	if len(labels)+len(annotations) > 0 {
		written := b.metrics.write()
		after, err = b.client.patchMetadata(ctx, base, labels, annotations)
		written()
		if err != nil {
			return nil, err
		}
		b.devices.adopt(after)
		base = after
	}
	if equality.Semantic.DeepEqual(base.Status, next.Status) {
		return after, nil
	}
	into := &v1alpha1.EdgeDevice{}
	written := b.metrics.write()
	err = b.client.putStatus(ctx, edgeDevices, v1alpha1.KindEdgeDevice, base, next.Status, into)
	written()
	if err != nil {
		return after, err
	}
	b.devices.adopt(into)
	return into, nil
}

// diff returns what to set, and, as nil, what to remove, to make have want.
func diff(have, want map[string]string) map[string]*string {
	if maps.Equal(have, want) {
		return nil
	}
	out := make(map[string]*string)
	for key, value := range want {
		if old, ok := have[key]; !ok || old != value {
			out[key] = &value
		}
	}
	for key := range have {
		if _, ok := want[key]; !ok {
			out[key] = nil
		}
	}
	return out
}

// maxHardwareBytes bounds what a device can have stored about itself: a third of
// what an object may have. Few machines come near to 64 KiB.
const maxHardwareBytes = 512 << 10

// fitting returns what a device reported of its hardware, or nil when it cannot
// be stored: then the rest of its report is taken, and not refused for ever.
func (b *Backend) fitting(d *device, reported *protocol.HardwareInfo) *protocol.HardwareInfo {
	if reported == nil {
		return nil
	}
	raw, err := json.Marshal(fleet.MergeHardware(d.state().object.Status.Hardware, reported))
	if err == nil && len(raw) > maxHardwareBytes {
		err = fmt.Errorf("%d bytes are more than %d", len(raw), maxHardwareBytes)
	}
	if err != nil {
		b.complain("take hardware", d.name, err)
		return nil
	}
	return reported
}

// degraded returns the condition that says what is broken, or nil.
func degraded(d *v1alpha1.EdgeDevice) *metav1.Condition {
	return meta.FindStatusCondition(d.Status.Conditions, v1alpha1.ConditionDegraded)
}

// announce has an Event made of what has just been found to be broken: by the
// one whose write says so, so that there is one of it.
func (b *Backend) announce(name edgeapi.Device, c change) {
	if !c.written {
		return
	}
	before, after := degraded(c.before), degraded(c.after)
	if after == nil || after.Status != metav1.ConditionTrue {
		return
	}
	if before != nil && before.Status == after.Status && before.Reason == after.Reason && before.Message == after.Message {
		return
	}
	b.tell.event(name)
}
