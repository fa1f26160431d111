package socket

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Socket is a socket of the host that takes connections or datagrams.
type Socket struct {
	Protocol string     // tcp or udp
	Address  netip.Addr // unspecified: every address
	Port     uint16
	PID      int    // of a process that holds it; zero: not known
	Command  string // of that process, printable; may be empty
	Owner    string // what Config.Owner made of that process's units
}

// Config says where to look. The zero value is the host itself.
type Config struct {
	Proc string // where procfs is mounted; /proc
	// Owner names the owner of a systemd unit, a service or a scope; empty: of
	// no interest. The units of a process are asked for from the outermost on,
	// then those of its parents, and the first answer counts. Nil: nobody owns
	// anything.
	Owner func(unit string) string
}

// Table looks at the sockets of the host. Its methods may be called from any
// goroutine.
type Table struct {
	proc  string
	owner func(unit string) string

	mu      sync.Mutex
	holders map[uint64]holder // by inode, of the sockets that were there last
}

// holder is the process that was found to hold a socket.
type holder struct {
	pid     int       // zero: none was found
	link    string    // of its descriptor
	looked  time.Time // when none was found
	command string
	owner   string
}

// searchAgain is how long a socket that no process holds is not searched for:
// the kernel has such sockets for its own purposes. A holder that was missed,
// because it came to life during the search, is found a little later.
const searchAgain = 30 * time.Second

// New returns a Table; it reads nothing.
func New(cfg Config) *Table {
	t := &Table{proc: cfg.Proc, owner: cfg.Owner, holders: map[uint64]holder{}}
	if t.proc == "" {
		t.proc = "/proc"
	}
	if t.owner == nil {
		t.owner = func(string) string { return "" }
	}
	return t
}

// sources are the files that list sockets.
type source struct{ file, protocol, state string }

func sources() []source {
	return []source{
		{"tcp", "tcp", stateListen},
		{"tcp6", "tcp", stateListen},
		{"udp", "udp", stateClosed},
		{"udp6", "udp", stateClosed},
	}
}

// Sockets returns the sockets that listen, and the datagram sockets that are
// bound, in the kernel's order. Of a socket that several processes hold, the
// one named is the first that has an owner.
func (t *Table) Sockets() ([]Socket, error) {
	type found struct {
		entry
		protocol string
	}
	var all []found
	for _, s := range sources() {
		err := t.read(s, func(e entry) { all = append(all, found{e, s.protocol}) })
		// A kernel without IPv6 has no file for it.
		if err != nil && (s.file == "tcp" || !errors.Is(err, fs.ErrNotExist)) {
			return nil, fmt.Errorf("read sockets: %w", err)
		}
	}
	inodes := make(map[uint64]bool, len(all))
	for _, f := range all {
		if f.inode != 0 {
			inodes[f.inode] = true
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.find(inodes)
	out := make([]Socket, 0, len(all))
	for _, f := range all {
		h := t.holders[f.inode]
		out = append(out, Socket{
			Protocol: f.protocol, Address: f.address, Port: f.port, PID: h.pid, Command: h.command, Owner: h.owner,
		})
	}
	return out, nil
}

func (t *Table) read(s source, found func(entry)) error {
	f, err := os.Open(filepath.Join(t.proc, "net", s.file))
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	return parse(f, s.state, found)
}

// find makes holders know the sockets with those inodes, and no others. The
// caller holds mu.
func (t *Table) find(inodes map[uint64]bool) {
	for inode := range t.holders {
		if !inodes[inode] {
			delete(t.holders, inode)
		}
	}
	missing := map[uint64]bool{}
	for inode := range inodes {
		h, known := t.holders[inode]
		switch {
		case known && h.pid == 0 && time.Since(h.looked) < searchAgain:
		case known && h.pid != 0 && t.holds(h.link, inode):
		default:
			missing[inode] = true
			t.holders[inode] = holder{looked: time.Now()}
		}
	}
	if len(missing) > 0 {
		t.search(missing)
	}
}

func (t *Table) holds(link string, inode uint64) bool {
	target, err := os.Readlink(link)
	return err == nil && target == socketLink(inode)
}

func socketLink(inode uint64) string { return "socket:[" + strconv.FormatUint(inode, 10) + "]" }

// search goes through the descriptors of all processes.
func (t *Table) search(missing map[uint64]bool) {
	links := make(map[string]uint64, len(missing))
	for inode := range missing {
		links[socketLink(inode)] = inode
	}
	for _, name := range names(t.proc) {
		pid, err := strconv.Atoi(name)
		if err != nil || pid <= 0 {
			continue
		}
		dir := filepath.Join(t.proc, name)
		var self *holder
		for _, fd := range names(filepath.Join(dir, "fd")) {
			link := filepath.Join(dir, "fd", fd)
			target, err := os.Readlink(link)
			inode, wanted := links[target]
			if err != nil || !wanted {
				continue
			}
			if self == nil {
				self = t.describe(pid, dir)
			}
			if old := t.holders[inode]; old.pid == 0 || (old.owner == "" && self.owner != "") {
				h := *self
				h.link = link
				t.holders[inode] = h
			}
		}
	}
}

// describe returns what is known of a process, which may just have ended.
func (t *Table) describe(pid int, dir string) *holder {
	h := &holder{pid: pid}
	if raw, err := os.ReadFile(filepath.Join(dir, "comm")); err == nil {
		h.command = printable(string(raw))
	}
	// The process of a container is in a control group of its own, but that of
	// the monitor that started it is in the unit.
	for range maxAncestors {
		if h.owner = t.ownerOf(dir); h.owner != "" {
			break
		}
		raw, err := os.ReadFile(filepath.Join(dir, "stat"))
		if err != nil {
			break
		}
		parent := parseParent(string(raw))
		if parent <= 1 {
			break
		}
		dir = filepath.Join(t.proc, strconv.Itoa(parent))
	}
	return h
}

// maxAncestors is more than there are between the process of a container and its
// monitor, unless somebody makes a chain of them.
const maxAncestors = 32

// ownerOf returns the owner of the units that a process is in.
func (t *Table) ownerOf(dir string) string {
	raw, err := os.ReadFile(filepath.Join(dir, "cgroup"))
	if err != nil {
		return ""
	}
	for _, unit := range parseCgroup(string(raw)) {
		if owner := t.owner(unit); owner != "" {
			return owner
		}
	}
	return ""
}

// names returns the names in a folder, as far as it can be read.
func names(dir string) []string {
	f, err := os.Open(dir)
	if err != nil {
		return nil
	}
	defer func() { _ = f.Close() }()
	// What was read before an error is worth something: the process ended.
	list, _ := f.Readdirnames(-1)
	return list
}

// String returns the socket in words for a person, such as
// "tcp 0.0.0.0:8080 of nginx (pid 12)".
func (s Socket) String() string {
	text := s.Protocol + " " + netip.AddrPortFrom(s.Address, s.Port).String()
	if s.PID == 0 {
		return text
	}
	return strings.TrimSpace(fmt.Sprintf("%s of %s", text, s.Command)) + fmt.Sprintf(" (pid %d)", s.PID)
}
