package apply

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/project-flotta/flotta-agent/internal/durable"
	"github.com/project-flotta/flotta-agent/internal/host/mounts"
	"github.com/project-flotta/flotta-agent/internal/systemd"
)

// owned is a unit of ours as it is on the disk.
type owned struct {
	name string
	text []byte
	mount
}

// shown is what is said of a unit that is configured no more.
func (u owned) shown() Mount {
	return Mount{Device: printable(u.device), Directory: printable(u.where), Type: printable(u.kind), Options: printable(u.options)}
}

// maxUnit is far more than render writes.
const maxUnit = 64 << 10

// owned reads the unit of that name; false: there is none. A file that is not
// ours is a condition.
func (r *Reconciler) owned(name string) (owned, bool, error) {
	path := unitPath(r.cfg.UnitDir, name)
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return owned{}, false, nil
	}
	if err != nil {
		return owned{}, false, fmt.Errorf("look at unit: %w", err)
	}
	foreign := conditionf(ReasonConflict, "the unit %s mounts something there already, and is not this agent's: remove it, or take the mount out of the configuration", path)
	if !info.Mode().IsRegular() || info.Size() > maxUnit {
		return owned{}, false, foreign
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return owned{}, false, fmt.Errorf("read unit: %w", err)
	}
	m, ours := parse(text)
	if !ours {
		return owned{}, false, foreign
	}
	m.where = whereOf(name) // systemd goes by the name, too
	return owned{name: name, text: text, mount: m}, true, nil
}

// units returns the units that are ours, by folder.
func (r *Reconciler) units() ([]owned, error) {
	entries, err := os.ReadDir(r.cfg.UnitDir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("look for units: %w", err)
	}
	var out []owned
	for _, e := range entries {
		if !e.Type().IsRegular() || !strings.HasSuffix(e.Name(), suffix) {
			continue
		}
		u, ours, err := r.owned(e.Name())
		if _, foreign := errors.AsType[*condition](err); err != nil && !foreign {
			return out, err
		}
		if ours {
			out = append(out, u)
		}
	}
	slices.SortFunc(out, func(a, b owned) int { return cmp.Compare(a.where, b.where) })
	return out, nil
}

// remove unmounts what is configured no more, and then removes its unit. It may
// be killed between any two steps: as long as the unit is there, the next round
// begins anew.
func (r *Reconciler) remove(ctx context.Context, u owned) error {
	table, err := r.kernel.table()
	if err != nil {
		return err
	}
	top, n := at(table, u.where)
	if n == 1 && r.mountedBy(top, u) {
		if err := r.unmount(ctx, u.name, top, table); err != nil {
			return err
		}
		r.emit("info", reasonUnmounted, fmt.Sprintf("%s is not mounted at %s any more", u.device, u.where))
	} else if n > 1 {
		return conditionf(ReasonConflict, "it is configured no more, and %d file systems are mounted there, one upon the other: unmount what does not belong there", n)
	}
	if err := r.discard(ctx, u); err != nil {
		return err
	}
	r.cfg.Log.Info("mount was removed", "directory", u.where, "device", u.device)
	return nil
}

// discard removes a unit of ours at whose folder nothing of it is mounted.
func (r *Reconciler) discard(ctx context.Context, u owned) error {
	if err := r.disable(ctx, u); err != nil {
		return err
	}
	if err := os.Remove(unitPath(r.cfg.UnitDir, u.name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove unit: %w", err)
	}
	r.reached("removed")
	return errors.Join(durable.SyncDir(r.cfg.UnitDir), r.cfg.Manager.Reload(ctx), r.cfg.Manager.ResetFailed(ctx, u.name))
}

// disable keeps a unit from being mounted at boot.
func (r *Reconciler) disable(ctx context.Context, u owned) error {
	r.reached("disable")
	if err := r.cfg.Manager.Disable(ctx, u.name); err != nil && !errors.Is(err, systemd.ErrNotFound) {
		return err
	}
	r.reached("disabled")
	return nil
}

// Clear removes all mounts that are ours and their units. What is in use stays
// mounted, is not mounted again at the next boot, and is in the error. Run does
// nothing meanwhile when the device is no longer managed; otherwise it makes
// them again.
func (r *Reconciler) Clear(ctx context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	clear(r.attempts)
	units, err := r.units()
	errs := []error{err}
	for _, u := range slices.Backward(units) {
		if err := r.remove(ctx, u); err != nil {
			errs = append(errs, fmt.Errorf("remove mount %s: %w", u.where, err), r.disable(ctx, u))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	r.print = ""
	r.publish(nil)
	return nil
}

// mountedBy reports whether what is mounted at the folder of a unit of ours is
// of that unit, and not something that somebody put into its place.
func (r *Reconciler) mountedBy(m mounts.Mount, u owned) bool {
	if number, err := r.kernel.device(u.device); err == nil {
		return r.kernel.isOn(m, number) || !r.kernel.alive(m)
	}
	return m.Source == u.device || !r.kernel.alive(m)
}
