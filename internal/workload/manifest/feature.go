package manifest

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/project-flotta/flotta-agent/internal/desired"
)

// rule says what Podman makes of a field of a specification.
type rule struct {
	since string // version that heeds it; empty: none does
	note  string // what happens otherwise
	// fields are those of the object, or of each object of the list, that the
	// field holds; nil: it is judged as a whole.
	fields map[string]rule
	// other, unless it is nil, judges the fields that are not among them.
	other func(key string) rule
	// moot are the values that say what happens anyway.
	moot []string
}

// always is the rule of what every supported Podman heeds, or the agent does in
// its stead.
func always() rule { return rule{since: oldest} }

// since is the rule of what Podman heeds from a version on.
func since(version, note string) rule { return rule{since: version, note: note} }

// never is the rule of what no Podman heeds; the values that are the default say
// nothing that would be missed.
func never(note string, moot ...string) rule { return rule{note: note, moot: moot} }

// of is the rule of an object, or of a list of objects, with these fields.
func of(fields map[string]rule) rule { return rule{since: oldest, fields: fields} }

const (
	noMeaning   = "it has no meaning on a device"
	unknownNote = "no known Podman heeds it"
	refusedNote = "Podman refuses the pod"

	maxOldAnnotation = 63
)

// features returns the parts of a workload that not every supported Podman
// heeds.
func features(w desired.Workload, spec map[string]any) []Feature {
	var f survey
	f.object("", spec, of(podFields()))
	f.values(spec)
	for _, key := range slices.Sorted(maps.Keys(w.Annotations)) {
		if len(w.Annotations[key]) > maxOldAnnotation {
			f.add("metadata.annotations["+printableKey(key)+"]", "5.0",
				"Podman 4.4 to 4.9 refuses values of more than 63 characters")
		}
	}
	slices.SortStableFunc(f.list, func(a, b Feature) int { return strings.Compare(a.Path, b.Path) })
	return f.list
}

// survey collects features on a walk.
type survey struct{ list []Feature }

func (f *survey) add(path, since, note string) {
	f.list = append(f.list, Feature{Path: path, Since: since, Note: note})
}

func (f *survey) object(path string, object map[string]any, r rule) {
	for _, key := range slices.Sorted(maps.Keys(object)) {
		at := printableKey(key)
		if path != "" {
			at = path + "." + at
		}
		field, known := r.fields[key]
		switch {
		case known:
		case r.other != nil:
			field = r.other(key)
		default:
			field = never(unknownNote)
		}
		f.value(at, object[key], field)
	}
}

func (f *survey) value(path string, value any, r rule) {
	if empty(value) {
		return
	}
	if r.since != oldest {
		if text, ok := value.(string); ok && slices.Contains(r.moot, text) {
			return
		}
		f.add(path, r.since, r.note)
	}
	if r.fields == nil {
		return
	}
	switch value := value.(type) {
	case map[string]any:
		f.object(path, value, r)
	case []any:
		for i, item := range value {
			if object, ok := item.(map[string]any); ok {
				f.object(fmt.Sprintf("%s[%d]", path, i), object, r)
			}
		}
	}
}

// empty reports whether a value says nothing that its absence would not.
func empty(value any) bool {
	switch value := value.(type) {
	case nil:
		return true
	case bool:
		return !value
	case string:
		return value == ""
	case []any:
		return len(value) == 0
	default:
		return false // an empty object may choose something, as in emptyDir: {}
	}
}

// printableKey returns a key for a path that a person reads.
func printableKey(key string) string {
	if len(key) > maxName {
		key = key[:maxName] + "..."
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, key)
}
