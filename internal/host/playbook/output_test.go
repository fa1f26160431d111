package playbook

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/project-flotta/flotta-agent/internal/durable"
)

// damage puts something into the place of a run's documents: bytes, and a
// document that is intact and says whatever it likes.
func (a *agent) damage(t *testing.T, dir string, raw, valid []byte) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, phaseFile), raw, 0o600); err != nil {
		t.Fatal(err)
	}
	if json.Valid(valid) {
		if err := durable.SaveDocument(filepath.Join(dir, resultFile), resultKind, documentVersion, json.RawMessage(valid), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func TestOutput(t *testing.T) {
	t.Parallel()
	for _, size := range []int{0, 1, keepHead - 1, keepHead, keepHead + 1, keepHead + keepTail - 1, keepHead + keepTail, keepHead + keepTail + 1, keepHead + keepTail + 1000, keepHead + 3*keepTail + 17} {
		all := make([]byte, size)
		for i := range all {
			all[i] = 'a' + byte(rand.IntN(26))
		}
		path := filepath.Join(t.TempDir(), "output")
		o, err := newOutput(path)
		if err != nil {
			t.Fatal(err)
		}
		for rest := all; len(rest) > 0; {
			n := min(len(rest), 1+rand.IntN(1<<rand.IntN(20)))
			if wrote, err := o.Write(rest[:n]); wrote != n || err != nil {
				t.Fatal(wrote, err)
			}
			rest = rest[n:]
			if info, _ := os.Stat(path); info.Size() > keepHead+keepTail {
				t.Fatalf("%d bytes on disk", info.Size())
			}
		}
		if tail := o.tail(); tail != string(all[max(0, size-keepEnd):]) {
			t.Errorf("%d bytes: the tail is wrong", size)
		}
		if err := o.close(); err != nil {
			t.Fatal(err)
		}
		want := all
		if over := size - keepHead - keepTail; over > 0 {
			mark := fmt.Appendf(nil, "\n[%d bytes are left out here]\n", over)
			want = bytes.Join([][]byte{all[:keepHead], mark, all[size-keepTail:]}, nil)
		}
		if got, _ := os.ReadFile(path); !bytes.Equal(got, want) {
			t.Errorf("%d bytes: kept %d, want %d", size, len(got), len(want))
		}
	}
}

// TestFullOutput has no room: the playbook does not hear of it.
func TestFullOutput(t *testing.T) {
	t.Parallel()
	if _, err := os.Stat("/dev/full"); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(t.TempDir(), "output")
	if err := os.Symlink("/dev/full", link); err != nil {
		t.Fatal(err)
	}
	o, err := newOutput(link)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := o.Write([]byte("hello")); n != 5 || err != nil || o.tail() != "hello" {
		t.Errorf("%d, %v, %q", n, err, o.tail())
	}
	if err := o.close(); err == nil {
		t.Error("nobody hears of it")
	}
}

func TestRecap(t *testing.T) {
	t.Parallel()
	const line = "localhost                  : ok=1    changed=2    unreachable=0    failed=3    skipped=0    rescued=0    ignored=0\n"
	for output, want := range map[string]string{
		"": "", "PLAY RECAP": "", "PLAY RECAP ***\n\n": "", line: "localhost: ok=1 changed=2 unreachable=0 failed=3",
		"PLAY RECAP ***\nlocalhost : ok=9 changed=9 unreachable=9 failed=9\nPLAY RECAP ***\n" + line: "localhost: ok=1 changed=2 unreachable=0 failed=3",
	} {
		if output == line {
			output = "PLAY RECAP ***\n" + line
		}
		if got := recap(output); got != want {
			t.Errorf("recap of %q is %q", output, got)
		}
	}
}

func TestSaying(t *testing.T) {
	t.Parallel()
	for _, output := range []string{"", "x", "\x1b[31mred\x1b[0m\x07\ttab\r\n", "\xff\xfe", strings.Repeat("\u00fc\u4e16", 5000), strings.Repeat("\n\n", 5000)} {
		got := saying(strings.Repeat("what", 100), output)
		if len(got) > maxMessage || !utf8.ValidString(got) || strings.ContainsAny(got, "\x1b\x07\r\t") {
			t.Errorf("%q: %d bytes: %q", first(output, 20), len(got), got)
		}
	}
	if got := saying("it failed", "TASK [x] ***********\n\n\nfatal\n"); got != "it failed:\nTASK [x] ***\nfatal" {
		t.Errorf("%q", got)
	}
}

func TestParseStat(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]relative{
		"12 (sh) S 1 12 12 0":            {pid: 12, parent: 1},
		"13 (a) b) (c) Z 12 12 12 0":     {pid: 13, parent: 12, dead: true},
		"14 (evil) S 99 (x) R 7 12 12 0": {pid: 14, parent: 7},
	} {
		if got, ok := parseStat(text); !ok || got != want {
			t.Errorf("%q: %+v, %t", text, got, ok)
		}
	}
	for _, text := range []string{"", "x", "12 (sh", "12 (sh)", "x (sh) S 1", "12 (sh) S x"} {
		if got, ok := parseStat(text); ok {
			t.Errorf("%q: %+v", text, got)
		}
	}
}

func TestGroups(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"0::/system.slice/x.service\n":                             "/system.slice/x.service",
		"9:name=systemd:/a\n4:memory:/b\n3:cpu,cpuacct:/c\n0::/\n": "/a",
		"0::/\n9:name=systemd:/a\n":                                "/a",
		"nonsense\n":                                               "",
	} {
		path := filepath.Join(t.TempDir(), "cgroup")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := groupsOf(path)[""]; got != want {
			t.Errorf("%q: %q", text, got)
		}
	}
	for group, want := range map[string]bool{"/user.slice/user-0.slice/session-c1.scope": true, "/machine.slice/libpod-x.scope": false, "": false} {
		if isSession(group) != want {
			t.Errorf("isSession(%q) = %t", group, !want)
		}
	}
}
