package osupdate

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/project-flotta/flotta-agent/internal/command"
)

// layered is a host onto which packages were layered, with another operating
// system on its disk, in the JSON of rpm-ostree.
func layered() string {
	sum := func(c string) string { return strings.Repeat(c, 64) }
	return `{"deployments": [
	 {"osname": "iot", "checksum": "` + sum("1") + `", "base-checksum": "` + sum("2") + `", "serial": 1, "version": "41.2", "origin": "edge:iot", "booted": false, "staged": true, "unknown": {"a": [1]}},
	 {"osname": "other", "checksum": "` + sum("3") + `", "serial": 0, "booted": false},
	 {"osname": "iot", "checksum": "` + sum("4") + `", "base-checksum": "` + sum("5") + `", "serial": 0, "version": "41.1", "origin": "ostree://edge:iot", "booted": true, "staged": false},
	 {"osname": "iot", "checksum": "` + sum("6") + `", "serial": 2, "version": null, "booted": false}],
	 "transaction": ["deploy", "client(id:cli)", "unix:/x"], "cached-update": {"x": 1}}`
}

func TestParseRpmOstree(t *testing.T) {
	t.Parallel()
	sum := func(c string) string { return strings.Repeat(c, 64) }
	got, origin, err := parseRpmOstree([]byte(layered()))
	if err != nil {
		t.Fatal(err)
	}
	want := System{
		Tool: "rpm-ostree", Busy: "deploy",
		Booted:   Deployment{ID: sum("5"), Commit: sum("5"), Key: sum("4") + ".0", Version: "41.1"},
		Pending:  []Deployment{{ID: sum("2"), Commit: sum("2"), Key: sum("1") + ".1", Version: "41.2", Staged: true}},
		Fallback: []Deployment{{ID: sum("6"), Commit: sum("6"), Key: sum("6") + ".2"}},
	}
	if diff := cmp.Diff(want, got); diff != "" || origin != "edge:iot" {
		t.Errorf("origin %q, system (-want +got):\n%s", origin, diff)
	}
	if got.finished(sum("1")+".1") || !got.finished(sum("6")+".2") || got.finished("") {
		t.Error("what is only staged is no deployment, and what is not, is one")
	}
	for name, text := range map[string]string{
		"nothing": "", "null": "null", "none": "{}", "a list": "[]", "half": layered()[:300],
		"none booted": strings.Replace(layered(), `"booted": true`, `"booted": false`, 1),
		"two booted":  strings.Replace(layered(), `"booted": false`, `"booted": true`, 1),
		"no checksum": strings.Replace(layered(), sum("6"), "../..", 1), "odd base": strings.Replace(layered(), sum("2"), "-x", 1),
		"odd type": strings.Replace(layered(), `"serial": 1`, `"serial": "1"`, 1),
		"many":     `{"deployments": [` + strings.Repeat(`{"checksum": "`+sum("1")+`"},`, maxDeployments) + `{"checksum": "` + sum("1") + `", "booted": true}]}`,
	} {
		if _, _, err := parseRpmOstree([]byte(text)); err == nil || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v", name, err)
		}
	}
	for text, want := range map[string]string{"": "", "null": "", "[]": "unknown", `[""]`: "unknown", `{"x": 1}`: "unknown", `["upgrade\n"]`: "upgrade ", "7": "unknown"} {
		if got := transaction([]byte(text)); got != want {
			t.Errorf("transaction %s: %q, want %q", text, got, want)
		}
	}
}

func FuzzParseRpmOstree(f *testing.F) {
	f.Add([]byte(layered()))
	f.Add([]byte(`{"deployments":[{"booted":true}],"transaction":[[]]}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		system, _, err := parseRpmOstree(raw)
		if err == nil && !commitForm.MatchString(system.Booted.ID) {
			t.Errorf("%+v is booted", system.Booted)
		}
		if err != nil && strings.ContainsAny(err.Error(), "\n\x00") {
			t.Errorf("not for a person: %q", err)
		}
	})
}

// imageHost is a host that was rolled back, or not, and has another image staged,
// in the JSON of bootc.
func imageHost(queued bool) string {
	entry := func(name, digest string, serial int) string {
		return `{"image": {"image": {"image": "` + name + `", "transport": "registry"}, "version": "9.6", "imageDigest": "` + digest + `"}, "store": "ostreeContainer",
		 "ostree": {"checksum": "c0", "deploySerial": ` + strconv.Itoa(serial) + `}}`
	}
	return `{"apiVersion": "org.containers.bootc/v1", "kind": "BootcHost", "spec": {"image": null}, "status": {"staged": ` + entry("r.example.com/os:2", "sha256:2", 2) +
		`, "booted": ` + entry("r.example.com/os:1", "sha256:1", 1) + `, "rollback": ` + entry("r.example.com/os:0", "sha256:0", 0) +
		`, "rollbackQueued": ` + strconv.FormatBool(queued) + `, "type": "bootcHost"}}`
}

func TestParseBootc(t *testing.T) {
	t.Parallel()
	staged := Deployment{ID: "r.example.com/os:2", Commit: "sha256:2", Key: "c0.2", Version: "9.6", Staged: true}
	old := Deployment{ID: "r.example.com/os:0", Commit: "sha256:0", Key: "c0.0", Version: "9.6"}
	want := System{
		Tool: "bootc", Images: true, Booted: Deployment{ID: "r.example.com/os:1", Commit: "sha256:1", Key: "c0.1", Version: "9.6"},
		Pending: []Deployment{staged}, Fallback: []Deployment{old},
	}
	got, err := parseBootc([]byte(imageHost(false)))
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("%v, system (-want +got):\n%s", err, diff)
	}
	want.Pending, want.Fallback = []Deployment{staged, old}, nil
	if got, err = parseBootc([]byte(imageHost(true))); err != nil || cmp.Diff(want, got) != "" {
		t.Errorf("%v, rolled back, system (-want +got):\n%s", err, cmp.Diff(want, got))
	}
	local := strings.Replace(imageHost(false), `"os:1"`, `"x"`, 1)
	if got, err = parseBootc([]byte(strings.ReplaceAll(local, "registry", "containers-storage"))); err != nil || got.Booted.ID != "containers-storage:r.example.com/os:1" {
		t.Errorf("%v, from a store of its own: %+v", err, got.Booted)
	}
	if _, err := parseBootc([]byte(`{"kind": "BootcHost", "status": {"booted": {"image": null, "incompatible": true}}}`)); !errors.Is(err, errNoImages) {
		t.Errorf("a host that does not run an image: %v", err)
	}
	for _, text := range []string{"", "{}", "[]", `{"kind": "Pod"}`, imageHost(true)[:200], strings.Replace(imageHost(true), `"deploySerial": 1`, `"deploySerial": []`, 1)} {
		if _, err := parseBootc([]byte(text)); err == nil || errors.Is(err, errNoImages) {
			t.Errorf("%.30s: %v", text, err)
		}
	}
}

func FuzzParseBootc(f *testing.F) {
	f.Add([]byte(imageHost(true)))
	f.Add([]byte(`{"kind":"BootcHost","status":{"booted":{"image":{}}}}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		system, err := parseBootc(raw)
		if err == nil && (system.Booted.ID == "" || strings.ContainsAny(system.Booted.ID+system.Booted.Commit, "\n\x00")) {
			t.Errorf("%+v is booted", system.Booted)
		}
	})
}

// program returns a runner that knows one program, a shell script.
func program(t *testing.T, script string) runner {
	t.Helper()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "tool"), "#!/bin/sh\n"+script)
	if err := os.Chmod(filepath.Join(dir, "tool"), 0o700); err != nil {
		t.Fatal(err)
	}
	return runner{command.Runner{Dirs: []string{dir, "/usr/bin", "/bin"}, Env: []string{"https_proxy=http://p"}, Grace: 200 * time.Millisecond}}
}

func TestRun(t *testing.T) {
	t.Parallel()
	out, err := program(t, `echo "$LC_ALL $https_proxy $HOME $* $(pwd)"`).run(t.Context(), time.Minute, "tool", "a b", "-c")
	if err != nil || string(out) != "C.UTF-8 http://p  a b -c /\n" {
		t.Errorf("%q, %v", out, err)
	}
	for script, want := range map[string]string{
		"echo 'error: first' >&2; echo later >&2; exit 3": "exit status 3: error: first",
		"echo one >&2; echo two >&2; exit 1":              "exit status 1: two",
		"printf 'Error: a\\tb\\033[0m\\n' >&2; exit 1":    "exit status 1: Error: a b [0m",
		"exit 1":                          "exit status 1",
		"head -c 5000000 /dev/zero; echo": "it says too much: more than 4194304 bytes",
		"kill -9 $$":                      "signal: killed",
	} {
		if _, err := program(t, script).run(t.Context(), time.Minute, "tool"); err == nil || !strings.HasSuffix(err.Error(), want) {
			t.Errorf("%s: %v", script, err)
		}
	}
	if _, err := program(t, "").run(t.Context(), time.Minute, "another"); !errors.Is(err, command.ErrAbsent) {
		t.Errorf("a program that is not there: %v", err)
	}
	flood := program(t, "yes 'error: x' | head -c 50000000 >&2; exit 1")
	if _, err := flood.run(t.Context(), time.Minute, "tool"); err == nil || len(err.Error()) > 1000 {
		t.Errorf("a flood of complaints: %.100v", err)
	}
}

// TestRunEnds: when it is over, all that the program has started is gone, also
// what ignores an interruption.
func TestRunEnds(t *testing.T) {
	t.Parallel()
	for name, script := range map[string]string{
		"obeys":    "sleep 600 & echo $! >%; wait",
		"ignores":  "trap '' INT TERM; sleep 600 & echo $! >%; wait; sleep 600",
		"leaves":   "sleep 600 >/dev/null 2>&1 & echo $! >%",
		"holds on": "sleep 600 & echo $! >%",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			file := filepath.Join(t.TempDir(), "pid")
			ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
			defer cancel()
			if name == "ignores" {
				cancel()
				ctx = t.Context()
			}
			began := time.Now()
			_, err := program(t, strings.ReplaceAll(script, "%", file)).run(ctx, 500*time.Millisecond, "tool")
			if took := time.Since(began); took > 20*time.Second {
				t.Errorf("it took %s", took)
			}
			if name != "leaves" && err == nil {
				t.Error("it ended well")
			}
			pid, err := strconv.Atoi(strings.TrimSpace(read(t, file)))
			if err != nil {
				t.Fatal(err)
			}
			for end := time.Now().Add(10 * time.Second); alive(pid); time.Sleep(10 * time.Millisecond) {
				if time.Now().After(end) {
					t.Fatal("what it has started still runs")
				}
			}
		})
	}
}

// alive reports whether the process is there and no zombie.
func alive(pid int) bool {
	raw, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return false
	}
	_, rest, _ := strings.Cut(string(raw), ") ")
	return !strings.HasPrefix(rest, "Z") && syscall.Kill(pid, 0) == nil
}
