package device

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// makeCgroup makes a control group that processes can be put into.
func makeCgroup(path string) error {
	if err := os.Mkdir(path, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("make cgroup: %w", err)
	}
	// A new group of the v1 cpuset controller has neither CPUs nor memory.
	for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
		value, err := os.ReadFile(filepath.Join(filepath.Dir(path), file))
		if err != nil {
			continue
		}
		if err := os.WriteFile(filepath.Join(path, file), value, 0o644); err != nil {
			return fmt.Errorf("make cgroup: %w", err)
		}
	}
	return nil
}

// memoryGroup returns the folder of the device's control group that bounds memory.
func (h Host) memoryGroup(hierarchy, id string) (string, error) {
	if hierarchy == "v2" {
		groups, err := h.cgroups(hierarchy, id)
		if err != nil {
			return "", err
		}
		return groups[0], nil
	}
	groups, err := h.cgroups("v1", id)
	if err != nil {
		return "", err
	}
	for _, group := range groups {
		if strings.HasPrefix(group, "/sys/fs/cgroup/memory/") {
			return group, nil
		}
	}
	return "", errors.New("this host has no control groups for memory")
}

// limitMemory bounds the memory of a control group that is empty. What a kernel
// has no file for cannot be got around: without swap, there is nothing to bound.
func limitMemory(group string, limit int64) error {
	value := []byte(strconv.FormatInt(limit, 10))
	if _, err := os.Stat(filepath.Join(group, "memory.limit_in_bytes")); err == nil {
		if err := os.WriteFile(filepath.Join(group, "memory.limit_in_bytes"), value, 0o644); err != nil {
			return fmt.Errorf("bound memory: %w", err)
		}
		_ = os.WriteFile(filepath.Join(group, "memory.memsw.limit_in_bytes"), value, 0o644)
		return nil
	}
	_ = os.WriteFile(filepath.Join(filepath.Dir(group), "cgroup.subtree_control"), []byte("+memory"), 0o644)
	if err := os.WriteFile(filepath.Join(group, "memory.max"), value, 0o644); err != nil {
		return fmt.Errorf("bound memory: %w", err)
	}
	_ = os.WriteFile(filepath.Join(group, "memory.swap.max"), []byte("0"), 0o644)
	return nil
}

// MemoryUse is what a device with a bound on its memory took of it.
type MemoryUse struct {
	Peak   int64 // bytes, with what the kernel keeps of files
	Killed int   // processes that the kernel killed because there was no more
}

// Memory returns what the device took of its memory since it was made.
func (d *Device) Memory() (MemoryUse, error) {
	var use MemoryUse
	if d.memory == "" {
		return use, errors.New("the device's memory has no bound")
	}
	for _, file := range []string{"memory.max_usage_in_bytes", "memory.peak"} {
		if raw, err := os.ReadFile(filepath.Join(d.memory, file)); err == nil {
			use.Peak, _ = strconv.ParseInt(strings.TrimSpace(string(raw)), 10, 64)
		}
	}
	for _, file := range []string{"memory.oom_control", "memory.events"} {
		raw, err := os.ReadFile(filepath.Join(d.memory, file))
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(raw)) {
			if word, number, _ := strings.Cut(strings.TrimSpace(line), " "); word == "oom_kill" {
				use.Killed, _ = strconv.Atoi(number)
				return use, nil
			}
		}
	}
	return use, errors.New("the kernel does not say what it killed")
}

// emptyCgroup removes the groups below one, which a boot leaves behind.
func emptyCgroup(path string) {
	entries, _ := os.ReadDir(path)
	for _, e := range entries {
		if e.IsDir() {
			child := filepath.Join(path, e.Name())
			emptyCgroup(child)
			_ = os.Remove(child)
		}
	}
}

// killCgroup kills all that is in a v2 group at one instant. On v1 it does
// nothing: there the end of the device's systemd ends its processes.
func killCgroup(path string) {
	_ = os.WriteFile(filepath.Join(path, "cgroup.kill"), []byte("1"), 0o200)
}
