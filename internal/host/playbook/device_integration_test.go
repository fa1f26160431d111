//go:build integration

package playbook

import (
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/project-flotta/flotta-agent/pkg/protocol"
	"github.com/project-flotta/flotta-agent/test/device"
)

const (
	listPath   = "/etc/test-list.json"
	reportPath = "/var/local/test-report"
	// agentUnit is a life of the agent. What it has started is not its own.
	agentUnit = `[Service]
Environment='` + lifeEnv + `={"List":"` + listPath + `","Report":"` + reportPath + `"}'
ExecStart=/usr/bin/flotta-agent
Restart=no
`
	// limits are small enough to run into. Where systemd on a device is not given
	// the controllers, which is so where they are of version 1, the unit's processes
	// get into a group with the limit by hand.
	limits = `[Service]
MemoryMax=200M
ExecStart=
ExecStart=/bin/sh -c 'g=/sys/fs/cgroup/memory/playbooks; if [ -d /sys/fs/cgroup/memory ]; then mkdir -p $g && echo 200M >$g/memory.limit_in_bytes && echo $$$$ >$g/cgroup.procs; fi; exec /usr/bin/flotta-agent playbook-run ` + DefaultDir + `/%i'
`
)

// booted is a device with the shipped unit, a program that does in it what the
// agent's does, and a life of the agent.
type booted struct {
	t *testing.T
	d *device.Device
}

func newBooted(t *testing.T) booted {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cfg := device.Config{Files: map[string]device.File{
		"/usr/bin/flotta-agent":                                      {Source: self, Mode: 0o755},
		"/etc/systemd/system/test-life.service":                      {Content: []byte(agentUnit)},
		"/etc/systemd/system/flotta-playbook@.service.d/limits.conf": {Content: []byte(limits)},
		// Starts at each boot.
		"/etc/systemd/system/multi-user.target.wants/test-life.service": {Link: "../test-life.service"},
	}}
	if _, err := os.Stat("/sys/fs/cgroup/memory"); err == nil {
		cfg.Cgroup = device.CgroupV1 // with the controllers
	}
	return booted{t, device.New(t, cfg)}
}

// run runs a command on the device that has to succeed.
func (b booted) run(args ...string) string {
	b.t.Helper()
	r, err := b.d.Run(b.t.Context(), args...)
	if err != nil {
		b.t.Fatal(err)
	}
	return strings.TrimSpace(r.Stdout)
}

func (b booted) list(entries ...protocol.PlaybookExecution) {
	b.t.Helper()
	data, err := json.Marshal(entries)
	if err != nil {
		b.t.Fatal(err)
	}
	if _, err := b.d.RunInput(b.t.Context(), "root", strings.NewReader(string(data)), "sh", "-c", "cat >"+listPath+".new && mv "+listPath+".new "+listPath); err != nil {
		b.t.Fatal(err)
	}
}

// reports are all that the lives have reported of a playbook, without
// repetitions.
func (b booted) reports(name string) []protocol.PlaybookExecutionStatus {
	b.t.Helper()
	var out []protocol.PlaybookExecutionStatus
	for line := range strings.Lines(b.run("cat", reportPath)) {
		var said reported
		if json.Unmarshal([]byte(line), &said) != nil {
			continue // a life was killed here
		}
		for _, s := range said.Statuses {
			if s.Name == name && (len(out) == 0 || s != out[len(out)-1]) {
				out = append(out, s)
			}
		}
	}
	return out
}

// until waits for a state of a playbook.
func (b booted) until(name, state string) protocol.PlaybookExecutionStatus {
	b.t.Helper()
	for end := time.Now().Add(2 * time.Minute); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
		all := b.reports(name)
		if len(all) > 0 && all[len(all)-1].Status == state {
			return all[len(all)-1]
		}
	}
	b.t.Fatalf("%s does not come to %s: %+v\n%s", name, state, b.reports(name), b.run("systemctl", "list-units", "--all", "flotta-playbook@*"))
	return protocol.PlaybookExecutionStatus{}
}

func (b booted) want(name, reason string, say ...string) {
	b.t.Helper()
	state := protocol.PlaybookCompletedWithError
	if reason == "" {
		state = protocol.PlaybookSuccessfullyCompleted
	}
	s := b.until(name, state)
	if s.Reason != reason {
		b.t.Errorf("%s: %+v, want reason %q", name, s, reason)
	}
	for _, text := range say {
		if !strings.Contains(s.Message, text) {
			b.t.Errorf("%s: message %q does not say %q", name, s.Message, text)
		}
	}
}

func (b booted) states(name string) string {
	b.t.Helper()
	var out []string
	for _, s := range b.reports(name) {
		if len(out) == 0 || out[len(out)-1] != s.Status {
			out = append(out, s.Status)
		}
	}
	return strings.Join(out, " ")
}

func (b booted) count(path string) string { return b.run("sh", "-c", "wc -l <"+path) }

func task(name string, change func(*protocol.PlaybookExecution), tasks ...string) protocol.PlaybookExecution {
	e := protocol.PlaybookExecution{Name: name, AnsiblePlaybookString: play(tasks...)}
	if change != nil {
		change(&e)
	}
	return e
}

// TestDevice takes a booted device through what playbooks do well and badly, in
// the units that are shipped, with the real systemd and Ansible.
func TestDevice(t *testing.T) {
	t.Parallel()
	b := newBooted(t)
	b.run("useradd", "--create-home", "fitter")
	const stubborn = `setsid sh -c 'trap "" TERM; echo $$ >/run/stubborn; while :; do sleep 1; done' >/dev/null 2>&1 &`
	b.list(
		task("--syntax-check", nil, "  - copy: {content: changed, dest: /etc/from-a-playbook}\n", shell("cat /proc/self/cgroup >/run/group; systemctl is-active dbus.socket")),
		task("fails", nil, shell("echo it went wrong >&2; exit 7")),
		task("stranger", func(e *protocol.PlaybookExecution) { e.User = "nosuchuser" }, shell("true")),
		task("fitter", func(e *protocol.PlaybookExecution) {
			e.User = "fitter"
		}, shell("id -un >/tmp/fitter; touch /etc/fitter || echo refused >>/tmp/fitter")),
		task("becomes", func(e *protocol.PlaybookExecution) {
			e.Become = &protocol.PlaybookBecome{Method: "su", User: "fitter"}
		}, shell("id -un >/tmp/becomes; setsid sh -c 'echo $$ >/tmp/session; exec sleep 1000' >/dev/null 2>&1 & sleep 1")),
		task("hungry", nil, shell("python3 -c 'x = bytearray(400 << 20)'")),
		task("outlives", func(e *protocol.PlaybookExecution) { e.TimeoutSeconds = 12 }, shell(stubborn+"\nsleep 1000")),
	)
	b.want("--syntax-check", "", "ok=2 changed=2")
	if got := b.states("--syntax-check"); got != "Deploying TargetVerification Running SuccessfullyCompleted" {
		t.Errorf("states %s", got)
	}
	if got := b.run("cat", "/etc/from-a-playbook"); got != "changed" {
		t.Errorf("the file holds %q", got)
	}
	if got := b.run("cat", "/run/group"); !strings.Contains(got, unitPrefix) {
		t.Errorf("it ran in %s", got)
	}
	b.want("fails", ReasonFailed, "it went wrong", "failed=1")
	b.want("stranger", ReasonUnknownUser, "nosuchuser")
	b.want("fitter", "")
	if got := b.run("cat", "/tmp/fitter"); got != "fitter\nrefused" {
		t.Errorf("as fitter: %q", got)
	}
	b.want("becomes", "")
	if got := b.run("cat", "/tmp/becomes"); got != "fitter" {
		t.Errorf("it became %q", got)
	}
	b.want("hungry", ReasonOutOfMemory)
	b.want("outlives", ReasonTimedOut, "more than 12s")
	for _, file := range []string{"/run/stubborn", "/tmp/session"} {
		b.run("test", "-s", file)
		if r, _ := b.d.Run(t.Context(), "sh", "-c", "kill -0 $(cat "+file+")"); r.Code == 0 {
			t.Errorf("the process of %s lives", file)
		}
	}
	if got := b.run("sh", "-c", "ls "+DefaultDir+"/*/request.json | wc -l; ls -d "+DefaultDir+"/*/work "+DefaultDir+"/*/home 2>/dev/null; systemctl list-units --failed --plain --no-legend 'flotta-playbook@*'"); got != "7" {
		t.Errorf("left behind: %s", got)
	}
}

// TestDeviceRestarts takes a playbook through the end of the agent, another one
// through a power cut, and a third through the device's leaving.
func TestDeviceRestarts(t *testing.T) {
	t.Parallel()
	b := newBooted(t)
	long := task("long", nil, shell("echo x >>/var/local/long; while ! [ -e /run/release ]; do sleep 0.2; done"))
	cut := task("cut", nil, shell("echo x >>/var/local/cut; sleep 1000"))
	after := task("after", nil, shell("echo x >>/var/local/after"))
	b.list(long, cut, after)
	b.until("long", protocol.PlaybookRunning)
	b.run("systemctl", "kill", "--signal=KILL", "test-life.service")
	b.run("sh", "-c", "while systemctl -q is-active test-life.service; do sleep 0.1; done; systemctl start test-life.service && touch /run/release")
	b.want("long", "")

	b.until("cut", protocol.PlaybookRunning)
	b.run("sh", "-c", "while ! [ -s /var/local/cut ]; do sleep 0.1; done")
	if err := b.d.PowerCut(); err != nil {
		t.Fatal(err)
	}
	if err := b.d.PowerOn(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.want("cut", ReasonInterrupted, "power")
	b.want("after", "")
	for _, path := range []string{"/var/local/long", "/var/local/cut", "/var/local/after"} {
		if n := b.count(path); n != "1" {
			t.Errorf("%s ran %s times", path, n)
		}
	}

	last := task("last", nil, shell("echo $$ >/run/last; sleep 1000"))
	b.list(last)
	b.until("last", protocol.PlaybookRunning)
	b.run("sh", "-c", "while ! [ -s /run/last ]; do sleep 0.1; done; systemctl stop test-life.service; env '"+
		lifeEnv+`={"Clear":true,"Report":"/dev/null"}' /usr/bin/flotta-agent`)
	if got := b.run("sh", "-c", "ls -d "+DefaultDir+" 2>/dev/null; kill -0 $(cat /run/last) 2>/dev/null && echo lives; systemctl list-units --plain --no-legend 'flotta-playbook@*'"); got != "" {
		t.Errorf("left behind: %s", got)
	}
}
