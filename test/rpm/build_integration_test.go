//go:build integration

package rpm

import (
	"bytes"
	"debug/elf"
	"flag"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/project-flotta/flotta-agent/systemd"
)

var update = flag.Bool("update", false, "write the golden files anew")

// TestPackages builds everything twice, the second time without a network, on a
// host of another name, in another folder and time zone and by somebody with
// another umask, and looks at what came of it.
func TestPackages(t *testing.T) {
	t.Parallel()
	must(t, build(older, arch(), "all", nil, nil))
	t.Run("contents", contents)
	t.Run("rpmlint", lint)
	t.Run("the agent says its version", saysVersion)
	t.Run("the same bytes again, without a network", again)
}

func again(t *testing.T) {
	temporary := filepath.Join(scratch, "another-place")
	must(t, os.Mkdir(temporary, 0o700))
	must(t, build(older, arch(), "again", nil,
		[]string{"unshare", "--net", "--uts", "sh", "-c", `hostname elsewhere && umask 077 && exec "$0" "$@"`},
		"TZ=Asia/Tokyo", "LC_ALL=C.UTF-8", "TMPDIR="+temporary, "GOPROXY=off", "GOFLAGS=-mod=mod"))
	first, second := folder(t, "all"), folder(t, "again")
	if len(first) != 6 { // an archive, a source package, the agent and three sub-packages
		t.Errorf("there are %d files: %q", len(first), slices.Sorted(maps.Keys(first)))
	}
	for name, raw := range first {
		if !bytes.Equal(raw, second[name]) {
			t.Errorf("%s differs: %d bytes and %d", name, len(raw), len(second[name]))
		}
	}
	if len(first) != len(second) {
		t.Errorf("there are %d files and %d", len(first), len(second))
	}
}

// folder reads all files of a folder.
func folder(t *testing.T, name string) map[string][]byte {
	t.Helper()
	files := map[string][]byte{}
	entries, err := os.ReadDir(filepath.Join(scratch, name))
	must(t, err)
	for _, e := range entries {
		files[e.Name()] = []byte(read(t, scratch, name, e.Name()))
	}
	return files
}

// table lists the files of a package: type and mode, owner, flags (c: a
// configuration file, n: that is not replaced, d: documentation, l: licence).
const table = `[%{FILEMODES:perms} %{FILEUSERNAME}:%{FILEGROUPNAME} %{FILEFLAGS:fflags}\t%{FILENAMES} %{FILELINKTOS}\n]`

// foreign are lines that differ with the machine, with rpm and with the C library.
var foreign = regexp.MustCompile(`^\w+ (rpmlib\(|libc\.|libpthread\.|ld-linux|rtld\(|(user|group)\(|flotta-agent.*\((x86-64|aarch-64)\)|/bin/sh|/usr/bin/sh)`)

// contents holds all that is installed to a table, so that whoever adds a file
// or changes a mode says so.
func contents(t *testing.T) {
	var b strings.Builder
	for _, sub := range []string{"", "-greenboot", "-selinux", "-race"} {
		path := packageIn(t, "all", sub)
		fmt.Fprintf(&b, "flotta-agent%s\n", sub)
		for line := range strings.Lines(output(t, "rpm", "-qp", "--queryformat", table, path)) {
			b.WriteString(strings.TrimRight(line, " \n") + "\n")
		}
		for _, kind := range []string{"requires", "recommends", "provides"} {
			for line := range strings.Lines(output(t, "rpm", "-qp", "--"+kind, path)) {
				if line = kind + " " + line; !foreign.MatchString(line) {
					b.WriteString(line)
				}
			}
		}
	}
	const golden = "testdata/contents.txt"
	if *update {
		must(t, os.WriteFile(golden, []byte(b.String()), 0o600))
	}
	if diff := cmp.Diff(strings.Split(read(t, golden), "\n"), strings.Split(b.String(), "\n")); diff != "" {
		t.Errorf("the packages are not what %s says (-update):\n%s", golden, diff)
	}
	must(t, fs.WalkDir(systemd.Files, ".", func(path string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() && !strings.Contains(b.String(), "\t"+systemd.InstallPath(path)+"\n") {
			t.Errorf("systemd/%s is in no package", path)
		}
		return err
	}))
}

// lint is quiet but for what rpm/rpmlint.toml gives a reason for.
func lint(t *testing.T) {
	args := []string{"-c", filepath.Join(root, "rpm/rpmlint.toml"), filepath.Join(root, "flotta-agent.spec")}
	for name := range folder(t, "all") {
		if strings.HasSuffix(name, ".rpm") {
			args = append(args, filepath.Join(scratch, "all", name))
		}
	}
	out, err := exec.CommandContext(t.Context(), "rpmlint", args...).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "5 packages and 1 specfiles checked; 0 errors, 0 warnings") {
		t.Errorf("rpmlint: %v\n%s", err, out)
	}
}

// unpack writes one file of a package into a folder.
func unpack(t *testing.T, path, file string) string {
	t.Helper()
	dir := t.TempDir()
	output(t, "sh", "-c", `rpm2cpio "$1" | cpio --quiet -idD "$2" ".$3"`, "sh", path, dir, file)
	return filepath.Join(dir, file)
}

func saysVersion(t *testing.T) {
	for sub, file := range map[string]string{"": "/usr/bin/flotta-agent", "-race": "/usr/libexec/flotta-agent/flotta-agent-race"} {
		out := output(t, unpack(t, packageIn(t, "all", sub), file), "version")
		if !strings.Contains(out, older) {
			t.Errorf("%s says %q, want version %s", file, out, older)
		}
	}
}

// TestOtherArchitecture builds the agent for the machine that this one is not.
func TestOtherArchitecture(t *testing.T) {
	t.Parallel()
	target, machine := "aarch64", elf.EM_AARCH64
	if arch() == target {
		target, machine = "x86_64", elf.EM_X86_64
	}
	must(t, build(older, target, "cross", nil, nil))
	path := packageIn(t, "cross", "")
	if got := output(t, "rpm", "-qp", "--queryformat", "%{ARCH} %{OS}", path); got != target+" linux" {
		t.Errorf("the package is for %s", got)
	}
	f, err := elf.Open(unpack(t, path, "/usr/bin/flotta-agent"))
	must(t, err)
	defer func() { _ = f.Close() }()
	if f.Machine != machine {
		t.Errorf("the binary is for %s", f.Machine)
	}
	if libs, err := f.ImportedLibraries(); err != nil || len(libs) != 0 {
		t.Errorf("the binary needs %q (%v), want nothing", libs, err)
	}
}

// TestSourcePackage builds the agent from nothing but the source package, as a
// distribution does.
func TestSourcePackage(t *testing.T) {
	t.Parallel()
	must(t, buildOlder())
	source, err := filepath.Glob(filepath.Join(scratch, "older", "*.src.rpm"))
	must(t, err)
	if len(source) != 1 {
		t.Fatalf("source packages: %q", source)
	}
	top := t.TempDir()
	output(t, "unshare", "--net", "rpmbuild", "--rebuild", "--nodeps", "--without", "race", "--define", "_topdir "+top, source[0])
	built, err := filepath.Glob(filepath.Join(top, "RPMS/*/flotta-agent-[0-9]*.rpm"))
	must(t, err)
	if len(built) != 1 {
		t.Fatalf("packages: %q", built)
	}
	if out := output(t, unpack(t, built[0], "/usr/bin/flotta-agent"), "version"); !strings.Contains(out, older) {
		t.Errorf("the agent says %q, want version %s", out, older)
	}
}

// TestVersionOrder lets rpm sort the versions that the table has in the order of
// their commits.
func TestVersionOrder(t *testing.T) {
	t.Parallel()
	var before string
	for _, c := range versions {
		if c[1] == "" {
			continue
		}
		if before != "" && output(t, "rpm", "--eval", fmt.Sprintf("%%{lua: print(rpm.vercmp(%q, %q))}", before, c[1])) != "-1\n" {
			t.Errorf("%s is not before %s", before, c[1])
		}
		before = c[1]
	}
}
