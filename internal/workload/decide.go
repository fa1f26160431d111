package workload

import (
	"slices"

	"github.com/project-flotta/flotta-agent/internal/workload/manifest"
)

// action is what one workload needs next.
type action string

const (
	actNothing action = ""        // it is as desired, or nothing can be done now
	actApply   action = "apply"   // the whole way: images, manifest, restart, proof
	actProve   action = "prove"   // it was started by an attempt that did not live to see it run
	actStart   action = "start"   // the proven manifest does not run, or its unit is set up wrongly
	actRestart action = "restart" // something else runs than the proven manifest
	actRestore action = "restore" // an unproven manifest is in the place of a proven one
	actUnpause action = "unpause" // it was frozen, which was all; never decided, but done before deciding
	actFinish  action = "finish"  // it came to its end and is not to be started again
	actRemove  action = "remove"  // nothing of it is desired
)

// starts reports whether the action makes something run.
func (a action) starts() bool {
	switch a {
	case actApply, actProve, actStart, actRestart, actRestore:
		return true
	default:
		return false
	}
}

// seen is one workload as it was observed.
type seen struct {
	disk onDisk
	unit Unit
	pod  *Pod

	secrets map[string]bool // of ours that are there, by name
}

// decide returns what brings a wanted workload from what was seen to what is
// desired.
func (t target) decideWanted(s seen) action {
	switch {
	case s.disk.manifest == t.sum && s.disk.proven():
		return t.keep(s, t.settings)
	case t.blocked:
		return t.hold(s)
	case s.disk.manifest == t.sum && s.unit.Enabled && s.unit.State == UnitActive && s.pod != nil && s.pod.Digest == t.plan.Digest:
		return actProve
	default:
		return actApply
	}
}

// hold returns what keeps the last proven manifest running, if there is one,
// while nothing newer can be applied.
func (t target) hold(s seen) action {
	switch {
	case s.disk.proven():
		return t.keep(s, s.disk.record.Unit)
	case s.disk.canRestore():
		return actRestore
	case s.disk.record.Digest == "" && (!s.unit.Enabled || s.pod == nil && !starting(s.unit)):
		return leftover(s) // of an attempt that was called off: nothing of it ever ran, or it is half removed
	default:
		return actNothing
	}
}

// starting reports whether the unit runs or is about to.
func starting(u Unit) bool { return !u.Waiting && !u.ended() }

// ended reports whether the unit neither runs nor will by itself.
func (u Unit) ended() bool { return u.State == UnitInactive || u.State == UnitFailed }

// keep returns what the proven manifest needs to run.
func (t target) keep(s seen, settings UnitSettings) action {
	ended := s.unit.ended()
	switch {
	case s.disk.record.Completed && ended && s.unit.Enabled, ended && s.finished() && !s.disk.record.Completed:
		return actFinish
	case s.disk.record.Completed:
		return actNothing // or a person lets it run once more
	case !s.unit.Enabled, !s.unit.Settings.Equal(settings):
		return actStart // starting an active unit does nothing but set it up
	case ended:
		return actStart
	case s.unit.State == UnitActive && (s.pod == nil || s.pod.Digest != s.disk.record.Digest || t.stuck):
		return actRestart
	case t.lacking != "":
		return actStart // or what systemd is at fails each time
	default:
		return actNothing // it runs, or systemd is at work
	}
}

// finished reports whether the proven pod came to its end as its restart policy
// allows.
func (s seen) finished() bool {
	r := s.disk.record
	if r.RestartPolicy == manifest.RestartAlways || s.pod == nil || s.pod.Digest != r.Digest || len(r.Containers) == 0 {
		return false
	}
	for _, name := range r.Containers {
		c, there := find(s.pod.Containers, s.pod.Workload+"-"+name)
		if !there || !c.ended() || r.RestartPolicy == manifest.RestartOnFailure && c.ExitCode != 0 {
			return false
		}
	}
	return true
}

// fault says what is wrong with a pod that a running unit has, or "". What
// Podman mends by itself looks like this for a moment, too.
func (s seen) fault() string {
	r := s.disk.record
	if s.unit.State != UnitActive || s.pod == nil || s.pod.Digest != r.Digest {
		return ""
	}
	for _, name := range r.Containers {
		c, there := find(s.pod.Containers, s.pod.Workload+"-"+name)
		switch {
		case !there:
			return "container " + name + " is gone"
		case c.ended() && (r.RestartPolicy == manifest.RestartAlways || r.RestartPolicy == manifest.RestartOnFailure && c.ExitCode != 0):
			return "container " + name + " is " + c.Status + " since " + c.StartedAt.String()
		case !c.ended() && c.Status != ContainerRunning:
			return "container " + name + " is " + c.Status
		case c.Health == HealthUnhealthy && r.RestartPolicy != manifest.RestartNever:
			return "container " + name + " is unhealthy"
		}
	}
	return ""
}

// paused reports whether a container of the pod was frozen.
func (s seen) paused() bool {
	return s.pod != nil && slices.ContainsFunc(s.pod.Containers, func(c Container) bool { return c.Status == ContainerPaused })
}

// ended reports whether the container ran and does no longer.
func (c Container) ended() bool { return c.Status == ContainerExited || c.Status == ContainerStopped }

// leftover returns what a workload that nobody desires needs.
func leftover(s seen) action {
	if s.disk.exists || s.pod != nil || s.unit.Enabled || s.unit.State != UnitInactive || !s.unit.Settings.Equal(UnitSettings{}) {
		return actRemove
	}
	return actNothing
}
