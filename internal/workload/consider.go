package workload

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/project-flotta/flotta-agent/internal/workload/manifest"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// consider begins what one idle workload needs, or publishes its state.
func (l *loop) consider(ctx context.Context, e *entry, s seen, held holdings) {
	now := time.Now()
	t := e.target
	t.stuck = l.stuck(e, s, now)
	t.lacking = l.r.lacks(t, s)
	t.blocked = e.blocked(now)
	before := e.obstacle
	act := l.clear(e, &t, s, held)
	l.tell(before, e)
	if act != actApply && act != actProve && e.care.next.After(now) {
		act = actNothing
	}
	if act != actNothing {
		if act == actApply || act == actProve {
			held.add(t.name, t.plan.HostPorts, t.plan.PodmanNames)
		}
		l.begin(ctx, e, t)
		return
	}
	if e.care.healed && !e.care.next.After(now) {
		e.care = retry{} // it lasted
	}
	if t.kind == absent && leftover(s) == actNothing {
		delete(l.entries, t.name)
		l.r.images.forget(t.name)
		l.r.board.remove(t.name)
		return
	}
	l.r.board.set(l.describe(e, s))
}

// blocked reports whether the target's plan failed and has to wait.
func (e *entry) blocked(now time.Time) bool {
	return e.target.kind == wanted && e.apply.digest == e.target.plan.Digest && e.apply.next.After(now)
}

// blockedPlans returns the plans that have to wait.
func (l *loop) blockedPlans(now time.Time) []manifest.Plan {
	var out []manifest.Plan
	for _, e := range l.entries {
		if e.blocked(now) {
			out = append(out, e.target.plan)
		}
	}
	return out
}

// tell reports an obstacle that was not there at the last look.
func (l *loop) tell(before *failure, e *entry) {
	now := e.obstacle
	if now == nil || before != nil && before.Error() == now.Error() {
		return
	}
	l.r.cfg.Log.Warn("workload is held up", "workload", e.target.name, "reason", now.reason, "err", now.err)
	l.r.emit(protocol.EventWarnType, EventHeldUp, bounded("workload "+e.target.name+": "+now.Error()))
}

// clear returns what the workload needs and nothing is in the way of. What is,
// is noted in e; t is blocked when it is in the way of the plan alone.
func (l *loop) clear(e *entry, t *target, s seen, held holdings) action {
	e.obstacle = nil
	act := t.decide(s)
	if marker := l.r.maintained(t.name); marker != "" && t.kind != refused {
		e.obstacle = &failure{reason: ReasonMaintenance, err: fmt.Errorf("left alone as long as %s is there", marker)}
		return actNothing
	}
	if act == actApply || act == actProve {
		err := l.r.unmounted(t.settings.Mounts)
		if err == nil {
			err = l.r.unusable(t.plan)
		}
		if err == nil {
			err = held.conflict(t.plan)
		}
		if err == nil {
			return act
		}
		e.obstacle, _ = errors.AsType[*failure](err)
		t.blocked = true
		act = t.decide(s)
	}
	if !act.starts() {
		return act
	}
	settings := s.disk.record.Unit
	if s.disk.manifest == t.sum {
		settings = t.settings
	}
	err := l.r.unmounted(settings.Mounts)
	if err == nil {
		err = l.r.unplugged(settings.Devices)
	}
	if err != nil {
		e.obstacle, _ = errors.AsType[*failure](err)
		return actNothing
	}
	return act
}

// faultPatience is how long a fault of a pod may last before the agent mends it:
// Podman restarts what ends by itself.
const faultPatience = 15 * time.Second

// stuck reports whether the pod has been wrong in the same way for too long.
func (l *loop) stuck(e *entry, s seen, now time.Time) bool {
	fault := s.fault()
	if fault == "" || fault != e.fault {
		e.fault, e.faultTime = fault, now
	}
	if fault == "" {
		return false
	}
	if wait := e.faultTime.Add(faultPatience).Sub(now); wait > 0 {
		l.lookBy(now.Add(wait))
		return false
	}
	return true
}

// holdings returns what every workload has, or is about to have.
func (l *loop) holdings(o observation) holdings {
	held := holdings{}
	for name, disk := range o.disk {
		held.add(name, disk.record.HostPorts, disk.record.PodmanNames)
		if e := l.entries[name]; e != nil && disk.manifest == e.target.sum {
			held.add(name, e.target.plan.HostPorts, e.target.plan.PodmanNames)
		}
	}
	for name, e := range l.entries {
		if e.cancel != nil {
			held.add(name, e.busy.plan.HostPorts, e.busy.plan.PodmanNames)
		}
	}
	return held
}
