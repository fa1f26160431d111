package agent

import (
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestEverySettingIsShown holds the shipped file, which is the reference of the
// settings, to what there is: each setting with a sentence above it, and none that
// does not exist.
func TestEverySettingIsShown(t *testing.T) {
	t.Parallel()
	raw, err := os.ReadFile("../../config/agent.toml")
	must(t, err)
	line := regexp.MustCompile(`^#?(\[\[?([a-z.]+)\]\]?|([a-z-]+) = .*)$`)
	var shown []string
	section, before := "", ""
	for text := range strings.Lines(string(raw)) {
		text = strings.TrimSuffix(text, "\n")
		m := line.FindStringSubmatch(text)
		switch {
		case m == nil:
		case m[2] != "":
			section = m[2] + "."
		default:
			shown = append(shown, section+m[3])
			described := strings.HasPrefix(before, "# ") || line.MatchString(before)
			if !described {
				t.Errorf("%s%s: nothing is said about it", section, m[3])
			}
		}
		before = text
	}
	slices.Sort(shown)
	shown = slices.Compact(shown) // windows are shown twice
	want := settingsOf("", reflect.TypeFor[Config]())
	slices.Sort(want)
	for _, name := range want {
		if !slices.Contains(shown, name) {
			t.Errorf("config/agent.toml does not show %s", name)
		}
	}
	for _, name := range shown {
		if !slices.Contains(want, name) {
			t.Errorf("config/agent.toml shows %s, which does not exist", name)
		}
	}
	if len(want) < 30 {
		t.Errorf("only %d settings were found: %q", len(want), want)
	}
}

// settingsOf returns the names of the settings in a section.
func settingsOf(section string, in reflect.Type) []string {
	var out []string
	for f := range in.Fields() {
		name := f.Tag.Get("toml")
		if name == "" || name == "-" {
			continue
		}
		of := f.Type
		if of.Kind() == reflect.Slice {
			of = of.Elem()
		}
		var parts []string
		if of.Kind() == reflect.Struct {
			parts = settingsOf(section+name+".", of)
		}
		if len(parts) == 0 {
			parts = []string{section + name}
		}
		out = append(out, parts...)
	}
	return out
}
