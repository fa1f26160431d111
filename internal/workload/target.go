package workload

import (
	"errors"
	"path/filepath"
	"slices"
	"strings"

	"github.com/project-flotta/flotta-agent/internal/desired"
	"github.com/project-flotta/flotta-agent/internal/secret"
	"github.com/project-flotta/flotta-agent/internal/workload/manifest"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
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
	name     string
	kind     targetKind
	reason   string // of invalid and refused
	plan     manifest.Plan
	sum      string // of the plan's manifest
	auth     secret.Value
	settings UnitSettings // of the plan's unit
	blocked  bool         // the plan failed lately, or something is in its way, and has to wait
	stuck    bool         // its pod is not as it should be, and does not mend by itself
	lacking  string       // what its manifest in force needs to start and is gone, as of the last look
}

// same reports whether an attempt for t serves other as well.
func (t target) same(other target) bool {
	return t.kind == other.kind && t.sum == other.sum && t.auth.Reveal() == other.auth.Reveal() &&
		t.settings.Equal(other.settings)
}

func (t target) decide(s seen) action {
	switch t.kind {
	case wanted:
		return t.decideWanted(s)
	case invalid:
		return t.hold(s)
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
		t := render(w, state, options)
		if _, twice := out[w.Name]; twice {
			t = target{name: w.Name, kind: invalid, reason: "there are several workloads of this name"}
		}
		out[w.Name] = t
	}
	return out
}

func render(w desired.Workload, state desired.State, options manifest.Options) target {
	plan, err := manifest.Render(w, state.Secrets, options)
	if err == nil {
		return target{
			name: w.Name, kind: wanted, plan: plan, sum: sum(plan.Manifest), auth: w.AuthFile,
			settings: UnitSettings{
				Completes: plan.RestartPolicy != manifest.RestartAlways, StopTimeout: plan.Grace,
				Mounts: neededMounts(state.Mounts, plan, options), Devices: devicePaths(plan), AutoUpdate: plan.AutoUpdate,
			},
		}
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

// neededMounts returns the folders of the configured mounts that the pod sees
// something of, sorted: those at, above or below a folder of the host that it
// mounts.
func neededMounts(mounts []protocol.Mount, plan manifest.Plan, options manifest.Options) []string {
	paths := append([]string{manifest.VolumeDir(options.VolumesDir, plan.Name)}, plan.HostPaths...)
	var out []string
	for _, m := range mounts {
		dir := filepath.Clean(m.Directory)
		if !filepath.IsAbs(dir) || dir == "/" {
			continue
		}
		if slices.ContainsFunc(paths, func(path string) bool { return within(path, dir) || within(dir, path) }) {
			out = append(out, dir)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// within reports whether path is dir or below it.
func within(path, dir string) bool {
	return path == dir || strings.HasPrefix(path, strings.TrimSuffix(dir, "/")+"/")
}
