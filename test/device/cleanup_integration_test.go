//go:build integration

package device_test

import (
	"bufio"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/project-flotta/flotta-agent/test/device"
)

// owner is another process that has a device.
type owner struct {
	cmd      *exec.Cmd
	dir      string
	leader   int
	hostAddr string
	id       string
}

func startOwner(t *testing.T, mode string) owner {
	t.Helper()
	o := owner{cmd: exec.Command(os.Args[0])}
	o.cmd.Env = append(os.Environ(), childEnv+"="+mode)
	o.cmd.Stderr = os.Stderr
	out, err := o.cmd.StdoutPipe()
	must(t, "make pipe", err)
	must(t, "start owner", o.cmd.Start())
	t.Cleanup(func() { _ = o.cmd.Process.Kill(); _ = o.cmd.Wait() })
	line, err := bufio.NewReader(out).ReadString('\n')
	must(t, "read from owner", err)
	fields := strings.Fields(line)
	if len(fields) != 4 {
		t.Fatalf("the owner says %q", line)
	}
	o.dir, o.hostAddr, o.id = fields[0], fields[2], strings.TrimSuffix(fields[3], ".")
	o.leader, err = strconv.Atoi(fields[1])
	must(t, "read leader", err)
	return o
}

// remains lists what is left of the device on the host.
func (o owner) remains(t *testing.T) (left []string) {
	t.Helper()
	if _, err := os.Stat(o.dir); err == nil {
		left = append(left, o.dir)
	}
	if raw, err := os.ReadFile("/proc/" + strconv.Itoa(o.leader) + "/status"); err == nil && !strings.Contains(string(raw), "State:\tZ") {
		left = append(left, "process "+strconv.Itoa(o.leader))
	}
	addrs, err := net.InterfaceAddrs()
	must(t, "list addresses", err)
	for _, a := range addrs {
		if strings.HasPrefix(a.String(), o.hostAddr+"/") {
			left = append(left, a.String())
		}
	}
	mark := "-" + strconv.Itoa(o.cmd.Process.Pid)
	for _, probe := range [][]string{
		{"ip", "-o", "link"},
		{"ip", "netns"},
		{"nft", "list", "tables"},
		{"find", "/sys/fs/cgroup", "-name", "fd*-*"},
		{"sh", "-c", "cat /run/flotta-device/*/environment 2>/dev/null; true"},
		{"losetup", "--list", "--noheadings"},
		{"cat", "/proc/mounts"},
	} {
		out, _ := exec.Command(probe[0], probe[1:]...).Output()
		for line := range strings.Lines(string(out)) {
			if strings.Contains(line, mark) || strings.Contains(line, o.dir) || strings.Contains(line, strings.ReplaceAll(mark, "-", "_")+"\n") {
				left = append(left, strings.Join(probe, " ")+": "+strings.TrimSpace(line))
			}
		}
	}
	return left
}

func (o owner) vanishes(t *testing.T) {
	t.Helper()
	var left []string
	for end := time.Now().Add(60 * time.Second); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		if left = o.remains(t); len(left) == 0 {
			return
		}
	}
	t.Errorf("left behind:\n%s", strings.Join(left, "\n"))
}

func TestNothingIsLeftOfAKilledOwner(t *testing.T) {
	t.Parallel()
	for _, sig := range []syscall.Signal{syscall.SIGKILL, syscall.SIGINT, syscall.SIGTERM} {
		t.Run(sig.String(), func(t *testing.T) {
			t.Parallel()
			o := startOwner(t, "boot")
			if left := o.remains(t); len(left) < 7 {
				t.Fatalf("of a living device one sees only %v", left)
			}
			must(t, "signal", o.cmd.Process.Signal(sig))
			_ = o.cmd.Wait()
			o.vanishes(t)
		})
	}
}

func TestSweepAfterTheReaperWasKilledToo(t *testing.T) { //nolint:paralleltest // the Boot of another test would sweep, too
	o := startOwner(t, "boot")
	for _, pid := range childrenOf(t, o.cmd.Process.Pid) {
		line, _ := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cmdline")
		if strings.HasSuffix(string(line), "\x00reap\x00") {
			must(t, "kill reaper", syscall.Kill(pid, syscall.SIGKILL))
		}
	}
	must(t, "kill owner", o.cmd.Process.Kill())
	_ = o.cmd.Wait()
	if left := o.remains(t); len(left) < 7 {
		t.Fatalf("without reaper only this is left: %v", left)
	}
	must(t, "sweep", device.Sweep())
	o.vanishes(t)
}

func TestDetachedDeviceStaysUntilItIsRemoved(t *testing.T) {
	t.Parallel()
	o := startOwner(t, "detach")
	must(t, "wait for owner", o.cmd.Wait())
	must(t, "sweep", device.Sweep())
	if err := syscall.Kill(o.leader, 0); err != nil {
		t.Errorf("the device does not run: %v", err)
	}
	ids, err := device.Detached()
	must(t, "list", err)
	if !strings.Contains(" "+strings.Join(ids, " ")+" ", " "+o.id+" ") {
		t.Errorf("%s is not among the detached: %v", o.id, ids)
	}
	must(t, "remove", device.Remove(o.id))
	o.vanishes(t)
	if err := device.Remove(o.id); err == nil {
		t.Error("a device was removed twice")
	}
}

// childrenOf lists the children of all threads of a process.
func childrenOf(t *testing.T, pid int) (pids []int) {
	t.Helper()
	threads, err := os.ReadDir("/proc/" + strconv.Itoa(pid) + "/task")
	must(t, "list threads", err)
	for _, thread := range threads {
		raw, _ := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/task/" + thread.Name() + "/children")
		for field := range strings.FieldsSeq(string(raw)) {
			if n, err := strconv.Atoi(field); err == nil {
				pids = append(pids, n)
			}
		}
	}
	return pids
}
