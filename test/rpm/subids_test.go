package rpm

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// root is the root of the repository, seen from this package's folder.
const root = "../.."

// TestSubids runs the script that the package installs on files of all kinds,
// twice, because it runs at each boot.
func TestSubids(t *testing.T) {
	t.Parallel()
	none := "-"
	for _, c := range []struct {
		name     string
		uid, gid string // before; none: no such file
		want     [2]string
	}{
		{"no files", none, none, [2]string{"flotta:600000:65536\n", "flotta:600000:65536\n"}},
		{"empty", "", "", [2]string{"flotta:600000:65536\n", "flotta:600000:65536\n"}},
		{"beside others", "a:100000:65536\n", "", [2]string{"a:100000:65536\nflotta:600000:65536\n", "flotta:600000:65536\n"}},
		{
			"Fedora's second user has 600000", "a:524288:65536\nb:589824:65536\n", "a:524288:65536\nb:589824:65536\n",
			[2]string{"a:524288:65536\nb:589824:65536\nflotta:655360:65536\n", "a:524288:65536\nb:589824:65536\nflotta:655360:65536\n"},
		},
		{
			"the end of the range is somebody's, in the other file", "", "b:665535:1\n",
			[2]string{"flotta:665536:65536\n", "b:665535:1\nflotta:665536:65536\n"},
		},
		{"one below", "b:599999:1\n", "", [2]string{"b:599999:1\nflotta:600000:65536\n", "flotta:600000:65536\n"}},
		{
			"moved twice, out of order", "a:665536:10\nb:600000:65536\n", "",
			[2]string{"a:665536:10\nb:600000:65536\nflotta:665546:65536\n", "flotta:665546:65536\n"},
		},
		{"no newline at the end", "a:1:1", "", [2]string{"a:1:1\nflotta:600000:65536\n", "flotta:600000:65536\n"}},
		{"last range without a newline counts", "a:600000:7", "", [2]string{"a:600000:7\nflotta:600007:65536\n", "flotta:600007:65536\n"}},
		{"somebody's own choice", "flotta:7:65536\n", "flotta:9:70000\n", [2]string{"flotta:7:65536\n", "flotta:9:70000\n"}},
		{
			"half of it", "flotta:600000:65536\n", "a:1:1\n",
			[2]string{"flotta:600000:65536\n", "a:1:1\nflotta:665536:65536\n"},
		},
		{
			"nonsense", "a:b:c\n:::\n#x\na:600000\na:0600000:0100\na:999999999999999999999:1\na:1:$(touch /x)\n", none,
			[2]string{
				"a:b:c\n:::\n#x\na:600000\na:0600000:0100\na:999999999999999999999:1\na:1:$(touch /x)\nflotta:600100:65536\n",
				"flotta:600100:65536\n",
			},
		},
		{"somebody whose name begins like ours", "flotta2:1:1\n", "", [2]string{"flotta2:1:1\nflotta:600000:65536\n", "flotta:600000:65536\n"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			for file, text := range map[string]string{"subuid": c.uid, "subgid": c.gid} {
				if text != none {
					must(t, os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600))
				}
			}
			for range 2 {
				must(t, subids(t.Context(), dir))
				if got := [2]string{read(t, dir, "subuid"), read(t, dir, "subgid")}; got != c.want {
					t.Fatalf("files are %q, want %q", got, c.want)
				}
			}
		})
	}
}

// TestSubidsAllTaken checks that nothing is written where no range is free.
func TestSubidsAllTaken(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	all := "a:600000:4294300000\n"
	must(t, os.WriteFile(filepath.Join(dir, "subuid"), []byte(all), 0o600))
	err := subids(t.Context(), dir)
	if err == nil || !strings.Contains(err.Error(), "no 65536 ids in a row are free in "+dir+"/subuid") {
		t.Errorf("error is %v", err)
	}
	if got := read(t, dir, "subuid"); got != all {
		t.Errorf("subuid is %q", got)
	}
}

type failed struct {
	error
	said string
}

func (f failed) Error() string { return f.error.Error() + ": " + f.said }

func subids(ctx context.Context, dir string) error {
	out, err := exec.CommandContext(ctx, "/bin/sh", filepath.Join(root, "rpm/subids.sh"), dir).CombinedOutput()
	if err != nil {
		return failed{err, string(out)}
	}
	return nil
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, path ...string) string {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(path...))
	must(t, err)
	return string(raw)
}
