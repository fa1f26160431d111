package console

import (
	"strconv"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

func TestEscaped(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{
		"plain/name.txt":                  "plain/name.txt",
		"größe 5":                         "größe 5",
		"日本.txt":                          "日本.txt",
		"":                                `""`,
		" lead":                           `" lead"`,
		"trail ":                          `"trail "`,
		`quo"te`:                          `"quo\"te"`,
		`back\slash`:                      `"back\\slash"`,
		"esc\x1b[2J":                      `"esc\x1b[2J"`,
		"line\nend":                       `"line\nend"`,
		"bad\xff":                         `"bad\xff"`,
		"\u202egpj.exe":                   `"\u202egpj.exe"`,
		"a\u200db":                        `"a\u200db"`,
		"e\u0301":                         "e\u0301",
		"z" + strings.Repeat("\u0301", 3): `"z\u0301\u0301\u0301"`,
	} {
		if got := escaped(name); got != want {
			t.Errorf("%q is shown as %s, want %s", name, got, want)
		}
	}
}

func TestShorten(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		text  string
		width int
		want  string
	}{
		{"short", 10, "short"},
		{"video/2026/03/04/clip-0001.mp4", 20, "video...lip-0001.mp4"},
		{"日本語日本語日本語", 9, "日...本語"},
		{"abcdef", 3, "abc"},
		{"日本語", 3, "日"},
		{"abcdef", 0, ""},
		{"abcdef", -1, ""},
		{"aaaaaaaaaae\u0301", 8, "a...aaae\u0301"},
	} {
		if got := shorten(tt.text, tt.width); got != tt.want || cells(got) > max(tt.width, 0) {
			t.Errorf("%q in %d cells is %q of %d cells, want %q", tt.text, tt.width, got, cells(got), tt.want)
		}
	}
}

// FuzzNames: whatever a file is called, what is shown is printable, fits, and is
// the name or its quotation.
func FuzzNames(f *testing.F) {
	f.Add("plain", 10)
	f.Add("\x1b[31m日本\u202e\xff", 7)
	f.Add(strings.Repeat("z\u0301\u0302\u0303", 50), 5)
	f.Fuzz(func(t *testing.T, name string, width int) {
		width %= 300
		text := escaped(name)
		if back, err := strconv.Unquote(text); text != name && (err != nil || back != name) {
			t.Errorf("%q is shown as %s", name, text)
		}
		short := shorten(text, width)
		if cells(short) > max(width, 0) || !utf8.ValidString(short) {
			t.Errorf("%q in %d cells is %q", name, width, short)
		}
		for _, r := range text + short {
			if unicode.IsControl(r) || unicode.Is(unicode.Cf, r) {
				t.Errorf("%q holds %q", text, r)
			}
		}
	})
}

func TestSize(t *testing.T) {
	t.Parallel()
	for n, want := range map[int64]string{
		-5: "0 B", 0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 10 << 10: "10 KiB", 1<<20 - 1: "1.0 MiB", 1536 << 20: "1.5 GiB", 1 << 62: "4.0 EiB",
	} {
		if got := size(n); got != want {
			t.Errorf("%d is %s, want %s", n, got, want)
		}
	}
}
