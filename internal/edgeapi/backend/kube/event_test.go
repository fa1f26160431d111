package kube

import (
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"k8s.io/apimachinery/pkg/util/validation"
)

// Whatever a device says of an event is a short text that a terminal can show.
func FuzzPrintable(f *testing.F) {
	for _, text := range []string{"", "it broke", "\x1b[31mred", "\xff\xfe", strings.Repeat("é", 600), "a\u202eb", "\u0000"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		got := printable(text, maxReason)
		if len(got) > maxReason || !utf8.ValidString(got) || strings.TrimSpace(got) != got {
			t.Errorf("%q becomes %q", text, got)
		}
		if i := strings.IndexFunc(got, func(r rune) bool { return !unicode.IsPrint(r) }); i >= 0 {
			t.Errorf("%q becomes %q", text, got)
		}
	})
}

func TestEventNameFits(t *testing.T) {
	t.Parallel()
	for _, device := range []string{"dev1", strings.Repeat("d", 253), strings.Repeat("d", 235) + strings.Repeat(".-", 9)} {
		name := eventName(device, "0123456789abcdef")
		if errs := validation.IsDNS1123Subdomain(name); len(errs) > 0 {
			t.Errorf("%s: %v", name, errs)
		}
	}
}
