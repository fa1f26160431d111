package workload

import (
	"errors"

	"github.com/project-flotta/flotta-agent/internal/desired"
	"github.com/project-flotta/flotta-agent/internal/secret"
	"github.com/project-flotta/flotta-agent/internal/workload/manifest"
)

type targetKind int

const (
	absent  targetKind = iota // nothing of it is desired
	wanted                    // the plan is
	invalid                   // something is, and it cannot be told what: keep what there is
	refused                   // not even its name can be used
)

// target is what one workload should be.
type target struct {
	name    string
	kind    targetKind
	reason  string // of invalid and refused
	plan    manifest.Plan
	sum     string // of the plan's manifest
	auth    secret.Value
	blocked bool // the plan failed lately and has to wait
}

// same reports whether an attempt for t serves other as well.
func (t target) same(other target) bool {
	return t.kind == other.kind && t.sum == other.sum && t.auth.Reveal() == other.auth.Reveal()
}

func (t target) decide(s seen) action {
	switch t.kind {
	case wanted:
		return decide(t.plan, t.sum, s, t.blocked)
	case invalid:
		return hold(s)
	case refused:
		return actNothing
	default:
		return leftover(s)
	}
}

// targets renders all that is desired, by name.
func targets(state desired.State, options manifest.Options) map[string]target {
	out := make(map[string]target, len(state.Workloads))
	for _, w := range state.Workloads {
		t := render(w, state.Secrets, options)
		if _, twice := out[w.Name]; twice {
			t = target{name: w.Name, kind: invalid, reason: "there are several workloads of this name"}
		}
		out[w.Name] = t
	}
	return out
}

func render(w desired.Workload, secrets []desired.Secret, options manifest.Options) target {
	plan, err := manifest.Render(w, secrets, options)
	if err == nil {
		return target{name: w.Name, kind: wanted, plan: plan, sum: sum(plan.Manifest), auth: w.AuthFile}
	}
	t := target{name: w.Name, kind: invalid, reason: err.Error()}
	if invalid, ok := errors.AsType[*manifest.InvalidError](err); ok {
		t.reason = invalid.Reason
	}
	if manifest.CheckName(w.Name) != "" {
		t.kind = refused
	}
	return t
}
