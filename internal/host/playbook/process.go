package playbook

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// stopGrace is how long a process may take to end after it was asked to.
	stopGrace = 5 * time.Second
	// sweepGrace is the same for those that are left when Ansible has ended.
	sweepGrace = 2 * time.Second
	sweepPause = 20 * time.Millisecond
	// hearing is how long it may take this process to be told what others were.
	hearing    = 200 * time.Millisecond
	reapPeriod = 5 * time.Second
)

// errTime is the cause of the end of a run that took too long.
var errTime = errors.New("time is up")

// process is one run of a program with what it may do.
type process struct {
	args    []string
	env     []string
	dir     string
	who     account
	add     []int32 // capabilities
	drop    []int32
	out     *output
	timeout time.Duration
}

// ending is how a program ended.
type ending struct {
	code     int // -1: a signal ended it
	signal   syscall.Signal
	timedOut bool
	stopped  bool // the context ended
	killed   int  // processes that it had left running
}

// run runs the program and waits for it, and for all it has started: what is
// left of those when it ends is ended. The error is one of starting it.
func (p process) run(ctx context.Context) (ending, error) {
	limited, cancel := context.WithTimeoutCause(ctx, p.timeout, errTime)
	defer cancel()
	cmd := exec.CommandContext(limited, p.args[0], p.args[1:]...)
	cmd.Env, cmd.Dir = p.env, p.dir
	cmd.Stdout, cmd.Stderr = p.out, p.out
	// A session of its own has no terminal, and can be told as a whole to end.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGTERM) }
	cmd.WaitDelay = stopGrace
	if p.who.uid != 0 {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: p.who.uid, Gid: p.who.gid, Groups: p.who.groups}
		for _, c := range p.add {
			cmd.SysProcAttr.AmbientCaps = append(cmd.SysProcAttr.AmbientCaps, uintptr(c)) //nolint:gosec // from 0 to 37
		}
	}
	if err := start(cmd, p.drop); err != nil {
		return ending{}, fmt.Errorf("start %s: %w", p.args[0], err)
	}
	ended := make(chan struct{})
	reaped := make(chan struct{})
	go func() {
		defer close(reaped)
		reap(cmd.Process.Pid, ended)
	}()
	_ = cmd.Wait() // what there is to know is in the state and in the context
	close(ended)
	<-reaped
	e := ending{code: cmd.ProcessState.ExitCode(), killed: sweep()}
	if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		e.signal = status.Signal()
	}
	// systemd tells all processes of the unit at once that it is stopped: this one
	// may be the last to hear.
	if e.code != 0 {
		select {
		case <-ctx.Done():
		case <-time.After(hearing):
		}
	}
	// What ended well just before its time was up has ended well.
	if e.code != 0 && limited.Err() != nil {
		e.timedOut = errors.Is(context.Cause(limited), errTime)
		e.stopped = !e.timedOut
	}
	return e, nil
}

// start starts cmd without the capabilities in drop, for good: whoever it
// becomes.
func start(cmd *exec.Cmd, drop []int32) error {
	if len(drop) == 0 {
		return cmd.Start()
	}
	done := make(chan error, 1)
	go func() {
		// The child has what the thread has that makes it. The thread is never
		// unlocked, so it ends with this function, and nothing else runs without
		// those capabilities.
		runtime.LockOSThread()
		for _, c := range drop {
			if err := unix.Prctl(unix.PR_CAPBSET_DROP, uintptr(c), 0, 0, 0); err != nil { //nolint:gosec // from 0 to 37
				done <- fmt.Errorf("drop capability %d: %w", c, err)
				return
			}
		}
		done <- cmd.Start()
	}()
	return <-done
}

// adopt makes processes whose parent ends children of this one, so that sweep
// finds those that forked away. It holds for the whole process.
func adopt() error {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("become the parent of orphans: %w", err)
	}
	return nil
}

// reap buries adopted children that have ended, until ended is closed; that with
// the number except is somebody else's.
func reap(except int, ended <-chan struct{}) {
	tick := time.NewTicker(reapPeriod)
	defer tick.Stop()
	for {
		select {
		case <-ended:
			return
		case <-tick.C:
			for _, p := range descendants() {
				if p.parent == os.Getpid() && p.dead && p.pid != except {
					_, _ = unix.Wait4(p.pid, nil, unix.WNOHANG, nil)
				}
			}
		}
	}
}

// sweep ends the descendants of this process that are left, first by asking. It
// returns how many it has met. Those in a control group that is not of this unit
// belong to somebody else by now, such as containers to Podman.
func sweep() int {
	met := map[int]bool{}
	began := time.Now()
	for {
		left := 0
		for _, p := range descendants() {
			switch {
			case p.dead && p.parent == os.Getpid():
				_, _ = unix.Wait4(p.pid, nil, unix.WNOHANG, nil)
			case p.dead || !p.ours:
			default:
				left++
				if signal := unix.SIGKILL; time.Since(began) > sweepGrace {
					_ = unix.Kill(p.pid, signal)
				} else if !met[p.pid] {
					_ = unix.Kill(p.pid, unix.SIGTERM)
				}
				met[p.pid] = true
			}
		}
		// What does not even end then hangs in the kernel.
		if left == 0 || time.Since(began) > 2*sweepGrace {
			return len(met)
		}
		time.Sleep(sweepPause)
	}
}

// relative is a descendant of this process.
type relative struct {
	pid, parent int
	dead        bool // but not buried
	ours        bool // in the unit, or in a session that su or sudo has opened
}

// descendants lists those of this process.
func descendants() []relative {
	stats, _ := filepath.Glob("/proc/[0-9]*/stat") // the pattern is right
	children := map[int][]relative{}
	for _, stat := range stats {
		data, err := os.ReadFile(stat)
		if err != nil {
			continue // it has ended
		}
		if p, ok := parseStat(string(data)); ok {
			children[p.parent] = append(children[p.parent], p)
		}
	}
	own := groupsOf("/proc/self/cgroup")[""]
	var out []relative
	for next := []int{os.Getpid()}; len(next) > 0; next = next[1:] {
		for _, p := range children[next[0]] {
			group := groupsOf("/proc/" + strconv.Itoa(p.pid) + "/cgroup")[""]
			p.ours = group == own || strings.HasPrefix(group, strings.TrimSuffix(own, "/")+"/") || isSession(group)
			out = append(out, p)
			next = append(next, p.pid)
		}
	}
	return out
}

func isSession(group string) bool {
	ok, _ := path.Match("session-*.scope", path.Base(group))
	return ok
}

// parseStat reads the file stat of a process. The name in it may hold anything.
func parseStat(text string) (relative, bool) {
	number, rest, _ := strings.Cut(text, " (")
	fields := strings.Fields(rest[strings.LastIndexByte(rest, ')')+1:])
	if len(fields) < 2 {
		return relative{}, false
	}
	pid, err := strconv.Atoi(number)
	if err != nil {
		return relative{}, false
	}
	parent, err := strconv.Atoi(fields[1])
	return relative{pid: pid, parent: parent, dead: fields[0] == "Z" || fields[0] == "X"}, err == nil
}
