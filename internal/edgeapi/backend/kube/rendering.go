package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/project-flotta/flotta-agent/internal/edgeapi"
	"github.com/project-flotta/flotta-agent/internal/render"
	"github.com/project-flotta/flotta-agent/pkg/api/v1alpha1"
)

// reasonAccessDenied is the reason of the problem that a namespace's objects may
// not be read.
const reasonAccessDenied = "AccessDenied"

// rendering is the configuration of a device and what it was made of. It is
// never changed.
type rendering struct {
	serial   uint64 // no two have the same
	json     []byte
	version  string
	at       time.Time
	problems []render.Problem
	epoch    uint64 // of the device
	pins     []pin
	// generations are those of the workloads in it that could be rendered.
	generations map[string]int64
}

// number returns the serial; 0 for nil.
func (r *rendering) number() uint64 {
	if r == nil {
		return 0
	}
	return r.serial
}

// current reports whether nothing changed that the rendering is made of.
func (r *rendering) current(epoch uint64) bool {
	if r == nil || r.epoch != epoch {
		return false
	}
	for _, p := range r.pins {
		if !p.current() {
			return false
		}
	}
	return true
}

// Configuration implements edgeapi.Backend.
func (b *Backend) Configuration(ctx context.Context, name edgeapi.Device) (edgeapi.Rendered, error) {
	d, err := b.known(ctx, name)
	if err != nil {
		return edgeapi.Rendered{}, err
	}
	r, err := b.configuration(ctx, d)
	if err != nil {
		return edgeapi.Rendered{}, err
	}
	return edgeapi.Rendered{JSON: r.json, Version: r.version, At: r.at}, nil
}

// configuration returns what a device is to be told. When something cannot be
// read, that is what it was told before.
func (b *Backend) configuration(ctx context.Context, d *device) (*rendering, error) {
	now := d.state()
	if now.rendered.current(now.epoch) {
		b.metrics.hits.Inc()
		return now.rendered, nil
	}
	select {
	case d.turn <- struct{}{}:
		defer func() { <-d.turn }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	now = d.state()
	if now.rendered.current(now.epoch) {
		b.metrics.hits.Inc()
		return now.rendered, nil
	}
	b.metrics.misses.Inc()
	started := time.Now()
	next, err := b.render(ctx, now)
	b.metrics.rendering.Observe(time.Since(started).Seconds())
	if err != nil {
		if now.rendered == nil {
			return nil, err
		}
		b.complain("render", d.name, err)
		return now.rendered, nil
	}
	// The pins of the one before are given free only now, so that contents
	// that both need are not read anew.
	if !b.devices.publish(d, next) {
		return nil, fmt.Errorf("device %s is being removed", d.name)
	}
	if problemsChanged(now, next) {
		b.tell.status(d.name)
	}
	return next, nil
}

// problemsChanged reports whether the status may not say what is broken.
func problemsChanged(before state, next *rendering) bool {
	if before.rendered != nil {
		return !slices.Equal(before.rendered.problems, next.problems)
	}
	told := degraded(before.object)
	return len(next.problems) > 0 || told != nil && told.Status == "True"
}

// render renders once, and again with the result before when that can mend
// something: taking that apart is as much work as rendering.
func (b *Backend) render(ctx context.Context, now state) (*rendering, error) {
	r := &reader{backend: b, self: now.object}
	result, err := render.Configuration(ctx, r, now.object, nil)
	if err == nil && now.rendered != nil && brokenWorkload(result.Problems) {
		var previous *render.Result
		if previous, err = now.rendered.result(); err == nil {
			r.refused = nil // a Role may have come meanwhile
			result, err = render.Configuration(ctx, r, now.object, previous)
		}
	}
	if err != nil {
		b.references.release(r.pins)
		return nil, err
	}
	next := &rendering{
		serial: b.renderings.Add(1),
		json:   slices.Clip(result.JSON), version: shared(result.Version), at: time.Now(),
		problems: append(result.Problems, r.denied()...), epoch: now.epoch, pins: slices.Clip(r.pins),
		generations: r.generations,
	}
	for _, p := range next.problems {
		delete(next.generations, p.Workload)
	}
	if last := now.rendered; last != nil && last.version == next.version {
		next.at, next.json = last.at, last.json
	}
	return next, nil
}

func brokenWorkload(problems []render.Problem) bool {
	return slices.ContainsFunc(problems, func(p render.Problem) bool { return p.Workload != "" })
}

// result is what a later rendering needs of this one.
func (r *rendering) result() (*render.Result, error) {
	result := &render.Result{JSON: r.json, Version: r.version, Problems: r.problems}
	if err := json.Unmarshal(r.json, &result.Message); err != nil {
		return nil, fmt.Errorf("decode configuration: %w", err)
	}
	return result, nil
}

// reader reads for one rendering, and pins what it reads.
type reader struct {
	backend *Backend
	self    *v1alpha1.EdgeDevice
	pins    []pin
	refused []*reference
	// generations are those of the workloads that were read.
	generations map[string]int64
}

// pin pins an object once.
func (r *reader) pin(key render.Source) *reference {
	for _, p := range r.pins {
		if p.reference.key == key {
			return p.reference
		}
	}
	p := r.backend.references.pin(key)
	r.pins = append(r.pins, p)
	return p.reference
}

// denied returns a problem for what may not be read.
func (r *reader) denied() []render.Problem {
	var problems []render.Problem
	for _, ref := range r.refused {
		p := render.Problem{
			Reason:  reasonAccessDenied,
			Message: fmt.Sprintf("the Edge API may not read any %s of namespace %s: it needs a Role there", ref.key.Kind, ref.key.Namespace),
		}
		if !slices.Contains(problems, p) {
			problems = append(problems, p)
		}
	}
	return problems
}

// EdgeDevice implements render.Reader.
func (r *reader) EdgeDevice(_ context.Context, namespace, name string) (*v1alpha1.EdgeDevice, error) {
	if r.self.Namespace == namespace && r.self.Name == name {
		return r.self, nil
	}
	return nil, fmt.Errorf("device %s/%s: %w", namespace, name, render.ErrNotFound)
}

// EdgeDeviceSet implements render.Reader.
func (r *reader) EdgeDeviceSet(_ context.Context, namespace, name string) (*v1alpha1.EdgeDeviceSet, error) {
	r.pin(setKey(namespace, name))
	if set := r.backend.sets.find(namespace, name); set != nil {
		return set, nil
	}
	return nil, fmt.Errorf("device set %s/%s: %w", namespace, name, render.ErrNotFound)
}

// Workloads implements render.Reader.
func (r *reader) Workloads(_ context.Context, d *v1alpha1.EdgeDevice) ([]v1alpha1.EdgeWorkload, error) {
	list := r.backend.workloads.of(d)
	r.generations = make(map[string]int64, len(list))
	for _, w := range list {
		r.generations[w.Name] = w.Generation
	}
	return list, nil
}

// ConfigMap implements render.Reader.
func (r *reader) ConfigMap(ctx context.Context, namespace, name string) (*corev1.ConfigMap, error) {
	return contentAs[*corev1.ConfigMap](ctx, r, render.Source{Kind: kindConfigMap, Namespace: namespace, Name: name})
}

// Secret implements render.Reader.
func (r *reader) Secret(ctx context.Context, namespace, name string) (*corev1.Secret, error) {
	return contentAs[*corev1.Secret](ctx, r, render.Source{Kind: kindSecret, Namespace: namespace, Name: name})
}

// Route implements render.Reader.
func (r *reader) Route(ctx context.Context, namespace, name string) (string, error) {
	return contentAs[string](ctx, r, render.Source{Kind: kindRoute, Namespace: namespace, Name: name})
}

// contentAs returns the content of an object, which is a T.
func contentAs[T any](ctx context.Context, r *reader, key render.Source) (T, error) {
	var none T
	ref := r.pin(key)
	content, denied, err := r.backend.read(ctx, ref)
	if err != nil {
		return none, err
	}
	if denied != nil && !slices.Contains(r.refused, ref) {
		r.refused = append(r.refused, ref)
	}
	if content == nil {
		return none, fmt.Errorf("%s %s/%s: %w", key.Kind, key.Namespace, key.Name, render.ErrNotFound)
	}
	typed, ok := content.(T)
	if !ok {
		return none, fmt.Errorf("%s %s/%s is a %T", key.Kind, key.Namespace, key.Name, content)
	}
	return typed, nil
}

var _ render.Reader = (*reader)(nil)
