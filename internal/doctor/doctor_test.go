package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"testing/fstest"
	"time"
)

// noon is the time at which the machine of these tests is.
func noon() time.Time { return time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC) }

// sound is a machine at which all is well, and what is to be looked at there.
func sound() (Host, Subject, fstest.MapFS) {
	files := fstest.MapFS{
		"etc/subuid":                             {Data: []byte("other:1:2\nflotta:524288:65536\n")},
		"etc/subgid":                             {Data: []byte("1001:524288:65536\n")},
		"etc/yggdrasil/workers/device.toml":      {Data: []byte("exec = \"/usr/bin/flotta-agent\"\nprotocol = \"grpc\"\n")},
		"usr/bin/flotta-agent":                   {Mode: 0o755},
		"proc/sys/fs/inotify/max_user_watches":   {Data: []byte("1000\n")},
		"proc/sys/fs/inotify/max_user_instances": {Data: []byte("128\n")},
		"sys/fs/cgroup/cgroup.controllers":       {Data: []byte("cpu io memory pids\n")},
		"sys/fs/cgroup/user.slice/user-1001.slice/user@1001.service/cgroup.controllers": {Data: []byte("cpu memory pids\n")},
		"sys/fs/selinux/enforce":                             {Data: []byte("1")},
		"etc/selinux/config":                                 {Data: []byte("SELINUX=enforcing\nSELINUXTYPE=mls\n")},
		"etc/selinux/mls/contexts/files/file_contexts":       {Data: []byte("/var/.* system_u:object_r:var_t:s0\n")},
		"etc/selinux/mls/contexts/files/file_contexts.local": {Data: []byte("/state/volumes(/.*)? system_u:object_r:container_file_t:s0\n")},
		"var/lib/systemd/linger/flotta":                      {},
		"state/volumes/web/data/file":                        {},
	}
	h := Host{
		Files:  files,
		Lookup: func(context.Context, string) ([]string, error) { return []string{"192.0.2.1"}, nil },
		Dial: func(context.Context, string, string) (net.Conn, error) {
			client, server := net.Pipe()
			go func() { _ = server.Close() }()
			return client, nil
		},
		Command: func(_ context.Context, name string, args ...string) (string, error) {
			switch line := name + " " + strings.Join(args, " "); {
			case strings.HasSuffix(line, "user@1001.service"):
				return "ActiveState=active\nSubState=running\n", nil
			case strings.HasSuffix(line, "yggd.service"):
				return "LoadState=loaded\nActiveState=active\nSubState=running\nNRestarts=0\nUnitFileState=enabled\n", nil
			case name == "nft":
				return "table ip filter\ntable inet flotta\n", nil
			}
			return "", fmt.Errorf("unexpected: %s %v", name, args)
		},
		Room: func(string) (Room, error) {
			return Room{Total: 100 << 30, Free: 50 << 30, Inodes: 100, FreeInodes: 50}, nil
		},
		Label: func(string) (string, error) { return "system_u:object_r:container_file_t:s0", nil },
		Clock: func() (Clock, error) { return Clock{Now: noon(), Synchronised: true, Error: 3 * time.Millisecond}, nil },
	}
	return h, Subject{
		User: "flotta", UID: 1001, StateDir: "/state", ContainerStore: "/store", Service: "yggd.service", WorkerFile: "/etc/yggdrasil/workers/device.toml",
		PodmanSocket: "/run/podman.sock",
	}, files
}

// only makes the one check, by its name, at the machine as it was changed.
func only(t *testing.T, name string, change func(*Host, *Subject, fstest.MapFS)) []Finding {
	t.Helper()
	h, s, files := sound()
	if change != nil {
		change(&h, &s, files)
	}
	d := &doctor{Host: h, Subject: s, wait: checkTime}
	var out []Finding
	for _, c := range d.checks() {
		if c.name == name {
			out = append(out, c.run(t.Context())...)
		}
	}
	if len(out) == 0 {
		t.Fatalf("no check %s", name)
	}
	return out
}

// Each thing that can be wrong is found, at its level, with what to do; and
// nothing is found where nothing is wrong.
func TestFindings(t *testing.T) {
	t.Parallel()
	answering := func(command, output string, err error) func(*Host, *Subject, fstest.MapFS) {
		return func(h *Host, _ *Subject, _ fstest.MapFS) {
			before := h.Command
			h.Command = func(ctx context.Context, name string, args ...string) (string, error) {
				if strings.Contains(name+" "+strings.Join(args, " "), command) {
					return output, err
				}
				return before(ctx, name, args...)
			}
		}
	}
	without := func(names ...string) func(*Host, *Subject, fstest.MapFS) {
		return func(_ *Host, _ *Subject, files fstest.MapFS) {
			for _, name := range names {
				delete(files, name)
			}
		}
	}
	with := func(name, text string) func(*Host, *Subject, fstest.MapFS) {
		return func(_ *Host, _ *Subject, files fstest.MapFS) { files[name] = &fstest.MapFile{Data: []byte(text)} }
	}
	at := func(c Clock, err error) func(*Host, *Subject, fstest.MapFS) {
		return func(h *Host, _ *Subject, _ fstest.MapFS) { h.Clock = func() (Clock, error) { return c, err } }
	}
	having := func(r Room, err error) func(*Host, *Subject, fstest.MapFS) {
		return func(h *Host, _ *Subject, _ fstest.MapFS) { h.Room = func(string) (Room, error) { return r, err } }
	}
	labelled := func(mode, text string, err error) func(*Host, *Subject, fstest.MapFS) {
		return func(h *Host, _ *Subject, files fstest.MapFS) {
			files["sys/fs/selinux/enforce"] = &fstest.MapFile{Data: []byte(mode)}
			h.Label = func(string) (string, error) { return text, err }
		}
	}
	oneWrong := func(mode string) func(*Host, *Subject, fstest.MapFS) {
		return func(h *Host, _ *Subject, files fstest.MapFS) {
			files["sys/fs/selinux/enforce"] = &fstest.MapFile{Data: []byte(mode)}
			h.Label = func(path string) (string, error) {
				if path == "/state/volumes/web" {
					return "system_u:object_r:var_t:s0", nil
				}
				return "system_u:object_r:container_file_t:s0", nil
			}
		}
	}
	rootful := func(_ *Host, s *Subject, _ fstest.MapFS) { s.Root = true }
	const delegated = "sys/fs/cgroup/user.slice/user-1001.slice/user@1001.service/cgroup.controllers"
	for _, tt := range []struct {
		check  string
		name   string
		change func(*Host, *Subject, fstest.MapFS)
		level  Level
		found  string // is in what was found
		advice string // is in the advice
	}{
		{"settings", "well", nil, OK, "can be read", ""},
		{"settings", "broken", func(_ *Host, s *Subject, _ fstest.MapFS) {
			s.Trouble = []Trouble{{Path: "/etc/flotta/agent.toml", Problem: "line 3: unknown setting"}}
		}, Fail, "line 3", "restore"},

		{"clock", "well", nil, OK, "2026-06-01 12:00:00 UTC, synchronised to within 3ms", ""},
		{"clock", "1970", at(Clock{Now: time.Unix(100, 0), Synchronised: true}, nil), Fail, "in the past", "timedatectl"},
		{"clock", "far ahead", at(Clock{Now: time.Date(2107, 1, 1, 0, 0, 0, 0, time.UTC)}, nil), Fail, "future", "timedatectl"},
		{"clock", "drifting", at(Clock{Now: noon()}, nil), Warn, "not synchronised", "chronyc"},
		{"clock", "unknown", at(Clock{Now: noon()}, syscall.EPERM), Warn, "not known", "timedatectl"},

		{"service", "well", nil, OK, "active", ""},
		{"service", "not there", answering("yggd.service", "LoadState=not-found\nActiveState=inactive\n", nil), Fail, "no such unit", "install yggdrasil"},
		{"service", "failed", answering("yggd.service", "LoadState=loaded\nActiveState=failed\nSubState=failed\n", nil), Fail, "failed", "journalctl -u yggd"},
		{"service", "disabled", answering("yggd.service", "LoadState=loaded\nActiveState=active\nUnitFileState=disabled\n", nil), Warn, "not enabled", "systemctl enable yggd"},
		{"service", "restarting", answering("yggd.service", "LoadState=loaded\nActiveState=active\nNRestarts=4\n", nil), Warn, "restarted 4 times", "journalctl"},
		{"service", "no systemd", answering("yggd.service", "", exec.ErrNotFound), Fail, "not known", "systemctl status yggd"},
		{"service", "no worker", without("etc/yggdrasil/workers/device.toml"), Fail, "does not know the agent", "install the package"},
		{"service", "empty worker", with("etc/yggdrasil/workers/device.toml", "protocol = 'grpc'\n"), Fail, "names no program", "exec ="},
		{"service", "no agent", without("usr/bin/flotta-agent"), Fail, "not there: /usr/bin/flotta-agent", "install the package"},
		{"service", "no program", with("usr/bin/flotta-agent", "x"), Fail, "no program that can be started", "chmod"},

		{"systemd", "well", nil, OK, "user@1001.service is active", ""},
		{"systemd", "no manager", answering("user@1001", "ActiveState=inactive\nSubState=dead\n", nil), Fail, "inactive (dead)", "loginctl enable-linger flotta"},
		{"systemd", "none", answering("user@1001", "", fmt.Errorf("find: %w", exec.ErrNotFound)), Fail, "no systemctl", "needs systemd"},
		{"systemd", "not booted", answering("user@1001", "", errors.New("run systemctl: exit status 1: not been booted with systemd")), Fail, "not been booted", "booted with systemd"},
		{"systemd", "of the system, slow", func(h *Host, s *Subject, f fstest.MapFS) {
			rootful(h, s, f)
			answering("multi-user.target", "ActiveState=inactive\nSubState=dead\n", nil)(h, s, f)
		}, Fail, "multi-user.target is inactive", "list-jobs"},

		{"lingering", "well", nil, OK, "lingers", ""},
		{"lingering", "not", without("var/lib/systemd/linger/flotta"), Fail, "does not linger", "loginctl enable-linger flotta"},
		{"lingering", "root", rootful, Skip, "system's", ""},

		{"cgroups", "well", nil, OK, "cpu memory pids delegated", ""},
		{"cgroups", "v1", without("sys/fs/cgroup/cgroup.controllers"), Fail, "v1", "unified_cgroup_hierarchy"},
		{"cgroups", "not delegated", with(delegated, "memory pids"), Warn, "not delegated to flotta: cpu", "Delegate="},
		{"cgroups", "no manager", without(delegated), Warn, "not known", "systemd"},
		{"cgroups", "root", func(h *Host, s *Subject, f fstest.MapFS) { rootful(h, s, f); without(delegated)(h, s, f) }, OK, "v2", ""},

		{"subids", "well", nil, OK, "enough", ""},
		{"subids", "none", without("etc/subgid"), Fail, "0 subordinate ids", "usermod"},
		{"subids", "few", with("etc/subuid", "flotta:1:1000\nflotta:x:nonsense\n::\n"), Fail, "1000 subordinate ids", "usermod"},
		{"subids", "root", rootful, Skip, "root", ""},

		{"selinux", "well", nil, OK, "enforcing", ""},
		{"selinux", "without", without("sys/fs/selinux/enforce"), Skip, "without SELinux", ""},
		{"selinux", "wrong label", labelled("1", "unconfined_u:object_r:var_t:s0", nil), Fail, "var_t", "restorecon -R /state/volumes"},
		{"selinux", "permissive", labelled("0", "unconfined_u:object_r:var_t:s0", nil), Warn, "permissive", "semanage"},
		{"selinux", "no label", labelled("1", "", syscall.ENODATA), Warn, "not known", "restorecon"},
		{"selinux", "a wrong volume", oneWrong("1"), Fail, "/state/volumes/web is labelled system_u:object_r:var_t:s0", "restorecon -R /state/volumes"},
		{"selinux", "a wrong volume, permissive", oneWrong("0"), Warn, "/state/volumes/web is", "start the workload anew"},
		{"selinux", "no policy", without("etc/selinux/mls/contexts/files/file_contexts.local"), Warn, "no policy knows", "flotta-agent-selinux"},
		{"selinux", "a policy of nobody's", with("etc/selinux/config", "SELINUXTYPE=../../x\n"), OK, "enforcing", ""},
		{"selinux", "no volumes", labelled("1", "", fs.ErrNotExist), OK, "no volumes yet", ""},

		{"disk", "well", nil, OK, "50% of 100.0 GiB is free, 50% of the inodes", ""},
		{"disk", "filling", having(Room{Total: 100, Free: 9}, nil), Warn, "9%", "du -xh --max-depth=2 /state"},
		{"disk", "full", having(Room{Total: 100, Free: 1}, nil), Fail, "1%", "du -xh"},
		{"disk", "no inodes", having(Room{Total: 100, Free: 90, Inodes: 1000, FreeInodes: 1}, nil), Fail, "0% of the inodes", "du"},
		{"disk", "not there", having(Room{}, fs.ErrNotExist), Warn, "no such folder", "not mounted"},
		{"disk", "broken", having(Room{}, syscall.EIO), Fail, "input/output error", "dmesg"},
		{"disk", "not counted", having(Room{}, nil), OK, "does not count", ""},

		{"inotify", "well", nil, OK, "volumes have 3 folders, 1000 can be watched", ""},
		{"inotify", "too few", with("proc/sys/fs/inotify/max_user_watches", "2"), Fail, "3 folders, 2", "fs.inotify.max_user_watches = 8"},
		{"inotify", "hardly", with("proc/sys/fs/inotify/max_user_watches", "3"), Warn, "3 folders, 3", "max_user_watches"},
		{"inotify", "few instances", with("proc/sys/fs/inotify/max_user_instances", "4"), Warn, "only 4", "max_user_instances = 128"},
		{"inotify", "unknown", with("proc/sys/fs/inotify/max_user_watches", "many"), Warn, "not known", "15 minutes"},
		{"inotify", "no volumes", without("state/volumes/web/data/file"), OK, "0 folders", ""},

		{"nftables", "well", nil, OK, "table is there", ""},
		{"nftables", "no table", answering("nft", "table ip filter\n", nil), OK, "has no table", ""},
		{"nftables", "none", answering("nft", "", exec.ErrNotFound), Warn, "no nft", "install nftables"},
		{"nftables", "not root", answering("nft", "", errors.New("Operation not permitted")), Warn, "not permitted", "as root"},
	} {
		t.Run(tt.check+"/"+tt.name, func(t *testing.T) {
			t.Parallel()
			found := only(t, tt.check, tt.change)
			worst := found[0]
			for _, f := range found {
				if Report.worst(Report{Findings: []Finding{f}}) != OK || worst.Level == OK && f.Level == Skip {
					worst = f
					break
				}
			}
			if worst.Level != tt.level || !strings.Contains(worst.Found, tt.found) || !strings.Contains(worst.Advice, tt.advice) {
				t.Errorf("found %+v\nwant %s, %q, %q", found, tt.level, tt.found, tt.advice)
			}
			for _, f := range found {
				if (f.Advice == "") != (f.Level == OK || f.Level == Skip) {
					t.Errorf("level %s and advice %q", f.Level, f.Advice)
				}
			}
		})
	}
}

// A check that hangs costs its own finding, and keeps nobody waiting for longer
// than it may.
func TestAHangingCheck(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	defer close(release)
	d := &doctor{wait: 50 * time.Millisecond}
	r := d.examine(t.Context(), []check{
		{"hangs", func(context.Context) []Finding { <-release; return []Finding{ok("", "late")} }},
		{"heeds", func(ctx context.Context) []Finding { <-ctx.Done(); return []Finding{warn("", "slow", "wait")} }},
		{"well", func(context.Context) []Finding { return []Finding{ok("", "at once")} }},
	})
	if len(r.Findings) != 3 || r.Level != Fail || r.Count(Fail) != 1 || r.Count(Warn) != 1 || r.Count(OK) != 1 {
		t.Fatalf("report: %+v", r)
	}
	if f := r.Findings[0]; f.Check != "hangs" || !strings.Contains(f.Found, "no answer within 50ms") {
		t.Errorf("finding: %+v", f)
	}
	if f := r.Findings[1]; f.Check != "heeds" || f.Found != "slow" {
		t.Errorf("finding: %+v", f)
	}
}

// The order of findings is that of the checks, and levels are counted.
func TestExamine(t *testing.T) {
	t.Parallel()
	h, s, _ := sound()
	s.Endpoints = []Endpoint{{Name: "a", Network: "tcp", Address: "192.0.2.1:1"}, {Name: "b", Network: "udp", Address: "b:2"}}
	r := Examine(t.Context(), h, s)
	var names []string
	for _, f := range r.Findings {
		names = append(names, f.Check)
	}
	want := "settings clock certificate endpoint endpoint service service podman systemd lingering cgroups subids selinux disk disk inotify nftables"
	if got := strings.Join(names, " "); got != want {
		t.Errorf("checks: %s\nwant:   %s", got, want)
	}
	if r.Level != Fail || r.Time.IsZero() { // no certificate, and no Podman that answers
		t.Errorf("level %s at %s", r.Level, r.Time)
	}
	for _, f := range r.Findings {
		if f.Level == Fail && f.Check != "certificate" && f.Check != "podman" {
			t.Errorf("found %+v", f)
		}
	}
}
