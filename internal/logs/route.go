package logs

import (
	"encoding/json"
	"fmt"
	"maps"
	"time"

	"github.com/project-flotta/flotta-agent/internal/containers"
	"github.com/project-flotta/flotta-agent/internal/desired"
	"github.com/project-flotta/flotta-agent/internal/logs/follow"
)

// farewell is how long a workload that is desired no more is still read after
// its last container was seen: the journal may be behind.
const farewell = 30 * time.Second

// routing says what is read and where it goes.
type routing struct {
	routes  map[string]string        // target by workload
	journal map[string]follow.Origin // by Podman's name
	files   map[string]follow.Source // by container id
	there   map[string]bool          // containers by id; nil: not known
	unknown map[string]string        // problem by workload
	unread  map[string]string        // problem by Podman's name
	leaving map[string]time.Time     // since when a workload that is desired no more has no container; zero: it has
	next    time.Time                // when another look is due; zero: when something changes
}

// plan computes what is read. Before is the routing in force until now.
func plan(state desired.State, list []containers.Container, known bool, before routing, now time.Time) routing {
	r := routing{
		routes: map[string]string{}, journal: map[string]follow.Origin{}, files: map[string]follow.Source{},
		unknown: map[string]string{}, unread: map[string]string{}, leaving: map[string]time.Time{},
	}
	for _, w := range state.Workloads {
		if w.LogTarget == "" {
			continue
		}
		r.routes[w.Name] = w.LogTarget
		_, paused := state.LogCollection[w.LogTarget]
		paused = !paused
		if paused {
			r.unknown[w.Name] = fmt.Sprintf("workload %s: the device has no log target %q; its lines are not read until there is one", w.Name, w.LogTarget)
		}
		for _, name := range containerNames(w.PodSpec) {
			since := before.journal[w.Name+"-"+name].Since
			if since.IsZero() {
				since = now
			}
			r.journal[w.Name+"-"+name] = follow.Origin{Workload: w.Name, Container: name, Paused: paused, Since: since}
		}
	}
	r.keepLeaving(state, list, known, before, now)
	if !known {
		for id, source := range before.files {
			_, usable := state.LogCollection[r.routes[source.Workload]]
			source.Paused = !usable
			r.files[id] = source
		}
		return r
	}
	r.there = map[string]bool{}
	for _, c := range list {
		r.there[c.ID] = true
		goal, routed := r.routes[c.Workload]
		if !routed {
			continue
		}
		_, usable := state.LogCollection[goal]
		r.add(c, !usable)
	}
	return r
}

// add reads a container where its driver puts its lines. Only where that is the
// journal, or nobody knows yet, the journal is followed for it: there may be none.
func (r *routing) add(c containers.Container, paused bool) {
	origin := follow.Origin{Workload: c.Workload, Container: c.Container, ID: c.ID, Paused: paused}
	switch c.LogDriver {
	case "journald":
		origin.Since = r.journal[c.Name].Since
		r.journal[c.Name] = origin
	case "k8s-file", "json-file": // Podman writes the same for both
		r.files[c.ID] = follow.Source{Origin: origin, Name: c.Name, Path: c.LogPath}
		delete(r.journal, c.Name)
	case "": // not known yet
	default:
		delete(r.journal, c.Name)
		r.unread[c.Name] = fmt.Sprintf("container %s of workload %s: its log driver is %s, which keeps no lines that could be read; use journald or k8s-file",
			c.Container, c.Workload, c.LogDriver)
	}
}

// keepLeaving goes on reading workloads that are desired no more, until their
// containers are gone.
func (r *routing) keepLeaving(state desired.State, list []containers.Container, known bool, before routing, now time.Time) {
	desiredNow := map[string]bool{}
	for _, w := range state.Workloads {
		desiredNow[w.Name] = true
	}
	exists := map[string]bool{}
	for _, c := range list {
		exists[c.Workload] = true
	}
	for workload, goal := range before.routes {
		if desiredNow[workload] {
			continue
		}
		since := before.leaving[workload]
		switch {
		case exists[workload] || !known:
			since = time.Time{}
		case since.IsZero():
			since = now
		case now.Sub(since) >= farewell:
			continue
		}
		r.routes[workload], r.leaving[workload] = goal, since
		if !since.IsZero() {
			r.next = sooner(r.next, since.Add(farewell))
		}
		for name, origin := range before.journal {
			if origin.Workload == workload {
				origin.Paused = false // but as long as its spool is not open
				r.journal[name] = origin
			}
		}
	}
}

// followed reports whether the journal is to be followed otherwise than before.
// Another container under a name that is followed is none: its lines say which.
func followed(a, b map[string]follow.Origin) bool {
	return !maps.EqualFunc(a, b, func(x, y follow.Origin) bool {
		return x.Workload == y.Workload && x.Container == y.Container && x.Paused == y.Paused
	})
}

// containerNames returns the names of the containers of a PodSpec.
func containerNames(spec []byte) []string {
	type named struct {
		Name string `json:"name"`
	}
	var pod struct {
		Containers     []named `json:"containers"`
		InitContainers []named `json:"initContainers"`
	}
	if json.Unmarshal(spec, &pod) != nil {
		return nil // an invalid workload; what runs of it is in the inventory
	}
	var names []string
	for _, c := range append(pod.InitContainers, pod.Containers...) {
		if c.Name != "" {
			names = append(names, c.Name)
		}
	}
	return names
}
