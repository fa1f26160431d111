package takeover

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/project-flotta/flotta-agent/internal/podman"
	"github.com/project-flotta/flotta-agent/internal/workload/manifest"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// Retire keeps what flotta v0.2 left of the workload from being started at boot, and
// stops nothing. It comes before this agent's own unit is enabled: the two must not
// be started side by side, because each would stop what the other one runs.
func (t *Takeover) Retire(ctx context.Context, workload string) error {
	if !t.has(workload) {
		return nil
	}
	t.one.Lock()
	defer t.one.Unlock()
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	units, err := t.units(workload)
	if err == nil {
		err = t.disableUnits(ctx, units)
	}
	if err != nil {
		return fmt.Errorf("disable units of flotta v0.2: %w", err)
	}
	if len(units) > 0 {
		t.step("takeover-units-disabled")
	}
	return nil
}

// Remove ends and removes what flotta v0.2 left of the workload, its volume excepted. It
// may be repeated.
func (t *Takeover) Remove(ctx context.Context, workload string) error {
	if !t.has(workload) {
		return nil
	}
	t.one.Lock()
	defer t.one.Unlock()
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if err := t.remove(ctx, workload); err != nil {
		return fmt.Errorf("remove what flotta v0.2 left of workload %s: %w", workload, err)
	}
	return nil
}

func (t *Takeover) remove(ctx context.Context, workload string) error {
	units, err := t.units(workload)
	if err != nil {
		return err
	}
	pod, theirs, other, err := t.pod(ctx, workload)
	if err != nil {
		return err
	}
	if err := t.disableUnits(ctx, units); err != nil {
		return err
	}
	// Containers of this agent's pod have the names of theirs: once it is there,
	// no command of their units may run.
	if !other {
		if err := t.stopUnits(ctx, units); err != nil {
			return err
		}
		t.step("takeover-units-stopped")
	}
	if theirs {
		if err := t.cfg.Pods.RemovePod(ctx, pod.ID); err != nil && !errors.Is(err, podman.ErrNotFound) {
			return err
		}
		t.step("takeover-pod-removed")
	}
	if err := t.removeUnits(ctx, units); err != nil {
		return err
	}
	t.step("takeover-units-removed")
	hadFiles, err := t.removeFiles(workload)
	if err != nil {
		return err
	}
	t.step("takeover-files-removed")
	if err := t.update(func(r *record) { r.Workloads = without(r.Workloads, workload) }); err != nil {
		return err
	}
	if theirs || len(units) > 0 || hadFiles {
		t.tell(protocol.EventInfoType, reasonWorkload, "workload "+workload+" was taken over from flotta v0.2; its volume is kept")
	}
	return nil
}

// removeFiles removes the manifest of a workload, and its folder if there is nothing
// else in it.
func (t *Takeover) removeFiles(workload string) (had bool, err error) {
	dir := filepath.Join(t.now().DataDir, workloadsDir, workload)
	if had, err = removeRegular(filepath.Join(dir, manifestFile)); had {
		_ = os.Remove(dir) // or it is not empty
	}
	return had, err
}

// removeAuth removes the credentials with which flotta v0.2 pulled, which are in its
// configuration, too. That comes before anything else may write files of that name.
func (t *Takeover) removeAuth() error {
	r := t.now()
	if r.NoAuth {
		return nil
	}
	names, err := manifests(r.DataDir)
	if err != nil {
		return err
	}
	for _, name := range names {
		if _, err := removeRegular(filepath.Join(r.DataDir, workloadsDir, name, authFile)); err != nil {
			return err
		}
	}
	return t.update(func(r *record) { r.NoAuth = true })
}

// removeRegular removes a file, if it is one.
func removeRegular(path string) (had bool, err error) {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, errNotDir) || err == nil && !info.Mode().IsRegular() {
		return false, nil
	}
	if err == nil {
		err = os.Remove(path)
	}
	return err == nil, err
}

// rest hands over what no start of a workload does.
func (t *Takeover) rest(ctx context.Context) error {
	now := t.cfg.Desired.Current()
	if now.Digest() == "" && now.State().Managed() {
		return nil // not told anything: everything is left as it is
	}
	theirs, others, err := t.pods(ctx)
	if err != nil {
		return err
	}
	if r := t.now(); !r.Listed {
		names := make([]string, 0, len(theirs))
		for name := range theirs {
			names = append(names, name)
		}
		if err := t.update(func(r *record) { r.Workloads, r.Listed = union(r.Workloads, names), true }); err != nil {
			return err
		}
	}
	wanted := map[string]bool{}
	for _, w := range now.State().Workloads {
		wanted[w.Name] = true
	}
	var failures []error
	for _, name := range t.now().Workloads {
		_, running := theirs[name]
		if wanted[name] && !others[name] {
			continue // the start of it hands it over
		}
		if err := t.Remove(ctx, name); err != nil {
			failures = append(failures, err)
		} else if running {
			t.cfg.Log.Info("pod of flotta v0.2 is not configured any more, removed", "workload", name)
		}
	}
	if err := errors.Join(failures...); err != nil || len(t.now().Workloads) > 0 {
		return err
	}
	t.one.Lock() // whoever removed the last one has told so by then
	defer t.one.Unlock()
	return t.finish(ctx)
}

// finish comes when every workload is handed over.
func (t *Takeover) finish(ctx context.Context) error {
	if err := t.removeSecrets(ctx); err != nil {
		return err
	}
	t.step("takeover-secrets-removed")
	if err := t.update(func(r *record) { r.Done, r.Secrets = true, nil }); err != nil {
		return err
	}
	t.tell(protocol.EventInfoType, reasonDone, "the take-over from flotta v0.2 is complete")
	return nil
}

// removeSecrets removes the secrets that flotta v0.2 made, unless somebody else's
// container may have one of them: Podman does not say which.
func (t *Takeover) removeSecrets(ctx context.Context) error {
	names := t.now().Secrets
	if len(names) == 0 {
		return nil
	}
	pods, err := t.cfg.Pods.Pods(ctx, "")
	if err != nil {
		return err
	}
	ours := map[string]bool{}
	for _, p := range pods {
		ours[p.ID] = p.Labels[manifest.LabelWorkload] != ""
	}
	containers, err := t.cfg.Pods.Containers(ctx, "")
	if err != nil {
		return err
	}
	for _, c := range containers {
		service := c.PodID == "" && slices.ContainsFunc(c.Names, func(n string) bool { return len(n) > 8 && n[len(n)-8:] == "-service" })
		if !ours[c.PodID] && !service {
			t.cfg.Log.Info("secrets of flotta v0.2 stay: a container that is not this agent's may use them", "container", c.ID, "secrets", names)
			return nil
		}
	}
	list, err := t.cfg.Pods.Secrets(ctx)
	if err != nil {
		return err
	}
	for _, s := range list {
		if !slices.Contains(names, s.Name) || len(s.Labels) > 0 {
			continue
		}
		if err := t.cfg.Pods.RemoveSecret(ctx, s.Name); err != nil && !errors.Is(err, podman.ErrNotFound) {
			return err
		}
		t.cfg.Log.Info("secret of flotta v0.2 removed", "secret", s.Name)
	}
	return nil
}

// Forget removes the configuration that flotta v0.2 saved: a device that has left keeps
// no secrets. It may be repeated.
func (t *Takeover) Forget(context.Context) error {
	r := t.now()
	if r.DataDir == "" {
		return nil
	}
	if _, err := removeRegular(filepath.Join(r.DataDir, savedFile)); err != nil {
		return fmt.Errorf("saved configuration of flotta v0.2: %w", err)
	}
	return nil
}
