package datasync

import (
	"fmt"
	"slices"
	"strings"

	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// clash is a place in the bucket to which two egress routes may send a file of
// the same key: whichever was sent last is there.
type clash struct {
	workload string // of the route with the shorter prefix
	folder   string // what that route sends to the place
	always   bool   // otherwise only when the folder is there
	message  string
}

// clashes finds what two egress routes have in common, and tells both groups. Two
// routes of a workload that send the same file to the same key do no harm.
func clashes(wanted map[groupKey][]route) map[groupKey][]clash {
	type owned struct {
		route

		workload string
	}
	var all []owned
	for key, routes := range wanted {
		if key.dir != egress {
			continue
		}
		for _, r := range routes {
			all = append(all, owned{r, key.workload})
		}
	}
	slices.SortFunc(all, func(a, b owned) int {
		return strings.Compare(a.prefix+"\x00"+a.workload+"\x00"+a.local, b.prefix+"\x00"+b.workload+"\x00"+b.local)
	})
	found := map[groupKey][]clash{}
	for i, outer := range all {
		for _, inner := range all[i+1:] {
			rel, ok := beneath(outer.prefix, inner.prefix)
			folder := below(outer.local, rel)
			if !ok || outer.workload == inner.workload && folder == inner.local {
				continue
			}
			c := clash{workload: outer.workload, folder: folder, always: rel == "", message: fmt.Sprintf(
				"%q of workload %s and %q of workload %s are both sent to %q: files of the same name replace each other",
				folder, outer.workload, inner.local, inner.workload, inner.prefix)}
			for _, name := range slices.Compact([]string{outer.workload, inner.workload}) {
				key := groupKey{name, egress}
				found[key] = append(found[key], c)
			}
		}
	}
	return found
}

// beneath returns where one prefix is seen from another that it lies below, or
// is.
func beneath(outer, inner string) (rel string, ok bool) {
	switch outer {
	case inner:
		return "", true
	case "":
		return inner, true
	}
	return strings.CutPrefix(inner, outer+"/")
}

// lookAtClashes publishes the clashes that can happen with what is in the volumes.
func (g *group) lookAtClashes() {
	var now []string
	if may := g.clashes.Load(); may != nil {
		for _, c := range *may {
			if c.always || g.engine.has(c.workload, c.folder) {
				now = append(now, c.message)
			}
		}
	}
	if g.looked && slices.Equal(now, g.clashing) {
		return
	}
	g.looked = true
	g.engine.ledger.problems(g.key.workload, g.key.dir, reasonPathOverlap, now)
	for _, message := range now {
		if !slices.Contains(g.clashing, message) {
			g.report.send(reasonPathOverlap, protocol.EventWarnType, message)
		}
	}
	g.clashing = now
}

// has reports whether there is something at a path in a workload's volume.
func (e *Engine) has(workload, name string) bool {
	v, err := openVolume(e.cfg.VolumesDir, workload)
	if err != nil {
		return false
	}
	defer v.close()
	found, err := v.lstat(name)
	return err == nil && found.Kind != kindAbsent
}
