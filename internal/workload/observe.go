package workload

import (
	"context"
	"fmt"

	"github.com/project-flotta/flotta-agent/internal/workload/manifest"
)

// observation is everything of ours as it was seen, by workload.
type observation struct {
	disk  map[string]onDisk
	units map[string]Unit
	pods  map[string]Pod
}

// of returns what was seen of one workload, which may be nothing.
func (o observation) of(name string) seen {
	s := seen{disk: o.disk[name], unit: o.units[name]}
	if s.unit.State == "" {
		s.unit.State = UnitInactive
	}
	if pod, there := o.pods[name]; there {
		s.pod = &pod
	}
	return s
}

// names returns all workloads of which something was seen. What bears another
// name than a workload can have is not ours.
func (o observation) names() []string {
	all := map[string]bool{}
	for name := range o.disk {
		all[name] = true
	}
	for name := range o.units {
		all[name] = true
	}
	for name := range o.pods {
		all[name] = true
	}
	var out []string
	for name := range all {
		if manifest.CheckName(name) == "" {
			out = append(out, name)
		}
	}
	return out
}

// observe looks at everything. Units come before pods: a unit is active only
// after its pod is there, so one that starts meanwhile is never seen active
// without its pod.
func (r *Reconciler) observe(ctx context.Context) (observation, error) {
	o := observation{disk: map[string]onDisk{}, pods: map[string]Pod{}}
	var err error
	if o.units, err = r.cfg.Units.Units(ctx); err != nil {
		return o, err
	}
	pods, err := r.cfg.Runtime.Pods(ctx)
	if err != nil {
		return o, err
	}
	for _, p := range pods {
		o.pods[p.Workload] = p
	}
	folders, err := r.store.names()
	if err != nil {
		return o, fmt.Errorf("list workload folders: %w", err)
	}
	for _, name := range folders {
		if o.disk[name], err = r.store.read(name); err != nil {
			return o, fmt.Errorf("read folder of %s: %w", name, err)
		}
	}
	return o, nil
}

// look looks at one workload, in the same order.
func (r *Reconciler) look(ctx context.Context, name string) (seen, error) {
	var s seen
	var err error
	if s.unit, err = r.cfg.Units.Unit(ctx, name); err != nil {
		return s, err
	}
	pod, there, err := r.cfg.Runtime.Pod(ctx, name)
	if err != nil {
		return s, err
	}
	if there {
		s.pod = &pod
	}
	if s.disk, err = r.store.read(name); err != nil {
		return s, fmt.Errorf("read folder of %s: %w", name, err)
	}
	return s, nil
}
