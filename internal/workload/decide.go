package workload

import "github.com/project-flotta/flotta-agent/internal/workload/manifest"

// action is what one workload needs next.
type action string

const (
	actNothing action = ""        // it is as desired, or nothing can be done now
	actApply   action = "apply"   // the whole way: images, manifest, restart, proof
	actProve   action = "prove"   // it was started by an attempt that did not live to see it run
	actStart   action = "start"   // the proven manifest does not run
	actRestart action = "restart" // something else runs than the proven manifest
	actRestore action = "restore" // an unproven manifest is in the place of a proven one
	actRemove  action = "remove"  // nothing of it is desired
)

// seen is one workload as it was observed.
type seen struct {
	disk onDisk
	unit Unit
	pod  *Pod
}

// decide returns what brings a rendered workload from what was seen to what is
// desired. Blocked says that the plan failed lately and has to wait.
func decide(plan manifest.Plan, planSum string, s seen, blocked bool) action {
	switch {
	case s.disk.manifest == planSum && s.disk.proven():
		return keep(s)
	case blocked:
		return hold(s)
	case s.disk.manifest == planSum && s.unit.Enabled && s.unit.State == UnitActive && s.pod != nil && s.pod.Digest == plan.Digest:
		return actProve
	default:
		return actApply
	}
}

// hold returns what keeps the last proven manifest running, if there is one,
// while nothing newer can be applied.
func hold(s seen) action {
	switch {
	case s.disk.proven():
		return keep(s)
	case s.disk.canRestore():
		return actRestore
	case s.disk.record.Digest == "" && s.pod == nil && !starting(s.unit):
		return leftover(s) // of an attempt that was called off: nothing of it ever ran
	default:
		return actNothing
	}
}

// starting reports whether the unit runs or is about to.
func starting(u Unit) bool {
	return !u.Waiting && u.State != UnitInactive && u.State != UnitFailed
}

// keep returns what the proven manifest needs to run.
func keep(s seen) action {
	ended := s.unit.State == UnitInactive || s.unit.State == UnitFailed
	switch {
	case !s.unit.Enabled:
		return actStart // starting an active unit does nothing but enable it
	case ended && s.unit.State == UnitInactive && s.disk.record.RestartPolicy != manifest.RestartAlways:
		return actNothing // it ran to its end
	case ended:
		return actStart
	case s.unit.State == UnitActive && (s.pod == nil || s.pod.Digest != s.disk.record.Digest):
		return actRestart
	default:
		return actNothing // it runs, or systemd is at work
	}
}

// leftover returns what a workload that nobody desires needs.
func leftover(s seen) action {
	if s.disk.exists || s.pod != nil || s.unit.Enabled || s.unit.State != UnitInactive {
		return actRemove
	}
	return actNothing
}
