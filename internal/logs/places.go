package logs

import (
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"

	"github.com/project-flotta/flotta-agent/internal/durable"
	"github.com/project-flotta/flotta-agent/internal/logs/follow"
)

// places say how far the logs were read.
type places struct {
	Journal follow.JournalMark         `json:"journal"`
	Files   map[string]follow.FileMark `json:"files,omitempty"` // by the container's id
	// Routes are the targets of workloads, by name: for those that are desired no
	// more and still have something to be read.
	Routes map[string]string `json:"routes,omitempty"`
	// Names are the containers that are read from the journal, by Podman's name,
	// for the same.
	Names map[string]member `json:"names,omitempty"`
}

// member is what a container is called in its workload.
type member struct {
	Workload  string `json:"workload"`
	Container string `json:"container"`
}

// namesOf returns what is kept of origins.
func namesOf(origins map[string]follow.Origin) map[string]member {
	names := make(map[string]member, len(origins))
	for name, o := range origins {
		names[name] = member{o.Workload, o.Container}
	}
	return names
}

// routing is what was in force when the places were saved, as far as it is known.
func (p places) routing() routing {
	r := routing{routes: p.Routes, journal: make(map[string]follow.Origin, len(p.Names))}
	for name, n := range p.Names {
		r.journal[name] = follow.Origin{Workload: n.Workload, Container: n.Container}
	}
	return r
}

const (
	placesKind    = "log-places"
	placesVersion = 1
)

func placesPath(dir string) string { return filepath.Join(dir, "places") }

// loadPlaces returns empty places and a reason when there are none that can be
// read; the reason is "" when there were none ever.
func loadPlaces(dir string) (p places, reason string, err error) {
	path := placesPath(dir)
	switch err := durable.LoadDocument(path, placesKind, placesVersion, &p); {
	case err == nil:
	case errors.Is(err, fs.ErrNotExist):
		p = places{}
	case errors.Is(err, durable.ErrCorrupt) || errors.Is(err, durable.ErrVersion):
		p, reason = places{}, err.Error()
		if _, err := durable.SetAside(path); err != nil {
			return places{}, reason, err
		}
	default:
		return places{}, "", err
	}
	if p.Files == nil {
		p.Files = map[string]follow.FileMark{}
	}
	if p.Routes == nil {
		p.Routes = map[string]string{}
	}
	return p, reason, nil
}

// save replaces the document.
func (p places) save(dir string) error {
	return durable.SaveDocument(placesPath(dir), placesKind, placesVersion, p, 0o600)
}

// clone returns a copy that may be used while p changes. The map of names in a
// journal's mark never does.
func (p places) clone() places {
	p.Files, p.Routes, p.Names = maps.Clone(p.Files), maps.Clone(p.Routes), maps.Clone(p.Names)
	return p
}

// HasRead reports whether logs were ever read on this device: there may be last
// lines of containers that nobody names any more.
func (e *Engine) HasRead() bool {
	_, err := os.Stat(placesPath(e.cfg.Dir))
	return err == nil
}
