package file

import (
	"context"
	"slices"
	"time"

	"github.com/project-flotta/flotta-agent/internal/edgeapi"
	"github.com/project-flotta/flotta-agent/internal/fleet"
	"github.com/project-flotta/flotta-agent/internal/render"
	"github.com/project-flotta/flotta-agent/pkg/api/v1alpha1"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// view is what the status of a device follows from, besides its reports.
type view struct {
	rendered *rendering // nil when the device was never rendered
	problems []render.Problem
}

// viewOf returns the view of a device at this moment.
func (b *Backend) viewOf(d edgeapi.Device) view {
	b.mu.RLock()
	defer b.mu.RUnlock()
	entry, ok := b.devices[d]
	if !ok || entry.object == nil || entry.rendered == nil {
		return view{}
	}
	v := view{rendered: entry.rendered}
	v.problems = append(v.problems, entry.rendered.result.Problems...)
	self := merged(entry.object, b.catalog.device(d))
	for _, p := range b.catalog.problems {
		if concerned, workload := p.concerns(self, entry.rendered.result); concerned {
			v.problems = append(v.problems, render.Problem{
				Workload: workload, Reason: render.ReasonInvalidManifest, Message: p.text(),
			})
		}
	}
	return v
}

// concerns reports whether a device has to do with what a problem is about, and
// with which of its workloads.
func (p Problem) concerns(d *v1alpha1.EdgeDevice, result render.Result) (concerned bool, workload string) {
	if p.key.kind == v1alpha1.KindEdgeWorkload {
		if p.key.namespace != d.Namespace {
			return false, ""
		}
		if slices.ContainsFunc(result.Message.Workloads, func(w protocol.Workload) bool { return w.Name == p.key.name }) {
			return true, p.key.name
		}
		if p.meant == nil {
			return false, ""
		}
		ok, err := render.Matches(p.meant, d)
		return ok && err == nil, ""
	}
	names := func(k objectKey) bool {
		return k.kind == v1alpha1.KindEdgeConfig && k.namespace == d.Namespace && slices.Contains(fleet.ConfigsOf(d.Labels), k.name)
	}
	if names(p.key) || slices.ContainsFunc(p.holds, names) {
		return true, ""
	}
	for _, s := range result.Sources {
		if s.Name == "" {
			continue
		}
		k := objectKey{s.Kind, s.Namespace, s.Name}
		if k == p.key || p.key == (objectKey{}) && slices.Contains(p.holds, k) {
			return true, ""
		}
	}
	if p.key != (objectKey{}) {
		return false, ""
	}
	for _, w := range result.Message.Workloads {
		if slices.Contains(p.holds, objectKey{v1alpha1.KindEdgeWorkload, d.Namespace, w.Name}) {
			return true, w.Name
		}
	}
	return false, ""
}

// tell writes what is known about a device into its status, if that changed.
func (b *Backend) tell(ctx context.Context, d edgeapi.Device) {
	now := time.Now()
	err := b.update(ctx, d, func(object *v1alpha1.EdgeDevice) error {
		v := b.viewOf(d)
		v.list(object, now)
		v.describe(object, now)
		return nil
	})
	b.complain(d, err)
}

// seen notes that a device was heard of, coarsely: devices ask every 5 s.
func (b *Backend) seen(ctx context.Context, d edgeapi.Device) {
	now := time.Now()
	err := b.update(ctx, d, func(object *v1alpha1.EdgeDevice) error {
		fleet.Touch(object, now, b.cfg.SeenInterval)
		return nil
	})
	b.complain(d, err)
}

// complain logs that a status could not be stored. What the device was asked for
// is answered all the same, and it asks every 5 s, so not every time is told.
func (b *Backend) complain(d edgeapi.Device, err error) {
	if err != nil && b.complaints.Allow() {
		b.log.Warn("status of a device not stored", "device", d.String(), "err", err)
	}
}

// list makes the status list the workloads of the configuration.
func (v view) list(object *v1alpha1.EdgeDevice, now time.Time) {
	if v.rendered == nil {
		return
	}
	var names []string
	for _, w := range v.rendered.result.Message.Workloads {
		names = append(names, w.Name)
	}
	fleet.ListWorkloads(object, names, now)
}

// describe says in the status what became of the configuration.
func (v view) describe(object *v1alpha1.EdgeDevice, now time.Time) {
	if v.rendered != nil {
		fleet.Describe(object, v.rendered.result.Version, v.problems, now)
	}
}
