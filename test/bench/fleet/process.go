package fleet

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// Process is a running program, as /proc shows it.
type Process struct {
	Name string
	PID  int
}

// clockTick is the unit of times in /proc: USER_HZ, 100 on every architecture
// that Go runs on.
const clockTick = 10 * time.Millisecond

// CPU returns the processor time that the process has used so far.
func (p Process) CPU() (time.Duration, error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.PID))
	if err != nil {
		return 0, err
	}
	// The name, in parentheses, may hold anything.
	fields := strings.Fields(string(raw[strings.LastIndexByte(string(raw), ')')+1:]))
	const user, system = 11, 12
	if len(fields) <= system {
		return 0, fmt.Errorf("stat of process %d has %d fields", p.PID, len(fields))
	}
	var ticks int64
	for _, i := range []int{user, system} {
		n, err := strconv.ParseInt(fields[i], 10, 64)
		if err != nil {
			return 0, err
		}
		ticks += n
	}
	return time.Duration(ticks) * clockTick, nil
}

// Resident returns the process's resident memory now, in bytes.
func (p Process) Resident() (int64, error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.PID))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(raw)) {
		if rest, found := strings.CutPrefix(line, "VmRSS:"); found {
			kB, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			return kB * 1024, err
		}
	}
	return 0, fmt.Errorf("process %d has no resident memory", p.PID)
}

// FindChild returns the child of this process whose environment has that entry,
// NAME=value.
func FindChild(name, entry string) (Process, error) {
	folders, err := os.ReadDir("/proc")
	if err != nil {
		return Process{}, err
	}
	for _, f := range folders {
		pid, err := strconv.Atoi(f.Name())
		if err != nil {
			continue
		}
		raw, err := os.ReadFile("/proc/" + f.Name() + "/stat")
		if err != nil {
			continue // it has ended
		}
		rest := strings.Fields(string(raw[strings.LastIndexByte(string(raw), ')')+1:]))
		if len(rest) < 2 || rest[1] != strconv.Itoa(os.Getpid()) {
			continue
		}
		env, err := os.ReadFile("/proc/" + f.Name() + "/environ")
		if err == nil && strings.Contains("\x00"+string(env)+"\x00", "\x00"+entry+"\x00") {
			return Process{Name: name, PID: pid}, nil
		}
	}
	return Process{}, fmt.Errorf("no child process with %s", entry)
}
