package device

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// records is where every device on this machine has a folder, named after its
// slot. It holds the environment for the reaper, and its owner.
const records = "/run/flotta-device"

// slots is how many devices there can be at a time on a machine. It is also the
// number of their networks.
const slots = 1024

// record is a device's entry in the list of devices of this machine. Its slot
// gives the names and addresses that are the device's own.
type record struct {
	slot int
	path string
	env  []string // for the reaper
}

// id names what the device has on the host: control groups, network namespace,
// link (so at most 15 characters), table.
func (r record) id() string { return fmt.Sprintf("fd%d-%d", r.slot, os.Getpid()) }

// claim takes the first free slot. A folder complete with its content is renamed
// into place, so that nobody ever sees half a record.
func claim(environment func(r record) ([]string, error)) (record, error) {
	if err := os.MkdirAll(records, 0o755); err != nil {
		return record{}, fmt.Errorf("claim slot: %w", err)
	}
	self, err := startTime(os.Getpid())
	if err != nil {
		return record{}, fmt.Errorf("claim slot: %w", err)
	}
	owner := fmt.Sprintf("%d %s", os.Getpid(), self)
	for slot := range slots {
		r := record{slot: slot, path: filepath.Join(records, strconv.Itoa(slot))}
		if _, err := os.Stat(r.path); err == nil {
			continue
		}
		if r.env, err = environment(r); err != nil {
			return record{}, fmt.Errorf("claim slot: %w", err)
		}
		r.env = append(r.env, "RECORD="+r.path)
		if err := r.put(owner); err == nil {
			return r, nil
		} else if !errors.Is(err, fs.ErrExist) {
			return record{}, fmt.Errorf("claim slot: %w", err)
		}
	}
	return record{}, errors.New("claim slot: all are taken")
}

func (r record) put(owner string) error {
	tmp, err := os.MkdirTemp(records, ".new-")
	if err != nil {
		return err
	}
	err = errors.Join(
		os.WriteFile(filepath.Join(tmp, "owner"), []byte(owner), 0o600),
		os.WriteFile(filepath.Join(tmp, "environment"), []byte(strings.Join(r.env, "\n")), 0o600),
	)
	if err == nil {
		// On a folder that is not empty rename fails, so one of two wins.
		err = os.Rename(tmp, r.path)
	}
	if err != nil {
		_ = os.RemoveAll(tmp)
	}
	return err
}

// Sweep removes what devices of dead programs have left on this machine, which
// happens only when their reaper was killed too. Devices that were detached
// stay. Boot calls it first.
func Sweep() error {
	unlock, err := lock()
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("sweep devices: %w", err)
	}
	defer unlock()
	entries, err := os.ReadDir(records)
	if err != nil {
		return fmt.Errorf("sweep devices: %w", err)
	}
	var errs []error
	for _, e := range entries {
		path := filepath.Join(records, e.Name())
		if _, err := strconv.Atoi(e.Name()); err != nil || detached(path) ||
			alive(filepath.Join(path, "owner")) || alive(filepath.Join(path, "reaper")) {
			continue
		}
		if err := remove(path); err != nil {
			errs = append(errs, fmt.Errorf("sweep device %s: %w", e.Name(), err))
		}
	}
	return errors.Join(errs...)
}

// Detached lists the devices on this machine that were detached, for Remove.
func Detached() ([]string, error) {
	entries, err := os.ReadDir(records)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list devices: %w", err)
	}
	var ids []string
	for _, e := range entries {
		if detached(filepath.Join(records, e.Name())) {
			ids = append(ids, e.Name())
		}
	}
	return ids, nil
}

// Remove removes a detached device, as Close would have done.
func Remove(id string) error {
	unlock, err := lock()
	if err != nil {
		return fmt.Errorf("remove device %s: %w", id, err)
	}
	defer unlock()
	path := filepath.Join(records, filepath.Base(id))
	if !detached(path) {
		return fmt.Errorf("remove device %s: there is no such detached device", id)
	}
	if err := remove(path); err != nil {
		return fmt.Errorf("remove device %s: %w", id, err)
	}
	return nil
}

// lock keeps two programs from removing the same device: the second one could
// meet a new device in its slot.
func lock() (unlock func(), err error) {
	dir, err := os.Open(records)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(dir.Fd()), unix.LOCK_EX); err != nil {
		return nil, errors.Join(err, dir.Close())
	}
	return func() { _ = dir.Close() }, nil
}

func detached(path string) bool {
	_, err := os.Stat(filepath.Join(path, "detached"))
	return err == nil
}

// remove does a reaper's work.
func remove(path string) error {
	raw, err := os.ReadFile(filepath.Join(path, "environment"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil // its reaper has just finished
	}
	if err != nil {
		return err
	}
	cmd := exec.Command("/bin/sh", "-c", reapScript, "reap")
	cmd.Env = strings.Split(string(raw), "\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

// alive says whether the process that a file names, with its start time, exists.
func alive(file string) bool {
	raw, err := os.ReadFile(file)
	if err != nil {
		return false
	}
	number, start, _ := strings.Cut(string(raw), " ")
	pid, err := strconv.Atoi(number)
	if err != nil {
		return false
	}
	now, err := startTime(pid)
	return err == nil && now == start
}

// startTime returns when a process was started, in the kernel's own unit: with
// it a PID names one process for ever.
func startTime(pid int) (string, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return "", err
	}
	// The second field is a name in parentheses that may hold anything.
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	const startIndex = 19 // field 22 of proc(5)
	if len(fields) <= startIndex {
		return "", fmt.Errorf("process %d has no start time", pid)
	}
	if string(fields[0]) == "Z" {
		return "", fmt.Errorf("process %d has ended", pid)
	}
	return string(fields[startIndex]), nil
}

// gone waits until a process has ended.
func gone(pid int, limit time.Duration) bool {
	for end := time.Now().Add(limit); ; time.Sleep(5 * time.Millisecond) {
		if _, err := startTime(pid); err != nil {
			return true
		}
		if time.Now().After(end) {
			return false
		}
	}
}
