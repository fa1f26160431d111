package osupdate

import (
	"cmp"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

const (
	checkScript = "required.d/40_flotta-agent.sh"
	redScript   = "red.d/40_flotta-agent.sh"
)

// bootedHost is a host that was booted into deployment ee.0, below a root of its
// own.
func bootedHost(t *testing.T) (root string, n notes) {
	t.Helper()
	root = t.TempDir()
	for _, dir := range []string{"proc/sys/kernel/random", "ostree/boot.1/iot/beef", "ostree/deploy/iot/deploy/ee.0", "usr/bin", "etc/flotta"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("../../../deploy/iot/deploy/ee.0", filepath.Join(root, "ostree/boot.1/iot/beef/0")); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(root, "proc/cmdline"), "BOOT_IMAGE=(hd0)/vmlinuz rw root=UUID=1 ostree=/ostree/boot.1/iot/beef/0 quiet\n")
	write(t, filepath.Join(root, "proc/sys/kernel/random/boot_id"), "0b1f-22\n")
	if err := os.Symlink("/proc/uptime", filepath.Join(root, "proc/uptime")); err != nil {
		t.Fatal(err)
	}
	patience(t, root, 60)
	return root, notes{filepath.Join(root, "var/lib/flotta-greenboot")}
}

// patience is how many seconds greenboot's check waits.
func patience(t *testing.T, root string, seconds int) {
	t.Helper()
	text := fmt.Sprintf("FLOTTA_GREENBOOT_TIMEOUT=%d\nFLOTTA_GREENBOOT_SETTLE=1\nFLOTTA_GREENBOOT_POLL=1\nFLOTTA_GREENBOOT_PROBE=10\n", seconds)
	write(t, filepath.Join(root, "etc/flotta/greenboot.conf"), text)
}

// hostCommand puts a shell script where the host's programs are.
func hostCommand(t *testing.T, root, name, script string) {
	t.Helper()
	path := filepath.Join(root, "usr/bin", name)
	write(t, path, "#!/bin/sh\n"+script)
	if err := os.Chmod(path, 0o700); err != nil {
		t.Fatal(err)
	}
}

// script runs one of the scripts as greenboot does, or with another shell.
func script(t *testing.T, shell, root, name string) (string, int) {
	t.Helper()
	cmd := exec.Command(shell, filepath.Join("../../../rpm/greenboot", name))
	cmd.Env = append(os.Environ(), "FLOTTA_GREENBOOT_ROOT="+root)
	out, err := cmd.CombinedOutput()
	if err != nil && cmd.ProcessState == nil {
		t.Error(err)
		return "", -1
	}
	return string(out), cmd.ProcessState.ExitCode()
}

// TestCheckScript runs greenboot's check with agents that answer one thing after
// the other, the last one for ever.
func TestCheckScript(t *testing.T) {
	t.Parallel()
	const enabled, disabled = "[ \"$3\" = yggd.service ]", "exit 1"
	var all sync.WaitGroup
	for name, tt := range map[string]struct {
		codes   string // of flotta-agent status
		expect  string // live, healthy or nothing
		of      string // that deployment
		systems string // systemctl is-enabled
		conf    string
		code    int
		says    string
	}{
		"healthy":                    {codes: "0", code: 0, says: "good"},
		"unhealthy as ever":          {codes: "1", code: 0},
		"not registered":             {codes: "3", code: 0},
		"late":                       {codes: "2 2 1", code: 0},
		"never":                      {codes: "2", code: 1, says: "not good within 3 s (flotta-agent status: 2)"},
		"crashes again and again":    {codes: "2 0 2 0 2 0 2 0 2", code: 1},
		"no program":                 {codes: "127", code: 1},
		"hangs":                      {codes: "hang", code: 1, says: "124"},
		"healthy again":              {codes: "1 1 0", expect: "healthy", of: "ee.0", code: 0},
		"healthy no more":            {codes: "1", expect: "healthy", of: "ee.0", code: 1, says: "status: 1"},
		"was not healthy before":     {codes: "1", expect: "live", of: "ee.0", code: 0},
		"another was healthy":        {codes: "1", expect: "healthy", of: "ff.0", code: 0},
		"no name":                    {codes: "1", expect: "healthy", of: "", code: 0},
		"leaves":                     {codes: "3", expect: "healthy", of: "ee.0", code: 0},
		"not to run":                 {codes: "2", systems: disabled, code: 0, says: "nothing to check"},
		"not to run after an update": {codes: "2", expect: "live", of: "ee.0", systems: disabled, code: 1},
		"switched off":               {codes: "2", conf: "FLOTTA_GREENBOOT_TIMEOUT=0\n", code: 0, says: "switched off"},
		"nonsense is set":            {codes: "0", conf: "FLOTTA_GREENBOOT_TIMEOUT='a b'\nFLOTTA_GREENBOOT_SETTLE=-1\nFLOTTA_GREENBOOT_SETTLE=1\n", code: 0},
	} {
		root, n := bootedHost(t)
		if tt.expect != "" {
			if err := n.expect(tt.of, tt.expect == "healthy"); err != nil {
				t.Fatal(err)
			}
		}
		if tt.code != 0 { // nothing but time decides
			patience(t, root, 3)
		}
		if tt.conf != "" {
			write(t, filepath.Join(root, "etc/flotta/greenboot.conf"), tt.conf)
		}
		hostCommand(t, root, "systemctl", cmp.Or(tt.systems, enabled))
		left := filepath.Join(root, "codes")
		write(t, left, tt.codes+"\n")
		hostCommand(t, root, "flotta-agent", fmt.Sprintf(`[ "$*" = status ] || exit 64
read -r code rest <%[1]s
[ -z "$rest" ] || echo "$rest" >%[1]s
[ "$code" != hang ] || exec sleep 60
exit "$code"`, left))
		all.Go(func() { // at once: they do nothing but wait
			out, code := script(t, "bash", root, checkScript)
			if code != tt.code || !strings.Contains(out, tt.says) || strings.Count(out, "\n") != 1 {
				t.Errorf("%s: it ended with %d, want %d:\n%s", name, code, tt.code, out)
			}
		})
	}
	all.Wait()
}

// TestRedScript: the note is one that the agent understands, and the oldest go.
func TestRedScript(t *testing.T) {
	t.Parallel()
	for _, shell := range []string{"bash", "sh"} {
		root, n := bootedHost(t)
		for i := range 13 {
			id := fmt.Sprintf("0b1f-%02d", i)
			write(t, filepath.Join(root, "proc/sys/kernel/random/boot_id"), id+"\n")
			if out, code := script(t, shell, root, redScript); code != 0 {
				t.Fatalf("%s: it ended with %d:\n%s", shell, code, out)
			}
			made := time.Now().Add(time.Duration(i-20) * time.Minute)
			if err := os.Chtimes(filepath.Join(n.dir, "red-"+id), made, made); err != nil {
				t.Fatal(err)
			}
		}
		red, err := n.red()
		if err != nil || !redBoot(red, "0b1f-12", "") || !redBoot(red, "", "ee.0") || redBoot(red, "", "ff.0") {
			t.Errorf("%s: %+v, %v", shell, red, err)
		}
		names, err := n.names()
		if err != nil || len(names) != 10 || slices.Contains(names, "red-0b1f-02") || !slices.Contains(names, "red-0b1f-03") {
			t.Errorf("%s: left %v, %v", shell, names, err)
		}
		if entries, err := os.ReadDir(n.dir); err != nil || len(entries) != 10 {
			t.Errorf("%s: something else is left: %v, %v", shell, entries, err)
		}
		text := read(t, filepath.Join(n.dir, "red-0b1f-12"))
		stamp := text[strings.Index(text, "time=")+5:]
		if at, err := time.Parse(time.RFC3339, strings.TrimSpace(stamp)); err != nil || time.Since(at).Abs() > time.Hour {
			t.Errorf("%s: written at %q", shell, stamp)
		}
	}
}

// TestRedScriptInTrouble: hosts without ostree, ids that are none, full disks.
func TestRedScriptInTrouble(t *testing.T) {
	t.Parallel()
	root, n := bootedHost(t)
	write(t, filepath.Join(root, "proc/cmdline"), "quiet")
	if out, code := script(t, "sh", root, redScript); code != 0 {
		t.Errorf("without ostree it ended with %d: %s", code, out)
	}
	if red, err := n.red(); err != nil || len(red) != 1 || red[0].deployment != "" {
		t.Errorf("%+v, %v", red, err)
	}
	for i, id := range []string{"", "../../x", "a b", "$(touch x)"} {
		write(t, filepath.Join(root, "proc/sys/kernel/random/boot_id"), id+"\n")
		if out, code := script(t, "sh", root, redScript); code != 1 {
			t.Errorf("%s: it ended with %d: %s", strconv.Itoa(i), code, out)
		}
	}
	if names, err := n.names(); err != nil || len(names) != 1 {
		t.Errorf("notes %v, %v", names, err)
	}
	write(t, filepath.Join(root, "proc/sys/kernel/random/boot_id"), "0b1f-99\n")
	hostCommand(t, root, "sync", "exit 1") // a disk that takes nothing
	if out, code := script(t, "sh", root, redScript); code != 1 {
		t.Errorf("it ended with %d: %s", code, out)
	}
	if names, err := n.names(); err != nil || len(names) != 1 {
		t.Errorf("half a note is there: %v, %v", names, err)
	}
}
