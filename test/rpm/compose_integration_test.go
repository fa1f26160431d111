//go:build integration

package rpm

import (
	_ "embed" // the script.
	"io/fs"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/project-flotta/flotta-agent/systemd"
)

//go:embed compose.sh
var composeScript string

// composed is a root in which packages are installed and nothing runs.
type composed struct {
	*testing.T
	dir string
}

// rpm runs rpm in the image, and returns what it said and all files that differ
// from those of the machine, but rpm's own.
func (i *composed) rpm(args ...string) (said string, changed []string) {
	i.Helper()
	return i.run(slices.Concat([]string{"rpm"}, debian(), args)...)
}

// run is rpm for a command that is run inside the image.
func (i *composed) run(args ...string) (said string, changed []string) {
	i.Helper()
	list := filepath.Join(i.dir, "changed")
	line := append([]string{"--mount", "sh", "-c", composeScript, "compose", i.dir, list}, args...)
	out, err := exec.CommandContext(i.Context(), "unshare", line...).CombinedOutput()
	if err != nil {
		i.Fatalf("%q: %v: %s", args, err, out)
	}
	for path := range strings.Lines(read(i.T, list)) {
		if path = strings.TrimSpace(strings.TrimPrefix(path, ".")); !ownPath.MatchString(path) {
			changed = append(changed, path)
		}
	}
	return string(out), changed
}

// ownPath are rpm's database, wherever the distribution has it, what tools that
// edit the lists of users keep, and a device that scriptlets write to.
var ownPath = regexp.MustCompile(`^(/dev/null$|/root/\.rpmdb/|/var/lib/rpm/|/usr/lib/sysimage/rpm/|/etc/(passwd|group|shadow|gshadow|subuid|subgid)-$|/etc/\.pwd\.lock$)`)

// debian is what Debian's rpm wants to be told, because it is not the package
// manager of the system.
func debian() []string {
	if out, _ := exec.Command("rpm", "--help").Output(); strings.Contains(string(out), "--force-debian") {
		return []string{"--force-debian"}
	}
	return nil
}

// TestComposition installs the packages as rpm-ostree and a Containerfile do:
// nothing runs, /var does not become part of the image, /usr is never written to
// later.
func TestComposition(t *testing.T) {
	t.Parallel()
	packages := pack(t, older, "", "-greenboot")
	i := &composed{T: t, dir: t.TempDir()}
	want := append(strings.Fields(output(t, "rpm", "-qpl", packages[0])), strings.Fields(output(t, "rpm", "-qpl", packages[1]))...)
	want = append(want, users...)
	want = append(want, "/etc/systemd/user/default.target.wants/flotta-workloads.target")

	said, changed := i.rpm(append([]string{"--nodeps", "-U"}, packages...)...)
	i.expect("installed", said, changed, want)
	i.users("flotta:600000:65536\n")
	if err := fs.WalkDir(systemd.Files, ".", func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		raw, err := systemd.Files.ReadFile(path)
		if got := read(t, i.dir, "upper", systemd.InstallPath(path)); err == nil && got != string(raw) {
			t.Errorf("%s is another file: %q", systemd.InstallPath(path), got)
		}
		return err
	}); err != nil {
		t.Error(err)
	}

	// The scriptlets of an upgrade, and once more.
	said, changed = i.rpm(append([]string{"--nodeps", "-U"}, pack(t, newer, "", "-greenboot")...)...)
	i.expect("upgraded", said, changed, want)
	said, changed = i.rpm(append([]string{"--nodeps", "-U", "--oldpackage"}, packages...)...)
	i.expect("downgraded", said, changed, want)
	i.users("flotta:600000:65536\n")

	said, changed = i.rpm("--nodeps", "-e", "flotta-agent", "flotta-agent-greenboot")
	i.expect("erased", said, changed, users)
}

// users are the files that a user is in.
var users = []string{"/etc/group", "/etc/gshadow", "/etc/passwd", "/etc/shadow", "/etc/subgid", "/etc/subuid"}

// expect holds the image to the files that it should have beyond the machine's,
// folders left out.
func (i *composed) expect(what, said string, changed, want []string) {
	i.Helper()
	said = regexp.MustCompile(`(?m)^(subids: flotta has .*|flotta-agent: kept: (the user flotta|key and certificate) .*|Creating (group|user) .*)\n`).ReplaceAllString(said, "")
	if said != "" {
		i.Errorf("%s: said %q", what, said)
	}
	folders := output(i.T, "find", filepath.Join(i.dir, "upper"), "-type", "d", "-printf", "/%P\n")
	var files []string
	for _, path := range want {
		if !slices.Contains(strings.Split(folders, "\n"), path) {
			files = append(files, path)
		}
	}
	slices.Sort(files) // a licence may be several packages'
	slices.Sort(changed)
	if diff := cmp.Diff(slices.Compact(files), changed); diff != "" {
		i.Errorf("%s: files differ (-want +got):\n%s", what, diff)
	}
}

func (i *composed) users(subids string) {
	i.Helper()
	for file, line := range map[string]string{
		"passwd": `\nflotta:x:\d+:\d+:Edge workloads:/var/home/flotta:/usr/sbin/nologin\n`,
		"group":  `\nsystemd-journal:x:\d+:(\S+,)?flotta\n`,
		"subuid": "^" + regexp.QuoteMeta(hostIDs(i.T, "subuid")+subids) + "$",
		"subgid": "^" + regexp.QuoteMeta(hostIDs(i.T, "subgid")+subids) + "$",
	} {
		if text := read(i.T, i.dir, "upper/etc", file); !regexp.MustCompile(line).MatchString(text) {
			i.Errorf("/etc/%s is %q, want %s", file, text, line)
		}
	}
}

// hostIDs is what the machine has in the file. Ranges from 600000 on would make
// the test want another one.
func hostIDs(t *testing.T, file string) string {
	t.Helper()
	return output(t, "sh", "-c", `cat "/etc/$1" 2>/dev/null || :`, "sh", file)
}
