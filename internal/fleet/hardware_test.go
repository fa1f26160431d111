package fleet

import (
	"strings"
	"testing"
)

func TestNormalLabel(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"x86_64": "x86_64", "Intel(R) Core(TM) i7": "intelrcoretmi7", "--a.b--": "a.b", "": "", "***": "",
		"(c) é": "c", strings.Repeat("a", 80): strings.Repeat("a", 63), strings.Repeat("a", 62) + "-b": strings.Repeat("a", 62),
	} {
		if got := normalLabel(in); got != want {
			t.Errorf("%q becomes %q, want %q", in, got, want)
		}
	}
}
