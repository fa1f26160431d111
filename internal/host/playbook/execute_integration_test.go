//go:build integration

package playbook

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/project-flotta/flotta-agent/internal/durable"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// play is a playbook for this host with these tasks.
func play(tasks ...string) string { return playOn("127.0.0.1", tasks...) }

// playOn is one with another name of the host.
func playOn(host string, tasks ...string) string {
	return "- hosts: " + host + "\n  gather_facts: no\n  tasks:\n" + strings.Join(tasks, "")
}

// shell is a task.
func shell(command string) string {
	return "  - shell: |\n      " + strings.ReplaceAll(command, "\n", "\n      ") + "\n"
}

// runner is a folder of a run, with the program that the unit starts.
type runner struct {
	t   *testing.T
	dir string
}

func newRun(t *testing.T, r request) runner {
	t.Helper()
	if os.Getuid() != 0 {
		t.Fatal("this test needs root: the runner is that of a system's unit")
	}
	if _, err := find(""); err != nil {
		t.Fatalf("%v: run make setup", err)
	}
	// Everybody has to get through, as on a device.
	dir, err := os.MkdirTemp("/var/tmp", "playbook-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	r.Name, r.Attempt = "test", 1
	if r.Timeout == 0 {
		r.Timeout = time.Minute
	}
	r.Digest = digestOf(protocol.PlaybookExecution{Name: r.Name, AnsiblePlaybookString: r.Playbook})
	if err := r.save(dir, durable.Writer{}); err != nil {
		t.Fatal(err)
	}
	return runner{t, dir}
}

func (r runner) command(env ...string) *exec.Cmd {
	cmd := exec.CommandContext(r.t.Context(), os.Args[0], "playbook-run", r.dir)
	cmd.Env = append(os.Environ(), env...)
	return cmd
}

func (r runner) run(env ...string) result {
	r.t.Helper()
	if out, err := r.command(env...).CombinedOutput(); err != nil {
		r.t.Fatalf("run: %v\n%s", err, out)
	}
	return r.result()
}

func (r runner) result() result {
	r.t.Helper()
	p, err := readPapers(r.dir)
	if err != nil || p.result == nil {
		r.t.Fatalf("no result: %v", err)
	}
	return *p.result
}

func (r runner) output() string {
	text, _ := os.ReadFile(filepath.Join(r.dir, outputFile))
	return string(text)
}

func (r runner) path(name string) string { return filepath.Join(r.dir, name) }

func (r runner) want(res result, reason string, say ...string) {
	r.t.Helper()
	if res.OK != (reason == "") || res.Reason != reason {
		r.t.Errorf("result %+v, want reason %q\n%s", res, reason, r.output())
	}
	for _, text := range say {
		if !strings.Contains(res.Message, text) {
			r.t.Errorf("message %q does not say %q", res.Message, text)
		}
	}
	if len(res.Message) > maxMessage {
		r.t.Errorf("message of %d bytes", len(res.Message))
	}
	for _, dir := range []string{workDir, homeDir} {
		if _, err := os.Lstat(r.path(dir)); !os.IsNotExist(err) {
			r.t.Errorf("%s stays: %v", dir, err)
		}
	}
}

func TestSuccess(t *testing.T) {
	t.Parallel()
	target, out := filepath.Join(t.TempDir(), "etc.conf"), filepath.Join(t.TempDir(), "env")
	r := newRun(t, request{Playbook: play("  - copy: {content: changed, dest: "+target+"}\n", shell("env >"+out))})
	// Whatever the administrator or somebody else has lying about.
	evil := filepath.Join(t.TempDir(), "ansible.cfg")
	if err := os.WriteFile(evil, []byte("[defaults]\nstdout_callback = nonsense\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	res := r.run("ANSIBLE_CONFIG="+evil, "HOME="+filepath.Dir(evil), "HTTPS_PROXY=http://proxy", "SECRET=1", "ANSIBLE_STRATEGY=nonsense",
		"BASH_ENV=/tmp/evil", "PYTHONPATH=/tmp/evil")
	r.want(res, "", "localhost: ok=2 changed=2")
	r.wantEnvironment(out)
	if text, err := os.ReadFile(target); err != nil || string(text) != "changed" {
		t.Errorf("the file holds %q, %v", text, err)
	}
	p, _ := readPapers(r.dir)
	if p.phase.State != protocol.PlaybookRunning {
		t.Errorf("phase %+v", p.phase)
	}
	// Once is once.
	if err := os.Remove(target); err != nil {
		t.Fatal(err)
	}
	if again := r.run(); again != res {
		t.Errorf("again: %+v, want %+v", again, res)
	}
	if _, err := os.Lstat(target); !os.IsNotExist(err) {
		t.Errorf("it ran twice: %v", err)
	}
}

func (r runner) wantEnvironment(path string) {
	r.t.Helper()
	env, err := os.ReadFile(path)
	if err != nil {
		r.t.Fatal(err)
	}
	for _, line := range []string{"HTTPS_PROXY=http://proxy\n", "HOME=" + r.path(homeDir) + "\n", "PATH=" + SearchPath + "\n"} {
		if !strings.Contains(string(env), line) {
			r.t.Errorf("the environment lacks %q:\n%s", line, env)
		}
	}
	for _, name := range []string{"SECRET", "ANSIBLE_STRATEGY", "BASH_ENV", "PYTHONPATH"} {
		if strings.Contains(string(env), name+"=") {
			r.t.Errorf("the environment has %s", name)
		}
	}
}

func TestFailures(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		request request
		reason  string
		say     []string
	}{
		"task":     {request{Playbook: play(shell("echo it went wrong >&2; exit 7"))}, ReasonFailed, []string{"status 2", "failed=1", "it went wrong"}},
		"syntax":   {request{Playbook: "- hosts: localhost\n  tasks: foo: [\n"}, ReasonInvalidPlaybook, []string{"Syntax Error"}},
		"module":   {request{Playbook: play("  - no_such_module: {}\n")}, ReasonInvalidPlaybook, []string{"no_such_module"}},
		"binary":   {request{Playbook: "\x00\x01\xff"}, ReasonInvalidPlaybook, nil},
		"stranger": {request{Playbook: "- hosts: web\n  tasks:\n" + shell("true")}, ReasonNoHostMatched, []string{"localhost"}},
		"user":     {request{Playbook: play(shell("true")), User: "nosuchuser"}, ReasonUnknownUser, []string{"nosuchuser"}},
		"missing":  {request{Playbook: play(shell("true")), Ansible: "/nonexistent/ansible-playbook"}, ReasonAnsibleMissing, []string{"/nonexistent"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRun(t, test.request)
			r.want(r.run(), test.reason, test.say...)
		})
	}
}

func alive(t *testing.T, file string) (int, bool) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return pid, false
	}
	p, ok := parseStat(string(stat))
	return pid, ok && !p.dead
}

// TestOutlives has one that forks away, ignores being asked, and outlives its
// time.
func TestOutlives(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "pid")
	stubborn := `setsid sh -c 'trap "" TERM; echo $$ >` + file + `; while :; do sleep 1; done' >/dev/null 2>&1 &`
	r := newRun(t, request{Timeout: 15 * time.Second, Playbook: play(shell(stubborn + "\nsleep 1000"))})
	began := time.Now()
	r.want(r.run(), ReasonTimedOut, "more than 15s")
	if took := time.Since(began); took > 90*time.Second {
		t.Errorf("took %s", took)
	}
	if pid, ok := alive(t, file); ok {
		t.Errorf("process %d lives", pid)
	}
}

// TestLeavesBehind ends in time, but not all that it has started, which holds its
// output open.
func TestLeavesBehind(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "pid")
	r := newRun(t, request{Playbook: playOn("localhost", shell("setsid sh -c 'echo $$ >"+file+"; exec sleep 1000' >/dev/null 2>&1 &"), shell("while ! [ -s "+file+" ]; do :; done"))})
	r.want(r.run(), "")
	if pid, ok := alive(t, file); ok {
		t.Errorf("process %d lives", pid)
	}
}

// TestMuchOutput prints 50 MB, and then what it is about.
func TestMuchOutput(t *testing.T) {
	t.Parallel()
	r := newRun(t, request{Timeout: 5 * time.Minute, Playbook: play(
		"  - debug: {msg: 'the beginning'}\n",
		"  - debug: {msg: \"{{ 'noise ' * 200000 }}\"}\n    loop: \"{{ range(42) }}\"\n    loop_control: {label: x}\n",
		"  - fail: {msg: 'the very end'}\n",
	)})
	out, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	cmd := r.command()
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	largest := make(chan int64)
	ended := make(chan struct{})
	go func() {
		most := int64(0)
		for {
			select {
			case <-ended:
				largest <- most
				return
			case <-time.After(20 * time.Millisecond):
				if info, err := os.Stat(r.path(outputFile)); err == nil {
					most = max(most, info.Size())
				}
			}
		}
	}()
	peak := resident(cmd.Process.Pid, ended)
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	close(ended)
	r.want(r.result(), ReasonFailed, "the very end", "failed=1")
	text := r.output()
	for _, want := range []string{"the beginning", "bytes are left out here", "the very end", "PLAY RECAP"} {
		if !strings.Contains(text, want) {
			t.Errorf("the output that is kept lacks %q", want)
		}
	}
	const most = keepHead + keepTail + 100
	if n := <-largest; n > most || len(text) > most {
		t.Errorf("%d bytes on disk, %d at the end", n, len(text))
	}
	if kib := <-peak; kib > 64<<10 {
		t.Errorf("the process that keeps the output had %d KiB", kib)
	} else {
		t.Logf("the process that keeps the output had %d KiB", kib)
	}
	left := regexp.MustCompile(`\[(\d+) bytes`).FindStringSubmatch(text)
	if n, _ := strconv.Atoi(left[1]); n < 48_000_000 {
		t.Errorf("only %d bytes were left out: it did not print 50 MB", n)
	}
}

// resident returns the most memory that a process had until ended, in KiB.
func resident(pid int, ended <-chan struct{}) <-chan int {
	peak := make(chan int, 1)
	go func() {
		most := 0
		for {
			select {
			case <-ended:
				peak <- most
				return
			case <-time.After(20 * time.Millisecond):
				status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
				if m := regexp.MustCompile(`VmHWM:\s+(\d+)`).FindSubmatch(status); m != nil {
					most, _ = strconv.Atoi(string(m[1]))
				}
			}
		}
	}()
	return peak
}

// TestStopped has the unit stopped, and killed, in the middle.
func TestStopped(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		signal syscall.Signal
		reason string
	}{"asked": {syscall.SIGTERM, ReasonInterrupted}, "killed": {syscall.SIGKILL, ""}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			file := filepath.Join(t.TempDir(), "pid")
			r := newRun(t, request{Playbook: play(shell("echo $$ >>" + file + "; exec sleep 1000"))})
			cmd := r.command()
			cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			until(t, "the task runs", func() bool {
				text, _ := os.ReadFile(file)
				return strings.HasSuffix(string(text), "\n")
			})
			if err := cmd.Process.Signal(test.signal); err != nil {
				t.Fatal(err)
			}
			_ = cmd.Wait()
			pid, ok := alive(t, file)
			if test.reason != "" {
				r.want(r.result(), test.reason)
				if ok {
					t.Errorf("process %d lives", pid)
				}
				return
			}
			// Without systemd nobody ends what a killed one leaves.
			_ = syscall.Kill(pid, syscall.SIGKILL)
			if out, err := r.command().CombinedOutput(); err == nil || !strings.Contains(string(out), "not run twice") {
				t.Errorf("it runs again: %v\n%s", err, out)
			}
			if text, _ := os.ReadFile(file); strings.Count(string(text), "\n") != 1 {
				t.Errorf("it ran again: %s", text)
			}
		})
	}
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(60 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("not within a minute: %s", what)
}

// TestPrivileges looks at what a task may do, as root and as somebody else.
func TestPrivileges(t *testing.T) {
	t.Parallel()
	const chown, kill, netAdmin = 0, 5, 12
	report := func(out string) string {
		return play(shell("id -un >" + out + "; id -Gn >>" + out + "; grep -E '^Cap(Eff|Bnd)' /proc/self/status >>" + out + "; echo $HOME >>" + out))
	}
	for name, test := range map[string]struct {
		request request
		check   func(t *testing.T, user string, effective, bounding uint64)
	}{
		"root without some": {request{CapDrop: []int32{netAdmin, chown}}, func(t *testing.T, user string, effective, bounding uint64) {
			if mask := uint64(1<<netAdmin | 1<<chown); user != "root" || effective&mask != 0 || bounding&mask != 0 || effective&(1<<kill) == 0 {
				t.Errorf("%s has %x of %x", user, effective, bounding)
			}
		}},
		"nobody": {request{User: "nobody"}, func(t *testing.T, user string, effective, _ uint64) {
			if user != "nobody" || effective != 0 {
				t.Errorf("%s has %x", user, effective)
			}
		}},
		"nobody with some": {request{User: "nobody", CapAdd: []int32{kill}, CapDrop: []int32{chown}}, func(t *testing.T, user string, effective, bounding uint64) {
			if user != "nobody" || effective != 1<<kill || bounding&(1<<chown) != 0 {
				t.Errorf("%s has %x of %x", user, effective, bounding)
			}
		}},
		"becomes": {request{Become: &protocol.PlaybookBecome{Method: "su"}}, func(t *testing.T, user string, effective, _ uint64) {
			if user != "root" || effective&(1<<kill) == 0 {
				t.Errorf("%s has %x", user, effective)
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			for path := dir; path != os.TempDir() && len(path) > 1; path = filepath.Dir(path) {
				if err := os.Chmod(path, 0o711); err != nil {
					t.Fatal(err)
				}
			}
			out := filepath.Join(dir, "out")
			if err := os.WriteFile(out, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(out, 0o666); err != nil {
				t.Fatal(err)
			}
			test.request.Playbook = report(out)
			r := newRun(t, test.request)
			r.want(r.run(), "", "ok=1")
			text, _ := os.ReadFile(out)
			fields := regexp.MustCompile(`(?s)^(\S+)\n.*CapEff:\s+(\S+)\nCapBnd:\s+(\S+)\n`).FindStringSubmatch(string(text))
			if fields == nil {
				t.Fatalf("the task says %q", text)
			}
			effective, _ := strconv.ParseUint(fields[2], 16, 64)
			bounding, _ := strconv.ParseUint(fields[3], 16, 64)
			test.check(t, fields[1], effective, bounding)
		})
	}
}

// TestCheckMode predicts and changes nothing.
func TestCheckMode(t *testing.T) {
	t.Parallel()
	target := filepath.Join(t.TempDir(), "file")
	r := newRun(t, request{Check: true, Playbook: playOn("all", "  - copy: {content: x, dest: "+target+"}\n")})
	r.want(r.run(), "", "changed=1")
	if _, err := os.Lstat(target); !os.IsNotExist(err) {
		t.Errorf("it changed something: %v", err)
	}
}
