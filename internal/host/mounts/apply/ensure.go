package apply

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/project-flotta/flotta-agent/internal/durable"
	"github.com/project-flotta/flotta-agent/internal/host/mounts"
	"github.com/project-flotta/flotta-agent/internal/systemd"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// opTimeout is for systemd's answer to a start or a stop, beyond the time limit
// that the job itself has.
const opTimeout = 30 * time.Second

// view is what there is of a target.
type view struct {
	want   []byte       // the text that its unit is to have
	have   owned        // its unit, if there is one of ours
	ours   bool         // whether there is
	unit   systemd.Unit // what systemd knows of it
	table  []mounts.Mount
	top    mounts.Mount // what is mounted at its folder
	n      int          // how many mounts there are at it
	number string       // of its device
	absent error        // why that cannot be said
}

// ensure makes one target be mounted as it should be. The error is the condition
// that it is in otherwise.
func (r *Reconciler) ensure(ctx context.Context, t target) error {
	v, err := r.view(ctx, t)
	if err != nil {
		return err
	}
	switch {
	case v.n == 0 && v.absent != nil:
		return r.wait(ctx, t, v)
	case v.n == 0:
		return r.mount(ctx, t, v)
	case !v.ours && v.n == 1 && r.isFormer(t, v):
		r.cfg.Log.Info("mount of the former agent is given a unit", "directory", t.where, "device", v.top.Source)
		return r.settle(ctx, t, v)
	case !v.ours:
		return conditionf(ReasonConflict, "%s (%s) is mounted there, and not by this agent: unmount it, or take the mount out of the configuration",
			printable(v.top.Source), printable(v.top.Type))
	case v.n > 1:
		return conditionf(ReasonConflict, "%d file systems are mounted there, one upon the other, the last being %s (%s): unmount what does not belong there",
			v.n, printable(v.top.Source), printable(v.top.Type))
	}
	return r.keep(ctx, t, v)
}

// isFormer reports whether the agent before this one mounted what is mounted there, and
// just what is to be.
func (r *Reconciler) isFormer(t target, v view) bool {
	if r.cfg.Former == nil || v.absent != nil || !r.kernel.isOn(v.top, v.number) || v.top.Type != t.kind {
		return false
	}
	return slices.ContainsFunc(r.cfg.Former(), func(m protocol.Mount) bool {
		options, err := checkOptions(m.Options)
		return err == nil && options == t.options && m.Device == t.device && strings.TrimSuffix(m.Directory, "/") == t.dir && m.Type == t.kind
	})
}

// view looks at everything about a target, and finds out whether its folder is
// somebody else's.
func (r *Reconciler) view(ctx context.Context, t target) (view, error) {
	var v view
	var err error
	if v.want, err = t.text(r.cfg); err != nil {
		return v, err
	}
	if v.have, v.ours, err = r.owned(t.unit); err != nil {
		return v, err
	}
	if v.unit, err = r.cfg.Manager.Unit(ctx, t.unit); err != nil && !errors.Is(err, systemd.ErrNotFound) {
		return v, err
	}
	// First, because systemd makes units of its lines.
	for _, dir := range r.kernel.fstab() {
		if dir == t.where || dir == t.dir {
			return v, conditionf(ReasonConflict, "/etc/fstab mounts something there: remove that line, or take the mount out of the configuration")
		}
	}
	// systemd has not read it, whether there is one or not.
	v.unit.NeedReload = v.unit.NeedReload || v.unit.Fragment == ""
	own := unitPath(r.cfg.UnitDir, t.unit)
	if from := v.unit.Fragment; from != "" && filepath.Clean(from) != own {
		return v, conditionf(ReasonConflict, "the unit %s mounts something there already: remove it, or take the mount out of the configuration", from)
	}
	if v.table, err = r.kernel.table(); err != nil {
		return v, err
	}
	v.top, v.n = at(v.table, t.where)
	v.number, v.absent = r.kernel.device(t.device)
	return v, nil
}

// missing is the condition of a target without a device.
func missing(t target, v view) error {
	if errors.Is(v.absent, errAbsent) {
		return conditionf(ReasonNoDevice, "the device %s is not there; it is mounted as soon as it is", t.device)
	}
	return conditionf(ReasonRefused, "device %s: %v", t.device, v.absent)
}

// wait is for a device that is not there and a folder at which nothing is
// mounted. A unit for another device must not mount that one at the next boot.
func (r *Reconciler) wait(ctx context.Context, t target, v view) error {
	if v.ours && v.have.device != t.device {
		if err := r.discard(ctx, v.have); err != nil {
			return err
		}
	}
	return missing(t, v)
}

// keep is for a folder at which one file system is mounted, by a unit of ours.
func (r *Reconciler) keep(ctx context.Context, t target, v view) error {
	same := v.absent == nil && r.kernel.isOn(v.top, v.number)
	alive := r.kernel.alive(v.top)
	switch {
	case same && v.have.sameFS(t.mount):
		return r.settle(ctx, t, v)
	case !same && v.absent == nil && alive && v.have.device == t.device:
		return conditionf(ReasonConflict, "%s is mounted there, and not %s: unmount it, or change the configuration", printable(v.top.Source), t.device)
	case v.absent != nil && alive && v.have.device == t.device:
		return conditionf(ReasonNoDevice, "the device %s is not there any more under that name; %s stays mounted until the next boot", t.device, printable(v.top.Source))
	}
	// It was configured otherwise before, or its device is gone.
	if err := r.unmount(ctx, t.unit, v.top, v.table); err != nil {
		return err
	}
	r.cfg.Log.Info("unmounted what is configured otherwise now, or has no device", "directory", t.where, "device", v.top.Source)
	return r.ensure(ctx, t) // which finds nothing mounted there
}

// settle is for what is mounted as it should be: its unit has to be there as
// well, for the next boot.
func (r *Reconciler) settle(ctx context.Context, t target, v view) error {
	if err := r.write(ctx, t, &v); err != nil {
		return err
	}
	if v.unit.FileState != "enabled" {
		r.reached("enable")
		if err := r.cfg.Manager.Enable(ctx, t.unit); err != nil {
			return err
		}
		r.reached("enabled")
	}
	if !readOnly(t.options) && !slices.Contains(neverWritten(), t.kind) && (readOnly(v.top.Options) || readOnly(v.top.FSOptions)) {
		return conditionf(ReasonReadOnly, "nothing can be written to it: the device is write-protected, or its file system has errors; look at the kernel's log, check it with fsck while it is not mounted, and restart the device")
	}
	return nil
}

// write makes the unit hold what it should, and systemd know it.
func (r *Reconciler) write(ctx context.Context, t target, v *view) error {
	wrote := !v.ours || !bytes.Equal(v.have.text, v.want)
	if wrote {
		r.reached("write")
		if err := durable.WriteFile(unitPath(r.cfg.UnitDir, t.unit), v.want, 0o644); err != nil {
			return fmt.Errorf("unit of the mount: %w", err)
		}
		if v.ours {
			r.cfg.Log.Info("unit of the mount was written anew", "unit", t.unit)
		}
		r.reached("wrote")
	}
	if wrote || v.unit.NeedReload {
		if err := r.cfg.Manager.Reload(ctx); err != nil {
			return err
		}
		r.reached("reloaded")
	}
	return nil
}

// mount mounts a target at a folder at which nothing is mounted.
func (r *Reconciler) mount(ctx context.Context, t target, v view) error {
	for _, m := range v.table {
		if r.kernel.isOn(m, v.number) {
			return conditionf(ReasonConflict, "the device %s is mounted at %s already: unmount it there, or take the mount out of the configuration",
				t.device, printable(m.Directory))
		}
	}
	if err := r.try(t.unit, "mount "+v.number+" "+string(v.want), func() error { return r.start(ctx, t, v) }); err != nil {
		return err
	}
	table, err := r.kernel.table()
	if err != nil {
		return err
	}
	v.top, _ = at(table, t.where)
	v.ours, v.have.text = true, v.want
	if v.unit, err = r.cfg.Manager.Unit(ctx, t.unit); err != nil {
		return err
	}
	if err := r.settle(ctx, t, v); err != nil {
		return err
	}
	r.emit("info", reasonMounted, fmt.Sprintf("%s is mounted at %s", t.device, t.where))
	return nil
}

// start has systemd mount the target, and sees whether it did.
func (r *Reconciler) start(ctx context.Context, t target, v view) error {
	if err := r.write(ctx, t, &v); err != nil {
		return err
	}
	began := time.Now().Add(-time.Second) // the journal's and this clock's are not the same to the bit
	ctx, cancel := context.WithTimeout(ctx, r.cfg.DeviceTimeout+opTimeout)
	defer cancel()
	if err := r.cfg.Manager.ResetFailed(ctx, t.unit); err != nil {
		return err
	}
	r.reached("start")
	err := r.cfg.Manager.Start(ctx, t.unit)
	r.reached("started")
	if err != nil {
		return conditionf(ReasonFailed, "%s is not mounted: %s", t.device, r.explain(ctx, t.unit, err, began))
	}
	table, err := r.kernel.table()
	if err != nil {
		return err
	}
	top, n := at(table, t.where)
	if n == 0 || !r.kernel.isOn(top, v.number) {
		return conditionf(ReasonFailed, "systemd says that %s is mounted, and the kernel does not", t.device)
	}
	return nil
}

// explain says why a job failed, in the words of who failed.
func (r *Reconciler) explain(ctx context.Context, unit string, err error, since time.Time) string {
	if job, ok := errors.AsType[*systemd.JobError](err); ok && job.Result == "timeout" {
		return fmt.Sprintf("it is not done after %s: systemd waits for the device, or the file system takes its time; see journalctl -u '%s'", r.cfg.DeviceTimeout, unit)
	}
	lines, _ := r.cfg.Manager.Output(ctx, unit, since, 4)
	lines = slices.DeleteFunc(lines, func(line string) bool { return strings.TrimSpace(line) == "" })
	if len(lines) == 0 {
		return fmt.Sprintf("%v; see journalctl -u '%s'", err, unit)
	}
	text := strings.Join(strings.Fields(strings.Join(lines, " ")), " ")
	return text[:min(len(text), 400)]
}

// unmount has systemd unmount what its unit mounted, unless somebody uses it.
func (r *Reconciler) unmount(ctx context.Context, unit string, m mounts.Mount, table []mounts.Mount) error {
	holders := r.kernel.holders(m, table)
	units, err := r.dependents(ctx, unit)
	if err != nil {
		return err
	}
	if holders = append(holders, units...); len(holders) > 0 {
		return busy(some(holders))
	}
	return r.try(unit, "unmount "+m.Number, func() error {
		began := time.Now().Add(-time.Second)
		ctx, cancel := context.WithTimeout(ctx, r.cfg.DeviceTimeout+opTimeout)
		defer cancel()
		r.reached("stop")
		err := r.cfg.Manager.Stop(ctx, unit)
		r.reached("stopped")
		table, terr := r.kernel.table()
		if terr != nil {
			return terr
		}
		if _, n := at(table, m.Directory); n == 0 {
			return nil
		}
		if err == nil {
			return busy("somebody who is not seen")
		}
		return busy(r.explain(ctx, unit, err, began))
	})
}

func busy(who string) error {
	return conditionf(ReasonBusy, "it has to be unmounted and is in use: %s; it stays as it is until that has ended", who)
}

// dependents are the units that systemd would stop together with this one.
func (r *Reconciler) dependents(ctx context.Context, unit string) ([]string, error) {
	u, err := r.cfg.Manager.Unit(ctx, unit)
	if errors.Is(err, systemd.ErrNotFound) {
		return nil, nil
	}
	var out []string
	for _, name := range u.NeededBy {
		other, err := r.cfg.Manager.Unit(ctx, name)
		if err == nil && (other.ActiveState == "active" || other.ActiveState == "activating" || other.ActiveState == "reloading") {
			out = append(out, "the unit "+name)
		}
	}
	return out, err
}
