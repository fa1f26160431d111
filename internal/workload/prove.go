package workload

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/project-flotta/flotta-agent/internal/workload/manifest"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// outputLines is how much of a failing container's output is reported.
const outputLines = 10

// prove watches until every container of the plan has run for the settle time
// without a restart, or ended as its restart policy allows. It fails as soon as
// that cannot happen any more, and when it takes too long.
func (a *attempt) prove(ctx context.Context, plan manifest.Plan, settle time.Duration) error {
	ctx, cancel := context.WithTimeoutCause(ctx, a.r.cfg.ReadyTimeout+settle, errTooLong)
	defer cancel()
	// Ten looks at a settle time are enough to see a restart, which is counted
	// and cannot be missed, and few enough to cost nothing.
	poll := min(max(settle/10, 50*time.Millisecond), time.Second)
	if a.did == actProve {
		// It may have run, and restarted, for a long time.
		a.restarts = map[string]int{}
	}
	var steadySince time.Time
	var fingerprint, waitingFor string
	for {
		v, err := a.verdict(ctx, plan)
		if err != nil {
			return err
		}
		now := time.Now()
		switch {
		case v.ended:
			return nil
		case !v.good:
			steadySince, waitingFor = time.Time{}, v.why
		case steadySince.IsZero() || v.fingerprint != fingerprint:
			steadySince, fingerprint = now, v.fingerprint
			a.progress(protocol.ReasonSettling, "")
		case now.Sub(steadySince) >= settle:
			return nil
		}
		select {
		case <-time.After(poll):
		case <-ctx.Done():
			if context.Cause(ctx) == errTooLong { //nolint:errorlint // our own value
				return &failure{
					reason: ReasonNotReady, output: a.podOutput(ctx, plan),
					err: fmt.Errorf("not running after %s: %s", a.r.cfg.ReadyTimeout, waitingFor),
				}
			}
			return context.Cause(ctx)
		}
	}
}

// errTooLong ends a proof that takes too long.
var errTooLong = fmt.Errorf("took too long: %w", context.DeadlineExceeded)

// verdict is one look at a workload that should run.
type verdict struct {
	good        bool
	ended       bool   // good, and there is nothing to wait for: all came to their end
	why         string // not good (yet)
	fingerprint string // which containers run, since when
}

// verdict looks once. The error is a *failure when the plan cannot come to run,
// and another when looking was not possible.
func (a *attempt) verdict(ctx context.Context, plan manifest.Plan) (verdict, error) {
	unit, err := a.r.cfg.Units.Unit(ctx, plan.Name)
	if err != nil {
		return notSeen(ctx, err)
	}
	mayEnd := unit.ended() && !unit.Waiting && plan.RestartPolicy != manifest.RestartAlways
	if (unit.ended() || unit.Waiting) && !mayEnd {
		return verdict{}, &failure{
			reason: ReasonNotStarted, output: a.unitOutput(ctx),
			err: fmt.Errorf("unit is %s, result %s", unit.State, unit.Result),
		}
	}
	if unit.State != UnitActive && !mayEnd {
		return verdict{why: "unit is " + string(unit.State)}, nil
	}
	pod, there, err := a.r.cfg.Runtime.Pod(ctx, plan.Name)
	if err != nil {
		return notSeen(ctx, err)
	}
	v := verdict{why: "the pod is not there yet"}
	if there && pod.Digest == plan.Digest {
		if v, err = a.judgePod(ctx, plan, pod); err != nil {
			return v, err
		}
	}
	if mayEnd && !v.ended {
		return verdict{}, &failure{
			reason: ReasonNotStarted, output: a.podOutput(ctx, plan),
			err: fmt.Errorf("unit is %s, result %s, and not all containers came to their end: %s", unit.State, unit.Result, v.why),
		}
	}
	return v, nil
}

// notSeen makes a passing trouble with looking a reason to look again.
func notSeen(ctx context.Context, err error) (verdict, error) {
	if ctx.Err() != nil {
		return verdict{}, nil // prove tells why
	}
	return verdict{why: err.Error()}, nil
}

func (a *attempt) judgePod(ctx context.Context, plan manifest.Plan, pod Pod) (verdict, error) {
	var who strings.Builder
	ended := 0
	for _, name := range plan.Containers {
		c, there := find(pod.Containers, plan.Name+"-"+name)
		if !there {
			return verdict{why: "container " + name + " is not there yet"}, nil
		}
		fmt.Fprintf(&who, "%s %s %d\n", c.ID, c.StartedAt, c.Restarts)
		if _, known := a.restarts[c.ID]; a.restarts != nil && !known {
			a.restarts[c.ID] = c.Restarts
		}
		if err := a.judgeContainer(ctx, plan, name, c); err != nil {
			return verdict{}, err
		}
		switch {
		case c.ended() && c.ExitCode != 0 && plan.RestartPolicy == manifest.RestartOnFailure:
			return verdict{why: fmt.Sprintf("container %s ended with exit code %d", name, c.ExitCode)}, nil
		case c.ended():
			ended++
		case c.Status != ContainerRunning:
			return verdict{why: "container " + name + " is " + c.Status}, nil
		case c.Health == HealthStarting:
			return verdict{why: "container " + name + " has not passed its probe yet"}, nil
		}
	}
	return verdict{good: true, ended: ended == len(plan.Containers), fingerprint: who.String()}, nil
}

// judgeContainer returns a *failure when the container cannot come to run any
// more.
func (a *attempt) judgeContainer(ctx context.Context, plan manifest.Plan, name string, c Container) error {
	restarts := c.Restarts - a.restarts[c.ID]
	switch {
	case c.Health == HealthUnhealthy: // first: Podman ends what is unhealthy
		return &failure{
			reason: ReasonNotReady, output: a.logs(ctx, c.ID),
			err: fmt.Errorf("container %s is unhealthy: its probe fails", name),
		}
	case restarts > 0 && plan.RestartPolicy == manifest.RestartAlways:
		return &failure{
			reason: ReasonExited, output: a.logs(ctx, c.ID),
			err: fmt.Errorf("container %s ended and was restarted, %d times so far", name, restarts),
		}
	case c.ended() && plan.RestartPolicy == manifest.RestartAlways:
		return &failure{
			reason: ReasonExited, output: a.logs(ctx, c.ID),
			err: fmt.Errorf("container %s ended with exit code %d", name, c.ExitCode),
		}
	}
	return nil
}

func find(containers []Container, name string) (Container, bool) {
	for _, c := range containers {
		if c.Name == name {
			return c, true
		}
	}
	return Container{}, false
}

// outputTimeout bounds the reading of last words: a report without them is
// better than none.
const outputTimeout = 5 * time.Second

// logs returns what a container said last.
func (a *attempt) logs(ctx context.Context, id string) []string {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), outputTimeout)
	defer cancel()
	lines, err := a.r.cfg.Runtime.Logs(ctx, id, outputLines)
	if err != nil {
		a.log.Debug("container log not read", "err", err)
	}
	return lines
}

// unitOutput returns what the unit itself said last.
func (a *attempt) unitOutput(ctx context.Context) []string {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), outputTimeout)
	defer cancel()
	lines, err := a.r.cfg.Units.Output(ctx, a.target.name, a.began, outputLines)
	if err != nil {
		a.log.Debug("unit output not read", "err", err)
	}
	return lines
}

// podOutput returns the last words of the first container that does not run.
func (a *attempt) podOutput(ctx context.Context, plan manifest.Plan) []string {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), outputTimeout)
	defer cancel()
	pod, there, err := a.r.cfg.Runtime.Pod(ctx, plan.Name)
	if err != nil || !there {
		return a.unitOutput(ctx)
	}
	for _, c := range pod.Containers {
		if c.Status != ContainerRunning || c.Health != "" && c.Health != HealthHealthy {
			return a.logs(ctx, c.ID)
		}
	}
	return nil
}
