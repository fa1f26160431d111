package osupdate

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// TestErrorsOfTheTool are errors that people have reported of rpm-ostree. None of
// them is the end of the update.
func TestErrorsOfTheTool(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		how     string
		problem string // empty: it is over before anybody sees it
	}{
		"no network":       {"error: While pulling fedora/stable/x86_64/iot: While fetching https://x/config: [7] Couldn't connect to server", "[7] Couldn't connect"},
		"disk full":        {"error: Writing content object: min-free-space-percent '3%' would be exceeded, at least 1.2 GB requested", "min-free-space-percent"},
		"daemon crashed":   {"error: Bus owner changed, aborting. This likely means the daemon crashed; check logs with `journalctl -xe`.", "Bus owner changed"},
		"not alone":        {"error: Transaction in progress: upgrade --reboot", "Transaction in progress"},
		"another driver":   {"error: Updates and deployments are driven by Zincati (zincati.service)", "driven by Zincati"},
		"bad signature":    {"error: Commit 1234: GPG: Signature made by unknown key", "Signature made by unknown key"},
		"nothing happened": {"no change", "the next boot does not take it"},
		"client killed":    {"killed", "signal: killed"},
		"killed, but done": {"killed, and done", "signal: killed"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inBubble(t, func(_ *testing.T, x *rig, c commits) {
				x.change(func(m *machine) { m.Deploy = []string{tt.how} })
				x.want(c.new, true)
				x.run(10 * time.Second)
				x.problem("at first", tt.problem)
				x.expect("at first", c.old, "")
				x.run(5 * time.Minute)
				x.expect("later", c.new, "succeeded")
				x.problem("later", "")
			})
		})
	}
}

func TestStatusThatMakesNoSense(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, x *rig, c commits) {
		x.change(func(m *machine) { m.Status = []string{"too much", "{", `{"deployments": []}`} })
		x.want(c.new, true)
		for _, problem := range []string{"more than", "not the JSON", "no deployment that is booted"} {
			x.run(5 * time.Second)
			for x.r.Status().Problem == "" || !strings.Contains(x.r.Status().Problem, problem) {
				x.run(5 * time.Second)
				if time.Now().Year() > 2000 {
					t.Fatalf("never %q", problem)
				}
			}
		}
		x.run(10 * time.Minute)
		x.expect("later", c.new, "succeeded")
	})
}

func TestSomebodyElsesTransaction(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, x *rig, c commits) {
		x.change(func(m *machine) { m.Transaction = "upgrade" })
		x.want(c.new, true)
		x.run(time.Hour)
		x.problem("while somebody else is at it", "")
		if note := x.r.Status().Note; !strings.Contains(note, "somebody else who changes the operating system: upgrade") {
			t.Errorf("note %q", note)
		}
		x.change(func(m *machine) { m.Transaction = "" })
		x.run(2 * time.Minute)
		x.expect("afterwards", c.new, "succeeded")
	})
}

// TestAbsentCommit: nothing is touched for a commit that is not there.
func TestAbsentCommit(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, x *rig, c commits) {
		remote := filepath.Join(x.root, remotesDir, "edge.conf")
		before := read(t, remote)
		x.configure(&protocol.OSInformation{CommitID: strings.Repeat("0", 64), HostedObjectsURL: x.url + "/.", AutomaticallyUpgrade: true})
		x.run(time.Hour)
		x.expect("absent", c.old, "")
		x.problem("absent", "look up operating system 0000")
		if got := read(t, remote); got != before {
			t.Errorf("the remote was changed:\n%s", got)
		}
		if m := x.machine(); len(m.Deployments) != 1 || len(x.done()) > 0 {
			t.Errorf("something was done: %v", x.done())
		}
		left, err := os.ReadDir(x.path("scratch"))
		if err != nil || len(left) > 0 {
			t.Errorf("looking up left %v, %v", left, err)
		}
		x.want(c.new, true)
		x.run(2 * time.Minute)
		x.expect("corrected", c.new, "succeeded")
	})
}

// TestHostileConfiguration: nothing in it becomes an argument or a line of a
// file, and what ran runs on.
func TestHostileConfiguration(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, x *rig, c commits) {
		remote := filepath.Join(x.root, remotesDir, "edge.conf")
		before := read(t, remote)
		for _, os := range []protocol.OSInformation{
			{CommitID: "--help"},
			{CommitID: c.new[:63]},
			{CommitID: strings.ToUpper(c.new)},
			{CommitID: c.new + "\n"},
			{CommitID: "../" + c.new[3:]},
			{CommitID: c.new, HostedObjectsURL: "--url"},
			{CommitID: c.new, HostedObjectsURL: "https://x/\nproxy=http://evil/"},
			{CommitID: c.new, HostedObjectsURL: "https://user:secret@x/repo"},
			{CommitID: c.new, HostedObjectsURL: "ftp://x/repo"},
			{CommitID: c.new, HostedObjectsURL: "https:///repo"},
			{CommitID: c.new, HostedObjectsURL: "file://host/repo"},
			{CommitID: c.new, HostedObjectsURL: "repo"},
			{CommitID: c.new, HostedObjectsURL: "https://x/" + strings.Repeat("a", maxURL)},
			{HostedObjectsURL: "https://x/[remote \"edge\"]"},
			{HostedObjectsURL: "https://x/%zz"},
			{Image: "registry.example.com/os:1"},
		} {
			os.AutomaticallyUpgrade = true
			x.configure(&os)
			x.run(10 * time.Second)
			problem := x.r.Status().Problem
			if !strings.HasPrefix(problem, "operating system is not updated: ") || strings.Contains(problem, "secret") || strings.ContainsAny(problem, "\n") {
				t.Errorf("%+v: problem %q", os, problem)
			}
			if s := x.r.Status(); s.Next != "" || read(t, remote) != before {
				t.Errorf("%+v: something was done: %+v", os, s)
			}
		}
	})
}

func TestNoRoom(t *testing.T) {
	t.Parallel()
	inBubble(t, func(_ *testing.T, x *rig, c commits) {
		x.r.free = func(string) (uint64, error) { return 1<<30 - 1, nil }
		x.want(c.new, true)
		x.run(time.Hour)
		x.expect("full", c.old, "")
		x.problem("full", "has 1023 MiB free, and needs 1024 MiB")
		x.restart()
		x.run(2 * time.Minute)
		x.expect("room", c.new, "succeeded")
	})
}

func TestFreeBytes(t *testing.T) {
	t.Parallel()
	if n, err := freeBytes(t.TempDir()); err != nil || n == 0 {
		t.Errorf("%d bytes, %v", n, err)
	}
	if _, err := freeBytes("/nowhere/at/all"); err == nil {
		t.Error("there is room nowhere")
	}
}

// TestStateCannotBeWritten is a full disk below /var: nothing is begun that would
// be forgotten.
func TestStateCannotBeWritten(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, x *rig, c commits) {
		save := x.r.save
		full := ""
		x.r.save = func(rec record) error {
			if string(rec.Phase) == full {
				return errors.New("no space left on device")
			}
			return save(rec)
		}
		for _, phase := range []Phase{PhaseLookedUp, PhaseStaging, PhaseStaged, PhaseDraining, PhaseRebooting} {
			full = string(phase)
			x.want(c.new, true)
			x.run(10 * time.Second)
			x.problem(full, "no space left on device")
			x.expect(full, c.old, "")
			if n := len(x.done()); n > 0 && x.done()[n-1] != "resume" {
				t.Errorf("%s: what was done before the reboot is not undone: %v", phase, x.done())
			}
			if phase == PhaseLookedUp || phase == PhaseStaging {
				if len(x.machine().Deployments) != 1 {
					t.Errorf("%s: something was staged", phase)
				}
			}
			full = ""
			x.want(c.old, true)
			x.run(10 * time.Second)
		}
		x.want(c.new, true)
		x.run(10 * time.Minute)
		x.expect("room again", c.new, "succeeded")
	})
}

func TestDamagedState(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"", "{}", "\x00\x00", strings.Repeat("[", 1000), `{"kind":"os-update","version":9}`} {
		path := filepath.Join(t.TempDir(), "os-update.json")
		write(t, path, text)
		rec, err := loadRecord(path, slog.New(slog.DiscardHandler))
		if err != nil || rec != (record{Phase: PhaseIdle}) {
			t.Errorf("%.20q: %+v, %v", text, rec, err)
		}
		if aside, err := filepath.Glob(path + ".corrupt-*"); err != nil || len(aside) != 1 {
			t.Errorf("%.20q: set aside: %v, %v", text, aside, err)
		}
	}
	for _, rec := range []record{{}, {Phase: "x"}, {Phase: PhaseStaged}, {Phase: PhaseDone}, {Phase: PhaseRebooting, ID: "a", Boot: "b", Reboots: -1}} {
		if rec.sane() {
			t.Errorf("%+v makes sense", rec)
		}
	}
}

// TestTasksThatFail: neither a task that fails nor one that hangs keeps the
// machine from being rebooted.
func TestTasksThatFail(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, x *rig, c commits) {
		x.stop()
		var took time.Duration
		x.cfg.Before = []Task{
			{"fails", time.Minute, func(context.Context) error { return errors.New("the control plane is away") }},
			{"hangs", 90 * time.Second, func(ctx context.Context) error {
				began := time.Now()
				<-ctx.Done()
				took = time.Since(began)
				return ctx.Err()
			}},
			x.task("last"),
		}
		x.restart()
		x.want(c.new, true)
		x.run(4 * time.Minute)
		x.expect("all the same", c.new, "succeeded")
		if diff := cmp.Diff([]string{"last", "resume"}, x.done()); diff != "" || took != 90*time.Second {
			t.Errorf("what was done after %s (-want +got):\n%s", took, diff)
		}
	})
}

// TestCalledOff: the configuration changes while the device is made ready for a
// reboot.
func TestCalledOff(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, x *rig, c commits) {
		x.stop()
		x.cfg.Before = []Task{x.task("workloads"), {"slow", time.Hour, func(ctx context.Context) error {
			<-ctx.Done()
			return ctx.Err()
		}}}
		x.restart()
		x.want(c.new, true)
		x.run(time.Minute)
		if s := x.r.Status(); s.Phase != PhaseDraining || !strings.Contains(s.Note, "is going to be rebooted") {
			t.Errorf("status %+v", s)
		}
		x.want(c.new, false) // held back
		x.run(10 * time.Second)
		if diff := cmp.Diff([]string{"workloads", "resume"}, x.done()); diff != "" || x.r.Status().Next != c.new {
			t.Errorf("called off (-want +got):\n%s%+v", diff, x.r.Status())
		}
		x.want(c.new, true)
		x.run(10 * time.Second)
		x.restart() // the agent is killed
		x.run(10 * time.Second)
		if diff := cmp.Diff([]string{"workloads", "resume", "workloads", "resume", "workloads"}, x.done()); diff != "" {
			t.Errorf("killed (-want +got):\n%s", diff)
		}
		x.configure(nil)
		x.run(10 * time.Second)
		x.expect("wanted no more", c.old, "")
		if len(x.machine().Deployments) != 1 {
			t.Error("it is still staged")
		}
	})
}

func TestRemovedBeforeTheReboot(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, x *rig, c commits) {
		x.stop()
		first := true
		x.cfg.Before = []Task{{"meddling", time.Minute, func(context.Context) error {
			if first {
				x.change(func(m *machine) { m.unstage() })
			}
			first = false
			return nil
		}}}
		x.restart()
		x.want(c.new, true)
		x.run(10 * time.Second)
		x.problem("removed", "somebody has removed it")
		if diff := cmp.Diff([]string{"resume"}, x.done()); diff != "" {
			t.Errorf("undone (-want +got):\n%s", diff)
		}
		x.run(5 * time.Minute)
		x.expect("again", c.new, "succeeded")
	})
}

func TestHold(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, x *rig, c commits) {
		x.stop()
		held := "somebody works at the machine"
		x.cfg.Hold = func() string {
			x.mu.Lock()
			defer x.mu.Unlock()
			return held
		}
		x.restart()
		x.want(c.new, true)
		x.run(time.Hour)
		if s := x.r.Status(); s.Next != c.new || !strings.Contains(s.Note, held) || s.Problem != "" {
			t.Errorf("status %+v", s)
		}
		x.mu.Lock()
		held = ""
		x.mu.Unlock()
		x.run(3 * time.Minute)
		x.expect("released", c.new, "succeeded")
	})
}

func TestDeviceThatLeaves(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, x *rig, c commits) {
		x.want(c.new, false)
		x.run(time.Minute)
		if _, err := x.store.Leave(); err != nil {
			t.Fatal(err)
		}
		x.run(time.Minute)
		if x.r.Status().Next != c.new {
			t.Error("something was done before it was asked for")
		}
		if err := x.r.Clear(t.Context()); err != nil {
			t.Error(err)
		}
		if len(x.machine().Deployments) != 1 {
			t.Error("it is still staged")
		}
		if _, err := os.Stat(x.path("os-update.json")); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the state is still there: %v", err)
		}
		x.run(time.Hour)
		x.expect("left", c.old, "")
		if err := x.r.Clear(t.Context()); err != nil {
			t.Errorf("a second time: %v", err)
		}
	})
}

// TestNothingSaidYet: a device that has lost its configuration, or never had one,
// leaves what is staged as it is.
func TestNothingSaidYet(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, x *rig, c commits) {
		x.want(c.new, false)
		x.run(time.Minute)
		if err := os.Remove(x.path("desired.json")); err != nil {
			t.Fatal(err)
		}
		x.restart()
		x.run(2 * time.Hour)
		x.expect("nothing said", c.old, "")
		x.problem("nothing said", "")
		if s := x.r.Status(); s.Next != c.new {
			t.Errorf("status %+v", s)
		}
	})
}

func TestOrdinaryHost(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, x *rig, c commits) {
		for _, gone := range []string{"run/ostree-booted", "usr/bin/rpm-ostree"} {
			if gone == "usr/bin/rpm-ostree" {
				write(t, filepath.Join(x.root, "run/ostree-booted"), "")
			}
			if err := os.Remove(filepath.Join(x.root, gone)); err != nil {
				t.Fatal(err)
			}
			x.configure(nil)
			x.restart()
			x.run(time.Hour)
			x.problem("nothing is wanted", "")
			if x.r.Upgrade() != nil {
				t.Errorf("it reports %+v", *x.r.Upgrade())
			}
			x.want(c.new, true)
			x.run(time.Hour)
			x.problem("something is wanted", "neither rpm-ostree nor bootc")
			if err := x.r.Clear(t.Context()); err != nil {
				t.Error(err)
			}
		}
	})
}

func TestConfig(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, x *rig, _ commits) {
		for name, change := range map[string]func(*Config){
			"no state":      func(c *Config) { c.Desired = nil },
			"no path":       func(c *Config) { c.Path = "" },
			"no log":        func(c *Config) { c.Log = nil },
			"no reboot":     func(c *Config) { c.Reboot = nil },
			"negative":      func(c *Config) { c.Grace = -1 },
			"endless task":  func(c *Config) { c.Before = []Task{{Name: "x", Run: c.Reboot}} },
			"relative path": func(c *Config) { c.GreenbootDir = "x" },
		} {
			cfg := x.r.cfg
			change(&cfg)
			if _, err := New(cfg); err == nil {
				t.Errorf("%s: accepted", name)
			}
		}
		if _, err := NewHost(HostConfig{Scratch: "x"}); err == nil {
			t.Error("a relative folder is accepted")
		}
	})
}
