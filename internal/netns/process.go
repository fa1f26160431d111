package netns

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
)

// ErrGone is the error of a process that has ended.
var ErrGone = errors.New("the process has ended")

// ErrHome is the error of a process that is in the network of this one. Whoever
// says that a pod is there may be wrong, or want to reach what listens here.
var ErrHome = errors.New("the process has no network of its own")

// Process is one process, for as long as the machine is up. It holds nothing
// open, and its zero value is no process.
type Process struct {
	pid   int
	began uint64 // clock ticks since boot
}

// Find returns the process that has this number now; ErrGone when none has.
func Find(pid int) (Process, error) {
	if pid <= 0 {
		return Process{}, fmt.Errorf("find process: %d is no number of a process", pid)
	}
	began, err := beginning(pid)
	if err != nil {
		return Process{}, fmt.Errorf("find process %d: %w", pid, err)
	}
	return Process{pid: pid, began: began}, nil
}

// beginning reads when a process began. A zombie has ended.
func beginning(pid int) (uint64, error) {
	raw, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if errors.Is(err, os.ErrNotExist) {
		return 0, ErrGone
	}
	if err != nil {
		return 0, err
	}
	return parseStat(raw)
}

// parseStat returns field 22 of a process's stat. The second field, its name in
// parentheses, may hold anything; the state is the third.
func parseStat(raw []byte) (uint64, error) {
	const (
		state = 0 // counted from behind the name
		start = 19
	)
	_, rest, found := bytes.Cut(raw[max(0, bytes.LastIndexByte(raw, ')')):], []byte(") "))
	fields := bytes.Fields(rest)
	if !found || len(fields) <= start {
		return 0, errors.New("read stat: it has too few fields")
	}
	if s := string(fields[state]); s == "Z" || s == "X" {
		return 0, ErrGone
	}
	began, err := strconv.ParseUint(string(fields[start]), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("read stat: start time: %w", err)
	}
	return began, nil
}
