package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode"

	"github.com/project-flotta/flotta-agent/internal/console"
	"github.com/project-flotta/flotta-agent/internal/doctor"
)

// runOn runs the program on a device whose files are in dir.
func runOn(t *testing.T, dir string, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	var out, errs bytes.Buffer
	cmd := command(func(name string) string {
		return map[string]string{"FLOTTA_CONFIG": filepath.Join(dir, "agent.toml"), "YGG_CONFIG_DIR": dir}[name]
	}, &out, &errs)
	cmd.SetArgs(args)
	code = exitCode(cmd.ExecuteContext(t.Context()), &errs)
	return out.String(), errs.String(), code
}

func device(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	for name, text := range map[string]string{
		"agent.toml":  fmt.Sprintf("state-dir = %q\n[runtime]\nmode = \"root\"\n", filepath.Join(dir, "state")),
		"config.toml": "client-id = \"edge/7\"\nserver = \"127.0.0.1:1\"\npassword = \"hunter2-canary\"\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// The real doctor looks at the machine that the test runs on: what is wrong with
// it does not matter, but for what this device has.
func TestDoctor(t *testing.T) {
	t.Parallel()
	dir := device(t)
	stdout, stderr, code := runOn(t, dir, "doctor")
	if code != 1 || stderr != "" || !strings.Contains(stdout, "127.0.0.1:1: cannot connect") || !strings.Contains(stdout, "nobody listens at that port") {
		t.Errorf("code %d\nstdout: %s\nstderr: %s", code, stdout, stderr)
	}
	raw, _, code := runOn(t, dir, "doctor", "-o", "json")
	var report doctor.Report
	if err := json.Unmarshal([]byte(raw), &report); err != nil || code != 1 || report.Level != doctor.Fail || len(report.Findings) < 12 {
		t.Errorf("code %d, %v: %s", code, err, raw)
	}
	if text, _, code := runOn(t, dir, "doctor", "--output=yaml"); code != 1 || !strings.Contains(text, "level: fail\n") {
		t.Errorf("code %d: %s", code, text)
	}
	for _, args := range [][]string{{"-o", "xml"}, {"--loud"}, {"me"}} {
		if stdout, stderr, code := runOn(t, dir, append([]string{"doctor"}, args...)...); code != 2 || stdout != "" || stderr == "" {
			t.Errorf("%v: code %d, %q, %q", args, code, stdout, stderr)
		}
	}
}

func TestReportTable(t *testing.T) {
	t.Parallel()
	report := doctor.Report{Level: doctor.Fail, Findings: []doctor.Finding{
		{Check: "clock", Level: doctor.OK, Found: "synchronised"},
		{Check: "selinux", Level: doctor.Skip, Found: "without SELinux"},
		{Check: "disk", Subject: "/state", Level: doctor.Warn, Found: "9% free", Advice: "du"},
		{Check: "yggd", Subject: "yggd.service", Level: doctor.Fail, Found: "inactive", Advice: "start it"},
	}}
	const bad = "WARN  disk         /state: 9% free\n                   -> du\nFAIL  yggd         yggd.service: inactive\n                   -> start it\n"
	const sum = "\n4 looked at: 1 failed, 1 warnings, 1 well, 1 not applicable\n"
	if got := reportTable(report, false, false); got != bad+sum {
		t.Errorf("table:\n%s", got)
	}
	if got := reportTable(report, true, false); got != "OK    clock        synchronised\nN/A   selinux      without SELinux\n"+bad+sum {
		t.Errorf("whole table:\n%s", got)
	}
	if got := reportTable(report, true, true); !strings.Contains(got, "\x1b[31mFAIL \x1b[0m yggd") || !strings.Contains(got, "\nN/A   selinux") {
		t.Errorf("in colour:\n%q", got)
	}
}

func TestSupportBundle(t *testing.T) {
	t.Parallel()
	dir := device(t)
	socket := agentSaying(t, console.Document{Version: "7", Problems: []string{"knows hunter2-canary"}})
	name := filepath.Join(dir, "out.tar.gz")
	stdout, stderr, code := runOn(t, dir, "support-bundle", "--socket", socket, "-o", name)
	if code != 0 || stderr != "" || !strings.HasPrefix(stdout, name+": ") {
		t.Fatalf("code %d\nstdout: %s\nstderr: %s", code, stdout, stderr)
	}
	if info, err := os.Stat(name); err != nil || info.Mode() != 0o600 || info.Size() > 20<<20 {
		t.Errorf("archive: %v, %v", info, err)
	}
	file, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	raw, stderr, code := runOn(t, dir, "support-bundle", "--socket", socket+"x", "-o", "-", "--max-mib", "1")
	if code != 0 || stderr != "" || len(raw) > 1<<20 {
		t.Errorf("code %d, %d bytes, %s", code, len(raw), stderr)
	}
	for what, archive := range map[string]string{"with the agent": string(file), "without it": raw} {
		files := untar(t, archive)
		if got := files["status.json"]; (what == "with the agent") != strings.Contains(got, `"version": "7"`) {
			t.Errorf("%s: status is %s", what, got)
		}
		for name, text := range files {
			if strings.Contains(text, "hunter2") {
				t.Errorf("%s: %s holds the secret", what, name)
			}
		}
		for name, want := range map[string]string{
			"manifest.json": `"device": "edge/7"`, "doctor.json": "127.0.0.1:1", "config/yggdrasil.toml": "password = [redacted]", "config/agent.toml": "root",
		} {
			if !strings.Contains(files[name], want) {
				t.Errorf("%s: %s is %s", what, name, files[name])
			}
		}
	}
	for _, args := range [][]string{{"-o", name}, {"-o", filepath.Join(dir, "no", "folder")}, {"--max-mib", "0"}, {"extra"}} {
		if stdout, stderr, code := runOn(t, dir, append([]string{"support-bundle", "--socket", socket}, args...)...); code != 2 || stdout != "" || stderr == "" {
			t.Errorf("%v: code %d, %q, %q", args, code, stdout, stderr)
		}
	}
	if again, err := os.ReadFile(name); err != nil || !bytes.Equal(again, file) {
		t.Errorf("an archive that was there is another one: %v", err)
	}
}

func untar(t *testing.T, archive string) map[string]string {
	t.Helper()
	zip, err := gzip.NewReader(strings.NewReader(archive))
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for r := tar.NewReader(zip); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		files[strings.TrimPrefix(h.Name, "flotta-support/")] = string(text)
	}
}

// Whatever a device is called, the archive lies in the folder one is in.
func TestFileName(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{"edge-7": "edge-7", "../../etc/x": "______etc_x", "a\x1b[2Jb": "a__2Jb"} {
		if got := fileName(in); got != want || strings.ContainsFunc(got, unicode.IsControl) {
			t.Errorf("%q is %q, want %q", in, got, want)
		}
	}
}
