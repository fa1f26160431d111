package device

import (
	_ "embed" // the script.
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

//go:embed reap.sh
var reapScript string

// reaper is the process that cleans up after a device, whatever becomes of us.
type reaper struct {
	cmd    *exec.Cmd
	pipe   io.WriteCloser
	record string
	folder os.FileInfo // the record's: its slot may be another device's by now
}

func startReaper(r record) (*reaper, error) {
	cmd := exec.Command("/bin/sh", "-c", reapScript, "reap")
	cmd.Dir = "/"
	cmd.Env = r.env
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	pipe, err := cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("start reaper: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start reaper: %w", err)
	}
	started := &reaper{cmd: cmd, pipe: pipe, record: r.path}
	folder, err := os.Stat(r.path)
	started.folder = folder
	var start string
	if err == nil {
		start, err = startTime(cmd.Process.Pid)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(r.path, "reaper"), fmt.Appendf(nil, "%d %s", cmd.Process.Pid, start), 0o600)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start reaper: %w", err), started.reap())
	}
	return started, nil
}

// reap lets the reaper do its work, and waits for it.
func (r *reaper) reap() error {
	_ = r.pipe.Close()
	if err := r.wait(); err != nil {
		return err
	}
	if r.left() {
		return fmt.Errorf("clean up device: the reaper left %s", r.record)
	}
	return nil
}

// left reports whether the record is still there, and not that of a device which
// has taken the slot since.
func (r *reaper) left() bool {
	now, err := os.Stat(r.record)
	return err == nil && os.SameFile(r.folder, now)
}

// dismiss ends the reaper without its work.
func (r *reaper) dismiss() error {
	if err := os.WriteFile(filepath.Join(r.record, "detached"), nil, 0o600); err != nil {
		return fmt.Errorf("dismiss reaper: %w", err)
	}
	if _, err := io.WriteString(r.pipe, "stay\n"); err != nil {
		return fmt.Errorf("dismiss reaper: %w", err)
	}
	return r.wait()
}

func (r *reaper) wait() error {
	ended := make(chan struct{})
	go func() {
		// The exit code says nothing: what is left is looked at instead.
		_ = r.cmd.Wait()
		close(ended)
	}()
	select {
	case <-ended:
		return nil
	case <-time.After(time.Minute):
		return errors.New("clean up device: the reaper does not end")
	}
}
