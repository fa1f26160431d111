package file

import (
	"context"
	"fmt"
	"maps"
	"time"

	"github.com/project-flotta/flotta-agent/internal/edgeapi"
	"github.com/project-flotta/flotta-agent/internal/fleet"
	"github.com/project-flotta/flotta-agent/internal/render"
	"github.com/project-flotta/flotta-agent/pkg/api/v1alpha1"
)

// Configuration implements edgeapi.Backend.
func (b *Backend) Configuration(ctx context.Context, d edgeapi.Device) (edgeapi.Rendered, error) {
	r, err := b.refresh(ctx, d)
	if err != nil {
		return edgeapi.Rendered{}, err
	}
	b.seen(ctx, d)
	return edgeapi.Rendered{JSON: r.result.JSON, Version: r.result.Version, At: r.at}, nil
}

// refresh returns the configuration of a device, rendered anew if something that
// it is made of changed.
func (b *Backend) refresh(ctx context.Context, d edgeapi.Device) (*rendering, error) {
	for {
		b.mu.RLock()
		entry, ok := b.devices[d]
		if !ok {
			b.mu.RUnlock()
			return nil, fmt.Errorf("device %s: %w", d, edgeapi.ErrNotFound)
		}
		object, last, epoch, catalog := entry.object, entry.rendered, entry.epoch, b.catalog
		current := last != nil && entry.renderedEpoch == epoch
		b.mu.RUnlock()
		switch {
		case current:
			return last, nil
		case object == nil:
			return nil, fmt.Errorf("device %s: its file cannot be read", d)
		}
		next, err := renderDevice(ctx, catalog, merged(object, catalog.device(d)), last)
		if err != nil {
			return nil, err
		}
		if current := b.publish(d, next, epoch); current != nil {
			b.tell(ctx, d)
			return current, nil
		}
	}
}

// renderDevice renders, and keeps the time of a version that did not change.
func renderDevice(ctx context.Context, c *catalog, device *v1alpha1.EdgeDevice, last *rendering) (*rendering, error) {
	var previous *render.Result
	if last != nil {
		previous = &last.result
	}
	result, err := render.Configuration(ctx, reader{catalog: c, self: device}, device, previous)
	if err != nil {
		return nil, err
	}
	next := &rendering{result: result, at: time.Now()}
	if last != nil && last.result.Version == result.Version {
		next.at = last.at
	}
	return next, nil
}

// publish makes a rendering the current one and returns the one that is. Of two
// that were made at once the first stays: a version has one time. Nil: something
// changed since.
func (b *Backend) publish(d edgeapi.Device, r *rendering, epoch uint64) *rendering {
	b.mu.Lock()
	defer b.mu.Unlock()
	entry, ok := b.devices[d]
	if !ok || entry.epoch != epoch {
		return nil
	}
	if entry.rendered == nil || entry.renderedEpoch != epoch {
		entry.rendered, entry.renderedEpoch = r, epoch
	}
	return entry.rendered
}

// merged returns the device that counts: the user's manifest says what is
// wanted, the state what became of it. Manifest may be nil.
func merged(state, manifest *v1alpha1.EdgeDevice) *v1alpha1.EdgeDevice {
	out := fleet.Clone(state)
	if manifest == nil {
		return out
	}
	out.Spec = manifest.Spec
	if out.Spec.RequestTime == nil {
		out.Spec.RequestTime = state.Spec.RequestTime
	}
	if out.Labels == nil {
		out.Labels = make(map[string]string)
	}
	maps.Copy(out.Labels, manifest.Labels)
	if out.Annotations == nil {
		out.Annotations = make(map[string]string)
	}
	maps.Copy(out.Annotations, manifest.Annotations)
	return out
}

// invalidate marks the devices whose configuration is made of something that
// changed. b.mu is held.
func (b *Backend) invalidate(changed map[objectKey]bool) {
	kinds := make(map[objectKey]bool, len(changed)) // without names
	for k := range changed {
		kinds[objectKey{kind: k.kind, namespace: k.namespace}] = true
	}
	for d, entry := range b.devices {
		if changed[objectKey{v1alpha1.KindEdgeDevice, d.Namespace, d.ID}] || entry.rendered == nil {
			entry.epoch++
			continue
		}
		for _, s := range entry.rendered.result.Sources {
			k := objectKey{s.Kind, s.Namespace, s.Name}
			if changed[k] || s.Name == "" && kinds[k] {
				entry.epoch++
				break
			}
		}
	}
}

// refreshAll renders what changed for some devices and brings their status up to
// date, so that it can be read there whether a device is connected or not.
func (b *Backend) refreshAll(ctx context.Context, list []edgeapi.Device) {
	for _, d := range list {
		if ctx.Err() != nil {
			return
		}
		if _, err := b.refresh(ctx, d); err != nil {
			b.log.Warn("device not rendered", "device", d.String(), "err", err)
			continue
		}
		b.tell(ctx, d)
	}
}

// list returns the devices that are managed.
func (b *Backend) list() []edgeapi.Device {
	b.mu.RLock()
	defer b.mu.RUnlock()
	list := make([]edgeapi.Device, 0, len(b.devices))
	for d := range b.devices {
		list = append(list, d)
	}
	return list
}
