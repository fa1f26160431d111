package testenv

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"time"
)

// stopGrace is how long a program may take to end by itself after SIGTERM. All
// of them need milliseconds; the rest is for a machine under load.
const stopGrace = 5 * time.Second

// process is a running program. It ends when its context does, when Stop is
// called, or with this process, whichever comes first.
type process struct {
	cmd   *exec.Cmd
	done  chan struct{}
	err   error // of the program; read after done
	tail  *tail
	leave context.CancelFunc
}

// startProcess starts cmd, which was not started and has no context.
func startProcess(ctx context.Context, log io.Writer, path string, args []string, prepare func(*exec.Cmd)) (*process, error) {
	ctx, leave := context.WithCancel(ctx)
	cmd := exec.CommandContext(ctx, path, args...)
	p := &process{cmd: cmd, done: make(chan struct{}), tail: &tail{next: log}, leave: leave}
	cmd.Stdout, cmd.Stderr = p.tail, p.tail
	// Its own group, so that Ctrl-C at a terminal reaches only us and we stop it
	// in order; and the parent's death signal for when we can't.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = stopGrace
	prepare(cmd)
	started := make(chan error, 1)
	go func() {
		// The death signal comes when the starting THREAD ends, so this thread is
		// kept for as long as the program runs.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(p.done)
		err := cmd.Start()
		started <- err
		if err != nil {
			return
		}
		p.err = cmd.Wait()
		// What the program left in its group goes with it.
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	}()
	if err := <-started; err != nil {
		leave()
		return nil, fmt.Errorf("start %s: %w", path, err)
	}
	return p, nil
}

// Stop ends the program and waits for it. It may be called more than once.
func (p *process) Stop() {
	p.leave()
	<-p.done
}

// Kill ends the program at once, without a chance to clean up.
func (p *process) Kill() {
	_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
	p.Stop()
}

// PID returns the process identifier of the program.
func (p *process) PID() int { return p.cmd.Process.Pid }

// Done is closed when the program has ended.
func (p *process) Done() <-chan struct{} { return p.done }

// wait polls ready every 10 ms until it returns nil, the program ends, or the
// time is over; then it stops the program and says why, with its last words.
func (p *process) wait(ctx context.Context, limit time.Duration, ready func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		// One question is not worth all the time: somebody else may hold the port
		// and never answer, while the program has long given up.
		once, done := context.WithTimeout(ctx, time.Second)
		err := ready(once)
		done()
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
			continue
		case <-p.done:
			err = errors.Join(fmt.Errorf("%s ended", p.cmd.Path), p.err)
		case <-ctx.Done():
			err = errors.Join(ctx.Err(), err)
		}
		p.Stop()
		return fmt.Errorf("wait for %s: %w\n%s", p.cmd.Path, err, p.tail)
	}
}

// tailBytes is enough for the reason why a program ended.
const tailBytes = 4096

// tail keeps the end of what is written to it, and passes it on.
type tail struct {
	next io.Writer // may be nil

	mu   sync.Mutex
	kept []byte
}

func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.kept = append(t.kept, b...)
	if n := len(t.kept) - tailBytes; n > 0 {
		t.kept = append(t.kept[:0], t.kept[n:]...)
	}
	if t.next != nil {
		return t.next.Write(b)
	}
	return len(b), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.kept)
}
