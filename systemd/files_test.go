package systemd

import (
	"io/fs"
	"slices"
	"strings"
	"testing"
)

func TestEveryFileHasItsPlace(t *testing.T) {
	t.Parallel()
	n := 0
	err := fs.WalkDir(Files, ".", func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		n++
		if InstallPath(path) == "" {
			t.Errorf("%s has no place on a device", path)
		}
		return nil
	})
	if err != nil || n < 6 {
		t.Errorf("%d files, %v", n, err)
	}
	for path, want := range map[string]string{
		"user/flotta.slice":            "/usr/lib/systemd/user/flotta.slice",
		"user-preset/85-x.preset":      "/usr/lib/systemd/user-preset/85-x.preset",
		"system-preset/85-x.preset":    "/usr/lib/systemd/system-preset/85-x.preset",
		"tmpfiles.d/flotta-agent.conf": "/usr/lib/tmpfiles.d/flotta-agent.conf",
		"sysusers.d/flotta-agent.conf": "/usr/lib/sysusers.d/flotta-agent.conf",
		"elsewhere/x":                  "",
		"user/":                        "",
	} {
		if got := InstallPath(path); got != want {
			t.Errorf("InstallPath(%q) = %q, want %q", path, got, want)
		}
	}
}

// TestTwoTemplatesAreOne holds the template of the system's manager to that of
// flotta's: what is learned about the one must not be missed in the other.
func TestTwoTemplatesAreOne(t *testing.T) {
	t.Parallel()
	for name, own := range map[string][2][]string{ // lines of the user's, lines of the system's
		"flotta-workload@.service": {
			{"RequiresMountsFor=/var/local/yggdrasil/device %h"},
			{"RequiresMountsFor=/var/local/yggdrasil/device /var/lib/containers"},
		},
		"flotta-workloads.target": {
			{"ConditionUser=flotta", "WantedBy=default.target"},
			{"WantedBy=multi-user.target"},
		},
		"flotta.slice": {},
	} {
		user, system := directives(t, "user/"+name), directives(t, "system/"+name)
		for i, lines := range [][]string{user, system} {
			for _, line := range own[i] {
				if !slices.Contains(lines, line) {
					t.Errorf("%s lacks %q", name, line)
				}
			}
		}
		is := func(i int) func(string) bool {
			return func(line string) bool { return slices.Contains(own[i], line) }
		}
		user, system = slices.DeleteFunc(user, is(0)), slices.DeleteFunc(system, is(1))
		if !slices.Equal(user, system) {
			t.Errorf("%s: the user's %q\nthe system's %q", name, user, system)
		}
	}
}

// directives returns the lines of a unit that systemd heeds.
func directives(t *testing.T, path string) []string {
	t.Helper()
	raw, err := Files.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for line := range strings.Lines(string(raw)) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			out = append(out, line)
		}
	}
	return out
}
