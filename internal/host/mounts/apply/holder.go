package apply

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/project-flotta/flotta-agent/internal/host/mounts"
)

// holdersIn returns what looks in that /proc for those who keep a mount from
// being unmounted: processes with a file or a folder of it open, mount points
// below it, and processes with a mount namespace of their own into which it was
// taken. The last do not keep the kernel from unmounting it here; but they
// would go on using a file system that everybody else believes to be gone.
//
// It opens nothing on the file system itself, which may be one that hangs.
func holdersIn(proc string) func(m mounts.Mount, table []mounts.Mount) []string {
	return func(m mounts.Mount, table []mounts.Mount) []string {
		var out []string
		for _, other := range table {
			if other.Directory != m.Directory && within(other.Directory, m.Directory) {
				out = append(out, "the mount at "+other.Directory)
			}
		}
		s := search{proc: proc, mount: m, own: namespace(proc, "self"), seen: map[string]use{}}
		for _, pid := range processes(proc) {
			if s.holds(pid) {
				out = append(out, describe(proc, pid))
			}
		}
		return out
	}
}

// processes returns the numbers of all processes in ascending order.
func processes(proc string) []int {
	entries, _ := os.ReadDir(proc)
	var out []int
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil {
			out = append(out, pid)
		}
	}
	slices.Sort(out)
	return out
}

// use says where a mount namespace has the mount.
type use struct {
	holds bool     // in a way that does not end when it is unmounted here
	where []string // and where it does
}

type search struct {
	proc  string
	mount mounts.Mount
	own   string // mount namespace
	seen  map[string]use
}

// holds reports whether the process keeps the mount. Of each namespace that
// does, it does so for the first process.
func (s *search) holds(pid int) bool {
	dir := strconv.Itoa(pid)
	ns := namespace(s.proc, dir)
	if ns == "" {
		return false // it has ended, or is a thread of the kernel
	}
	where := []string{s.mount.Directory}
	if ns != s.own {
		u, known := s.seen[ns]
		if !known {
			u = s.look(dir)
			s.seen[ns] = u
		}
		if u.holds {
			return !known
		}
		where = u.where
	}
	return len(where) > 0 && s.opened(dir, where)
}

// look reads what another mount namespace has of the mount.
func (s *search) look(pid string) use {
	var u use
	list, err := mounts.New(filepath.Join(s.proc, pid, "mountinfo")).Mounts()
	if err != nil {
		return u
	}
	for _, m := range list {
		switch {
		case m.Number != s.mount.Number || m.Type != s.mount.Type:
		case linked(m, s.mount) && m.Directory == s.mount.Directory:
			u.where = append(u.where, m.Directory)
		default:
			u.holds = true
		}
	}
	return u
}

// linked reports whether what becomes of one mount becomes of the other.
func linked(a, b mounts.Mount) bool {
	return a.Shared != "" && (a.Shared == b.Shared || a.Shared == b.Master) || a.Master != "" && (a.Master == b.Shared || a.Master == b.Master)
}

// opened reports whether a process has something below one of the folders open.
func (s *search) opened(pid string, where []string) bool {
	links := []string{"cwd", "root", "exe"}
	fds, _ := os.ReadDir(filepath.Join(s.proc, pid, "fd"))
	for _, fd := range fds {
		links = append(links, "fd/"+fd.Name())
	}
	for _, link := range links {
		to, err := os.Readlink(filepath.Join(s.proc, pid, link))
		if err == nil && slices.ContainsFunc(where, func(dir string) bool { return within(to, dir) }) {
			return true
		}
	}
	return false
}

func namespace(proc, pid string) string {
	ns, _ := os.Readlink(filepath.Join(proc, pid, "ns/mnt"))
	return ns
}

// describe names a process and the unit that it belongs to.
func describe(proc string, pid int) string {
	dir := filepath.Join(proc, strconv.Itoa(pid))
	name := "a process"
	if comm, err := os.ReadFile(filepath.Join(dir, "comm")); err == nil {
		name = printable(strings.TrimSpace(string(comm)))
	}
	groups, _ := os.ReadFile(filepath.Join(dir, "cgroup"))
	if unit := unitOf(string(groups)); unit != "" {
		return fmt.Sprintf("%s (process %d of %s)", name, pid, printable(unit))
	}
	return fmt.Sprintf("%s (process %d)", name, pid)
}

// unitOf returns the unit in the text of /proc/<pid>/cgroup that says most:
// the innermost service, or else the innermost scope.
func unitOf(text string) string {
	service, scope := "", ""
	for line := range strings.Lines(text) {
		fields := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(fields) != 3 || fields[1] != "" && fields[1] != "name=systemd" {
			continue
		}
		for part := range strings.SplitSeq(fields[2], "/") {
			switch {
			case strings.HasSuffix(part, ".service"):
				service = part
			case strings.HasSuffix(part, ".scope"):
				scope = part
			}
		}
	}
	if service != "" && !strings.HasPrefix(service, "user@") {
		return service
	}
	if scope != "" {
		return scope
	}
	return service
}

// some names the first of many.
func some(names []string) string {
	const most = 3
	if len(names) <= most {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
}
