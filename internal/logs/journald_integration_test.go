//go:build integration

package logs

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
)

// journald is a real one with a /run of its own, beside that of the machine.
type journald struct {
	t   testing.TB
	pid int
}

const journaldScript = `
mount -t tmpfs tmpfs /run
mkdir -p /run/systemd/journal /run/log/journal /run/systemd/journald.conf.d
printf '[Journal]\nStorage=volatile\nReadKMsg=no\nRateLimitBurst=0\nRuntimeMaxUse=%s\nRuntimeMaxFileSize=%s\n' "$1" "$2" >/run/systemd/journald.conf.d/test.conf
exec /lib/systemd/systemd-journald
`

// startJournald starts one whose journal and each file of it may have so many
// bytes, written like 8M.
func startJournald(t testing.TB, size, file string) *journald {
	t.Helper()
	cmd := exec.Command("unshare", "--mount", "--propagation", "private", "sh", "-euc", journaldScript, "sh", size, file)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	j := &journald{t: t, pid: cmd.Process.Pid}
	eventually(t, "journald listens", func() bool {
		exe, _ := os.Readlink(fmt.Sprintf("/proc/%d/exe", j.pid))
		_, err := os.Stat(j.socket())
		return err == nil && filepath.Base(exe) == "systemd-journald"
	})
	return j
}

func (j *journald) socket() string {
	return fmt.Sprintf("/proc/%d/root/run/systemd/journal/socket", j.pid)
}

// command runs journalctl where this journald is.
func (j *journald) command(ctx context.Context, args ...string) *exec.Cmd {
	return journalctlOf(j.pid)(ctx, args...)
}

func journalctlOf(pid int) func(ctx context.Context, args ...string) *exec.Cmd {
	return func(ctx context.Context, args ...string) *exec.Cmd {
		cmd := exec.CommandContext(ctx, "nsenter", append([]string{"--mount", "--target", strconv.Itoa(pid), "journalctl"}, args...)...)
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		return cmd
	}
}

// conmon returns what writes lines of a container into the journal, with the
// fields that conmon writes.
func (j *journald) conmon(workload, id string) func(text string, partial bool) {
	j.t.Helper()
	conn, err := net.Dial("unixgram", j.socket())
	if err != nil {
		j.t.Fatal(err)
	}
	j.t.Cleanup(func() { _ = conn.Close() })
	return func(text string, partial bool) {
		if !partial {
			text += "\n"
		}
		message := append(binary.LittleEndian.AppendUint64([]byte("MESSAGE\n"), uint64(len(text))), text...)
		entry := fmt.Sprintf("%s\nPRIORITY=6\nCONTAINER_ID_FULL=%s\nCONTAINER_NAME=%s-app\nSYSLOG_IDENTIFIER=%[3]s-app\n", message, id, workload)
		if partial {
			entry += "CONTAINER_PARTIAL_MESSAGE=true\n"
		}
		if _, err := conn.Write([]byte(entry)); err != nil {
			j.t.Errorf("write into the journal: %v", err)
		}
	}
}
