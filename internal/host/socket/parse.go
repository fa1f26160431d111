package socket

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"io"
	"net/netip"
	"strconv"
	"strings"
)

// States of a socket as the kernel numbers them. A datagram socket that is
// bound and talks to nobody in particular is "closed".
const (
	stateClosed = "07"
	stateListen = "0A"
)

// entry is one line of a file in /proc/net.
type entry struct {
	address netip.Addr
	port    uint16
	inode   uint64 // zero: no file descriptor leads to it any more
}

// parse calls found for every socket in that state. Lines that make no sense
// are skipped: there may be new columns, but never too few.
func parse(r io.Reader, state string, found func(entry)) error {
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		if e, ok := parseLine(lines.Text(), state); ok {
			found(e)
		}
	}
	return lines.Err()
}

// parseLine reads slot, local and remote address, state, queues, timer,
// retransmits, user, time-out and inode.
func parseLine(line, state string) (entry, bool) {
	fields := strings.Fields(line)
	if len(fields) < 10 || fields[3] != state {
		return entry{}, false
	}
	address, port, ok := parseAddress(fields[1])
	inode, err := strconv.ParseUint(fields[9], 10, 64)
	if !ok || err != nil || port == 0 {
		return entry{}, false
	}
	return entry{address: address, port: port, inode: inode}, true
}

// parseAddress reads an address, words of 32 bits in the byte order of the
// machine, and a port.
func parseAddress(text string) (netip.Addr, uint16, bool) {
	host, service, _ := strings.Cut(text, ":")
	port, err := strconv.ParseUint(service, 16, 16)
	if err != nil {
		return netip.Addr{}, 0, false
	}
	raw, err := hex.DecodeString(host)
	if err != nil || (len(raw) != 4 && len(raw) != 16) {
		return netip.Addr{}, 0, false
	}
	for i := 0; i < len(raw); i += 4 {
		binary.BigEndian.PutUint32(raw[i:], binary.NativeEndian.Uint32(raw[i:]))
	}
	address, _ := netip.AddrFromSlice(raw)
	return address.Unmap(), uint16(port), true
}

// parseCgroup returns the names of the units that a process lives in, from the
// outermost on, in each hierarchy.
func parseCgroup(text string) []string {
	var units []string
	for line := range strings.Lines(text) {
		// Number, controllers and path; a path may hold colons.
		parts := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(parts) < 3 {
			continue
		}
		for name := range strings.SplitSeq(parts[2], "/") {
			if strings.HasSuffix(name, ".service") || strings.HasSuffix(name, ".scope") {
				units = append(units, name)
			}
		}
	}
	return units
}

// parseParent reads the parent of a process from its status; zero: none. The
// second field is its name in parentheses, which may hold anything.
func parseParent(text string) int {
	fields := strings.Fields(text[strings.LastIndexByte(text, ')')+1:])
	if len(fields) < 2 {
		return 0
	}
	parent, err := strconv.Atoi(fields[1])
	if err != nil {
		return 0
	}
	return parent
}

// maxCommand is more than the kernel keeps of a name.
const maxCommand = 64

// printable returns what of a process's name may be shown.
func printable(name string) string {
	name = strings.Map(func(r rune) rune {
		if !strconv.IsPrint(r) {
			return '?'
		}
		return r
	}, strings.TrimSpace(strings.ToValidUTF8(name, "?")))
	if len(name) > maxCommand {
		name = strings.ToValidUTF8(name[:maxCommand], "")
	}
	return name
}
