package osupdate

import (
	"fmt"
	"time"

	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// judge says what has become of an update after a boot: all that a reboot can
// lead to is one of these cases.
func (r *Reconciler) judge(system System, boot string) error {
	rec := r.rec
	if rec.Boot == boot || rec.ID == "" || rec.Phase == PhaseIdle {
		return nil
	}
	if system.Booted.ID == rec.ID {
		return r.booted(rec, system, boot)
	}
	red, err := r.notes.red()
	if err != nil {
		return err
	}
	found, of := "", rec.Boot
	if rec.Phase.open() {
		of = "" // that boot was of what ran before
	}
	if redBoot(red, of, rec.Key) {
		found = ", after greenboot found it red"
	}
	from := system.Booted.ID == rec.From && rec.From != rec.ID
	switch {
	case from && (!rec.Phase.open() || found != "" || system.finished(rec.Key)):
		return r.fail(boot, fmt.Sprintf("it was booted, or should have been, and the machine went back to %s%s", named(system.Booted), found))
	case from && rec.Phase == PhaseRebooting && rec.Reboots >= r.cfg.MaxReboots:
		return r.fail(boot, fmt.Sprintf("the machine was rebooted %d times and still runs %s: "+
			"journalctl -b -1 -u ostree-finalize-staged.service may say why (a full /boot, for one)", rec.Reboots, named(system.Booted)))
	case from:
		return r.interrupted(rec, boot)
	case rec.Phase == PhaseLookedUp || rec.Phase == PhaseStaging:
		rec.Phase, rec.From, rec.Boot, rec.Ours, rec.Key = PhaseIdle, system.Booted.ID, boot, "", ""
		return r.keep(rec)
	}
	return r.fail(boot, "somebody has replaced it by "+named(system.Booted))
}

// booted is where the goal runs.
func (r *Reconciler) booted(rec record, system System, boot string) error {
	news := rec.Phase.open()
	if news {
		rec.Phase = PhaseConfirming
	}
	rec.Boot, rec.Ours = boot, ""
	if err := r.keep(rec); err != nil {
		return err
	}
	r.since, r.well = time.Time{}, time.Time{}
	if news {
		r.cfg.Log.Info("machine was booted into the operating system that is wanted", "id", rec.ID)
		r.emit(protocol.EventInfoType, reasonBooted, "operating system "+named(system.Booted)+" was booted")
	}
	return nil
}

// interrupted is where a power cut, or a reboot that came too early, left the
// machine as it was: the update begins anew.
func (r *Reconciler) interrupted(rec record, boot string) error {
	phase := rec.Phase
	rec.Phase, rec.Boot, rec.Ours, rec.Key = PhaseIdle, boot, "", ""
	if err := r.keep(rec); err != nil {
		return err
	}
	r.moment = moment{}
	r.cfg.Log.Warn("update of the operating system was interrupted by a reboot or a power cut, and begins anew", "id", rec.ID, "phase", string(phase))
	r.emit(protocol.EventWarnType, reasonInterrupted, "the update to operating system "+rec.ID+" was interrupted, and begins anew")
	return nil
}

// fail records that the goal is not to be tried again.
func (r *Reconciler) fail(boot, reason string) error {
	rec := r.rec.outcome(protocol.UpgradeFailed, reason)
	rec.Phase, rec.Failed, rec.Boot, rec.Ours, rec.Key, rec.Reboots, rec.Late = PhaseIdle, reason, boot, "", "", 0, false
	if err := r.keep(rec); err != nil {
		return err
	}
	r.moment = moment{}
	r.cfg.Log.Error("update of the operating system failed", "id", rec.ID, "reason", reason)
	r.emit(protocol.EventWarnType, reasonFailed, "the update to operating system "+rec.ID+" failed: "+reason)
	return r.notes.forget(boot)
}

// arrived is where the goal is what runs.
func (r *Reconciler) arrived(boot string) (result, error) {
	rec := r.rec
	switch {
	case rec.Phase == PhaseConfirming:
		return r.confirm(boot)
	case rec.Phase == PhaseDone:
		return result{}, nil
	case rec.Failed != "": // somebody has brought it about all the same
		rec.Phase, rec.Failed, rec.Boot, rec.Well, rec.Late = PhaseConfirming, "", boot, true, false
		if err := r.keep(rec); err != nil {
			return result{}, err
		}
		return r.confirm(boot)
	}
	rec.Phase, rec.Boot, rec.From = PhaseDone, boot, rec.ID // it ran before anybody asked for it
	return result{}, r.keep(rec)
}

// confirm waits until the device is healthy, if it was before, and has been so
// for a while.
func (r *Reconciler) confirm(boot string) (result, error) {
	now := time.Now()
	if r.since.IsZero() {
		r.since = now
	}
	well, why, err := r.works(boot)
	if err != nil {
		return result{}, err
	}
	switch {
	case !well:
		r.well = time.Time{}
	case r.well.IsZero():
		r.well = now
	}
	late := now.Sub(r.since) >= r.cfg.Grace
	switch {
	case well && now.Sub(r.well) >= r.cfg.Settle:
		return result{}, r.succeed(boot)
	case well:
		return result{note: "operating system " + r.rec.ID + " was booted, and the device is healthy so far", wait: min(confirmPause, r.cfg.Settle)}, nil
	case !late:
		return result{note: "operating system " + r.rec.ID + " was booted, and the device is not healthy yet: " + clip(why, maxError), wait: confirmPause}, nil
	}
	reason := "the device is not healthy with it: " + clip(why, maxError)
	if !r.rec.Late {
		rec := r.rec.outcome(protocol.UpgradeFailed, reason)
		rec.Late = true
		if err := r.keep(rec); err != nil {
			return result{}, err
		}
		r.cfg.Log.Error("device is not healthy after an update of its operating system", "id", rec.ID, "reason", why)
		r.emit(protocol.EventWarnType, reasonFailed, "the update to operating system "+rec.ID+" failed: "+reason)
	}
	return result{problem: "operating system " + r.rec.ID + " was booted " + r.cfg.Grace.String() + " ago or longer, and " + reason, wait: r.cfg.Retry}, nil
}

// works says whether the device does what it is to do in this boot.
func (r *Reconciler) works(boot string) (well bool, why string, err error) {
	red, err := r.notes.red()
	if err != nil {
		return false, "", err
	}
	if redBoot(red, boot, "") {
		return false, "greenboot found this boot red", nil
	}
	if !r.rec.Well {
		return true, "", nil // no fault of the operating system's: it was like this before
	}
	well, why = r.cfg.Healthy()
	return well, why, nil
}

// succeed records that the goal runs and works.
func (r *Reconciler) succeed(boot string) error {
	rec := r.rec.outcome(protocol.UpgradeSucceeded, "")
	rec.Phase, rec.Reboots, rec.Late = PhaseDone, 0, false
	if err := r.keep(rec); err != nil {
		return err
	}
	r.moment = moment{}
	r.cfg.Log.Info("operating system was updated", "id", rec.ID, "from", rec.From)
	r.emit(protocol.EventInfoType, reasonSucceeded, "operating system "+rec.ID+" runs, and the device is healthy")
	return r.notes.forget(boot)
}
