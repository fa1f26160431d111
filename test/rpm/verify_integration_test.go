//go:build integration

package rpm

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/project-flotta/flotta-agent/systemd"
)

// TestUnits has systemd read every unit that is shipped. The services need
// programs of the device; a file is enough for that.
func TestUnits(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	must(t, os.CopyFS(dir, systemd.Files))
	// A drop-in is read with its unit.
	unit := "[Service]\nExecStart=/bin/true\n"
	must(t, os.WriteFile(filepath.Join(dir, "system/yggd.service"), []byte(unit), 0o600))
	for name, program := range map[string]string{
		"flotta-subids.service": "/usr/libexec/flotta-agent/subids", "flotta-agent.service": "/usr/bin/flotta-agent",
		"flotta-playbook@.service": "/usr/bin/flotta-agent",
	} {
		path := filepath.Join(dir, "system", name)
		text := strings.Replace(read(t, path), "="+program, "=/bin/true", 1)
		must(t, os.WriteFile(path, []byte(text), 0o600))
	}
	n := 0
	must(t, fs.WalkDir(systemd.Files, ".", func(path string, e fs.DirEntry, err error) error {
		manager, _, _ := strings.Cut(path, "/")
		if err != nil || e.IsDir() || !slices.Contains([]string{"system", "user"}, manager) {
			return err
		}
		if strings.HasSuffix(filepath.Dir(path), ".service.d") {
			path = filepath.Join("system", strings.TrimSuffix(filepath.Base(filepath.Dir(path)), ".d"))
		}
		n++
		verify(t, manager, filepath.Join(dir, path))
		return nil
	}))
	if n < 8 {
		t.Errorf("%d units were looked at", n)
	}
	must(t, os.WriteFile(filepath.Join(dir, "system/broken.service"), []byte("[Service]\nExecStart=relative\n"), 0o600))
	if out, err := analyze(t, "system", filepath.Join(dir, "system/broken.service")); err == nil && out == "" {
		t.Error("a broken unit is taken for a good one")
	}
}

func verify(t *testing.T, manager, path string) {
	t.Helper()
	out, err := analyze(t, manager, path)
	var about []string
	// What it says of the machine's own units is not about ours.
	for line := range strings.Lines(out) {
		if strings.Contains(line, "flotta") || strings.Contains(line, "yggd") {
			about = append(about, line)
		}
	}
	if len(about) > 0 || err != nil {
		t.Errorf("%s: %v\n%s", path, err, out)
	}
}

func analyze(t *testing.T, manager, path string) (string, error) {
	cmd := exec.CommandContext(t.Context(), "systemd-analyze", "--"+manager, "--man=no", "verify", path)
	// Units of the folder come before those of the machine, and of the folder alone when they are ours.
	cmd.Env = append(os.Environ(), "SYSTEMD_UNIT_PATH="+filepath.Dir(path)+":", "XDG_RUNTIME_DIR="+t.TempDir())
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// TestUsersAndFolders has systemd make, in an empty root, what sysusers.d and
// tmpfiles.d describe, twice.
func TestUsersAndFolders(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, path := range []string{"sysusers.d/flotta-agent.conf", "tmpfiles.d/flotta-agent.conf", "tmpfiles.d/flotta-agent-greenboot.conf"} {
		raw, err := systemd.Files.ReadFile(path)
		must(t, err)
		target := filepath.Join(dir, systemd.InstallPath(path))
		must(t, os.MkdirAll(filepath.Dir(target), 0o755))
		must(t, os.WriteFile(target, raw, 0o600))
	}
	must(t, os.MkdirAll(filepath.Join(dir, "etc"), 0o755))
	for range 2 {
		output(t, "systemd-sysusers", "--root="+dir)
		output(t, "systemd-tmpfiles", "--root="+dir, "--create")
	}
	uid := strings.Split(after(read(t, dir, "etc/passwd"), "flotta:"), ":")[1]
	gid := strings.Split(after(read(t, dir, "etc/group"), "flotta:"), ":")[1]
	for path, want := range map[string]string{
		"etc/flotta/maintenance":               "755 0:0",
		"run/flotta/maintenance":               "755 0:0",
		"var/lib/flotta-greenboot":             "755 0:0",
		"var/local/yggdrasil/device/workloads": "750 0:" + gid,
		"var/local/yggdrasil/device/volumes":   "711 " + uid + ":" + gid,
		"var/home/flotta":                      "700 " + uid + ":" + gid,
		"var/lib/systemd/linger/flotta":        "644 0:0",
	} {
		if got := strings.TrimSpace(output(t, "stat", "-c", "%a %u:%g", filepath.Join(dir, path))); got != want {
			t.Errorf("/%s is %s, want %s", path, got, want)
		}
	}
}

// after returns the rest of the line that begins with prefix.
func after(text, prefix string) string {
	for line := range strings.Lines(text) {
		if rest, ok := strings.CutPrefix(line, prefix); ok {
			return strings.TrimSpace(rest)
		}
	}
	return "::"
}
