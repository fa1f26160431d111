//go:build integration || device

package rpm

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// scratch is a folder of the test program. It is never removed before the end,
// because tests share the packages in it.
var scratch string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		var err error
		// On disk: an overlay does not lie on every other file system.
		if scratch, err = os.MkdirTemp("/var/tmp", "flotta-rpm-"); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer func() { _ = os.RemoveAll(scratch) }()
		return m.Run()
	}())
}

// The versions that are built: an older one, and one that it is upgraded to.
const (
	older = "1.0.0"
	newer = "1.1.0-rc1"
)

// build runs the build script for a version, in an environment of its own where
// more says so: a command that runs another one.
func build(version, arch, folder string, args, more []string, env ...string) error {
	line := append(more, "rpm/build.sh", filepath.Join(scratch, folder), version, arch)
	cmd := exec.CommandContext(context.Background(), line[0], append(line[1:], args...)...)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build packages of %s: %w: %s", version, err, out)
	}
	return nil
}

// withoutRace leaves out what takes longest to build.
var withoutRace = []string{"--without", "race"}

var buildOlder = sync.OnceValue(func() error { return build(older, arch(), "older", withoutRace, nil) })

var buildNewer = sync.OnceValue(func() error { return build(newer, arch(), "newer", withoutRace, nil) })

// pack returns the paths of packages of a version, which it builds the first
// time. A package is named by what follows "flotta-agent" in its name.
func pack(t *testing.T, version string, subs ...string) []string {
	t.Helper()
	folder, f := "older", buildOlder
	if version == newer {
		folder, f = "newer", buildNewer
	}
	must(t, f())
	var paths []string
	for _, sub := range subs {
		paths = append(paths, packageIn(t, folder, sub))
	}
	return paths
}

// packageIn returns the one binary package of that name in a folder.
func packageIn(t *testing.T, folder, sub string) string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(scratch, folder, "flotta-agent"+sub+"-[0-9]*.rpm"))
	must(t, err)
	var binary []string
	for _, path := range found {
		if !strings.HasSuffix(path, ".src.rpm") {
			binary = append(binary, path)
		}
	}
	if len(binary) != 1 {
		t.Fatalf("packages of flotta-agent%s in %s: %q, want one", sub, folder, binary)
	}
	return binary[0]
}

// arch is what rpm calls this machine.
func arch() string {
	out, err := exec.CommandContext(context.Background(), "uname", "-m").Output()
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(string(out))
}

// output runs a command that has to succeed, and returns what it printed.
func output(t *testing.T, name string, args ...string) string {
	t.Helper()
	var errout strings.Builder
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Stderr = &errout
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %s: %v: %s%s", name, strings.Join(args, " "), err, out, errout.String())
	}
	return string(out)
}
