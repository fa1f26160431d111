package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/project-flotta/flotta-agent/internal/durable"
)

// rebirth has yggd restarted: after a disconnect it neither asks nor sends
// anything for as long as it lives, so the device could not enrol again. That is
// on record until another yggd is seen, because the worker that a silent yggd
// starts anew would be as mute.
type rebirth struct {
	path    string // of the record
	current string // names the yggd of this process
	restart func(context.Context) error
}

const (
	rebirthKind    = "yggd-restart"
	rebirthVersion = 1
	restartTimeout = time.Minute
)

type rebirthRecord struct {
	Yggd string `json:"yggd"`
}

// mark records that this yggd is to be restarted.
func (r rebirth) mark() error {
	if err := durable.SaveDocument(r.path, rebirthKind, rebirthVersion, rebirthRecord{Yggd: r.current}, 0o600); err != nil {
		return fmt.Errorf("record restart of yggd: %w", err)
	}
	return nil
}

// finish restarts yggd if that is on record and this is the yggd that was meant.
// When it works, this process ends with its yggd.
func (r rebirth) finish(ctx context.Context) error {
	var record rebirthRecord
	err := durable.LoadDocument(r.path, rebirthKind, rebirthVersion, &record)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil && record.Yggd == r.current {
		ctx, cancel := context.WithTimeout(ctx, restartTimeout)
		defer cancel()
		return r.restart(ctx)
	}
	// Another yggd, or a damaged record: at worst somebody has to restart it.
	if err := os.Remove(r.path); err != nil {
		return fmt.Errorf("remove record of yggd's restart: %w", err)
	}
	return nil
}

// processName identifies a process over its end and the reuse of its number, and
// over reboots.
func processName(pid int) string {
	boot, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return fmt.Sprintf("%s %d %s", strings.TrimSpace(string(boot)), pid, startTime(pid))
}

// startTime returns when a process was started, in ticks since the boot; empty
// when there is none.
func startTime(pid int) string {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return ""
	}
	// The second field is a name in brackets, which may hold anything.
	text := string(stat)
	fields := strings.Fields(text[strings.LastIndexByte(text, ')')+1:])
	const afterName = 22 - 3 // field 22, counted from the third
	if len(fields) <= afterName {
		return ""
	}
	return fields[afterName]
}

// serviceOf returns the unit of the system that a process belongs to.
func serviceOf(pid int) (string, error) {
	file := "/proc/" + strconv.Itoa(pid) + "/cgroup"
	raw, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("find unit of yggd: %w", err)
	}
	if unit := decodeCgroup(string(raw)); unit != "" {
		return unit, nil
	}
	return "", fmt.Errorf("find unit of yggd: none in %s", file)
}

// decodeCgroup returns the service that the cgroup file of a process names;
// empty: it is in none of the system's. systemd's own hierarchy counts.
func decodeCgroup(text string) string {
	for line := range strings.Lines(text) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(parts) != 3 || (parts[1] != "" && parts[1] != "name=systemd") {
			continue
		}
		for dir := path.Clean(parts[2]); dir != "/" && dir != "."; dir = path.Dir(dir) {
			name := path.Base(dir)
			switch {
			case strings.HasPrefix(name, "user@"):
				return "" // of a user's systemd, which is not the one to ask
			case strings.HasSuffix(name, ".service"):
				if strings.Contains(dir, "/user@") {
					return ""
				}
				return name
			}
		}
	}
	return ""
}
