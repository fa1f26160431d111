package workload

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/project-flotta/flotta-agent/internal/workload/manifest"
)

// observation is everything of ours as it was seen, by workload.
type observation struct {
	disk    map[string]onDisk
	units   map[string]Unit
	pods    map[string]Pod
	secrets map[string]bool // of ours, by name
	version string          // of Podman
}

// of returns what was seen of one workload, which may be nothing.
func (o observation) of(name string) seen {
	s := seen{disk: o.disk[name], unit: o.units[name], secrets: o.secrets}
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
	if o.version, err = r.cfg.Runtime.Version(ctx); err != nil {
		return o, err
	}
	pods, err := r.cfg.Runtime.Pods(ctx)
	if err != nil {
		return o, err
	}
	for _, p := range pods {
		o.pods[p.Workload] = p
	}
	if o.secrets, err = r.listSecrets(ctx); err != nil {
		return o, err
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
func (r *Reconciler) look(ctx context.Context, t target) (seen, error) {
	var s seen
	var err error
	if s.unit, err = r.cfg.Units.Unit(ctx, t.name); err != nil {
		return s, err
	}
	pod, there, err := r.cfg.Runtime.Pod(ctx, t.name)
	if err != nil {
		return s, err
	}
	if there {
		s.pod = &pod
	}
	if len(t.plan.Secrets) > 0 {
		if s.secrets, err = r.listSecrets(ctx); err != nil {
			return s, err
		}
	}
	if s.disk, err = r.store.read(t.name); err != nil {
		return s, fmt.Errorf("read folder of %s: %w", t.name, err)
	}
	return s, nil
}

// listSecrets returns the names of the secrets of ours.
func (r *Reconciler) listSecrets(ctx context.Context) (map[string]bool, error) {
	names, err := r.cfg.Runtime.Secrets(ctx)
	if err != nil {
		return nil, err
	}
	out := make(map[string]bool, len(names))
	for _, name := range names {
		out[name] = true
	}
	return out, nil
}

// lacks says what of that which the target's manifest needs to start is gone, if
// it is the one in force; "" when nothing is. Who deletes it stops nothing that
// runs, and whatever starts next fails until it is there again, in the unit's own
// pace and without anybody telling the agent.
func (r *Reconciler) lacks(t target, s seen) string {
	if t.kind != wanted || s.disk.manifest != t.sum {
		return ""
	}
	for _, secret := range t.plan.Secrets {
		if !s.secrets[secret.Name] {
			return "secret " + secret.Name
		}
	}
	if t.plan.Files.Folder != "" && gone(manifest.FilesFolder(r.store.root, t.name, t.plan.Files)) {
		return "files of its config maps and secrets"
	}
	// A pod that runs still has the folder that was deleted: a new one would
	// only be a second.
	if s.unit.Waiting && gone(r.VolumeDir(t.name)) {
		return "folder of its volume"
	}
	return ""
}

func gone(path string) bool {
	_, err := os.Lstat(path)
	return errors.Is(err, fs.ErrNotExist)
}
