package rpm

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// versions are what git describes, and the package's version of each. An empty
// one is refused.
var versions = [][2]string{
	{"0.0.0", "0.0.0"},
	{"0123456", "0.0.0^0.g0123456"}, // no such commit
	{"1.2.3-rc1", "1.2.3~rc1"},
	{"1.2.3-rc1-4-gabcdef0", "1.2.3~rc1^4.gabcdef0"},
	{"1.2.3-rc2", "1.2.3~rc2"},
	{"1.2.3", "1.2.3"},
	{"1.2.3-dirty", "1.2.3^0.dirty"},
	{"1.2.3-4-gabcdef0", "1.2.3^4.gabcdef0"},
	{"1.2.3-4-gabcdef0-dirty", "1.2.3^4.gabcdef0.dirty"},
	{"1.2.3-10-g0bcdef0", "1.2.3^10.g0bcdef0"},
	{"1.2.4-beta-2", "1.2.4~beta.2"},
	{"1.3.0", "1.3.0"},
	{"", ""},
	{"1.0 -x", ""},
	{"1.0\n%global x", ""},
	{"latest", ""},
}

func TestVersion(t *testing.T) {
	t.Parallel()
	for _, c := range versions {
		out, err := exec.CommandContext(t.Context(), filepath.Join(root, "rpm/version.sh"), c[0]).Output()
		if got := strings.TrimSpace(string(out)); got != c[1] || (err == nil) != (c[1] != "") {
			t.Errorf("version of the package for %q is %q (%v), want %q", c[0], got, err, c[1])
		}
	}
}
