package playbook

import (
	"bufio"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// groups are the control groups of a process, by controller; that of systemd, or
// of all with version 2 alone, under "".
type groups map[string]string

// groupsOf reads the file cgroup of a process in /proc.
func groupsOf(path string) groups {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	out := groups{}
	for line := range strings.Lines(string(data)) {
		number, rest, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ":")
		controllers, group, found := strings.Cut(rest, ":")
		if !found {
			continue
		}
		for c := range strings.SplitSeq(controllers, ",") {
			switch {
			case c == "name=systemd":
				out[""] = group
			case c != "":
				out[c] = group
			case number == "0" && out[""] == "":
				out[""] = group
			}
		}
	}
	return out
}

// outOfMemory returns how many processes of this process' control group the
// kernel has ended for want of memory; 0 where that is not known.
func outOfMemory() int {
	own := groupsOf("/proc/self/cgroup")
	if group, ok := own["memory"]; ok {
		return counter(filepath.Join("/sys/fs/cgroup/memory", group, "memory.oom_control"), "oom_kill")
	}
	return counter(filepath.Join("/sys/fs/cgroup", own[""], "memory.events"), "oom_kill")
}

func counter(path, key string) int {
	f, err := os.Open(path)
	if err != nil {
		return 0
	}
	defer f.Close() //nolint:errcheck // nothing was written
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if value, ok := strings.CutPrefix(lines.Text(), key+" "); ok {
			n, _ := strconv.Atoi(value)
			return n
		}
	}
	return 0
}
