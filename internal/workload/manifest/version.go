package manifest

import (
	"cmp"
	"strconv"
	"strings"
)

// oldest is the first version of Podman that the agent supports.
const oldest = "4.2"

// Unheeded returns those of the features that a Podman of that version, such as
// 4.3.1 or 4.9.4-rhel, does not heed. A version that cannot be read counts as
// the oldest that is supported.
func (p Plan) Unheeded(version string) []Feature {
	have := versionOrOldest(version)
	var out []Feature
	for _, f := range p.Features {
		if since, ok := parseVersion(f.Since); !ok || have.before(since) {
			out = append(out, f)
		}
	}
	return out
}

// release is a version without what comes behind the first two numbers: Podman
// gets no features in patches, and a candidate has what its release has.
type release struct{ major, minor int }

func (r release) before(other release) bool {
	return cmp.Or(cmp.Compare(r.major, other.major), cmp.Compare(r.minor, other.minor)) < 0
}

func versionOrOldest(text string) release {
	r, ok := parseVersion(text)
	if !ok {
		r, _ = parseVersion(oldest)
	}
	return r
}

func parseVersion(text string) (release, bool) {
	text = strings.TrimPrefix(strings.TrimSpace(text), "v")
	if end := strings.IndexFunc(text, func(r rune) bool { return r != '.' && (r < '0' || r > '9') }); end >= 0 {
		text = text[:end]
	}
	major, rest, _ := strings.Cut(text, ".")
	minor, _, _ := strings.Cut(rest, ".")
	var r release
	var err error
	if r.major, err = strconv.Atoi(major); err != nil {
		return release{}, false
	}
	if minor == "" {
		return r, true
	}
	if r.minor, err = strconv.Atoi(minor); err != nil {
		return release{}, false
	}
	return r, true
}
