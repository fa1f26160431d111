package devnode

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// maxFile bounds what is read of a file of accounts, of a process or of groups.
const maxFile = 4 << 20

// read returns a file below the root, or nil.
func (t *Table) read(path string) []byte {
	f, err := os.Open(filepath.Join(t.cfg.Root, path))
	if err != nil {
		return nil
	}
	defer f.Close() //nolint:errcheck // only read
	raw, err := io.ReadAll(io.LimitReader(f, maxFile))
	if err != nil {
		return nil
	}
	return raw
}

// account is one line of passwd(5) or group(5).
type account struct {
	name    string
	id      uint32
	members []string // of a group
	vendor  bool     // it stands below /usr/lib, where ostree keeps those of the system
}

// accounts returns those of passwd or group.
func (t *Table) accounts(file string) []account {
	var out []account
	for _, dir := range []string{"etc", "usr/lib"} {
		for line := range bytes.Lines(t.read(filepath.Join(dir, file))) {
			fields := strings.Split(strings.TrimRight(string(line), "\n"), ":")
			if len(fields) < 4 {
				continue
			}
			id, err := strconv.ParseUint(fields[2], 10, 32)
			if err != nil || fields[0] == "" {
				continue
			}
			a := account{name: fields[0], id: uint32(id), vendor: dir != "etc"}
			if file == "group" {
				a.members = strings.Split(fields[3], ",")
			}
			out = append(out, a)
		}
	}
	return out
}

// nameOf returns the name of an id for a person.
func (t *Table) nameOf(file string, id uint32) string {
	for _, a := range t.accounts(file) {
		if a.id == id {
			return a.name
		}
	}
	return strconv.FormatUint(uint64(id), 10)
}

// listed returns the groups that the user is in as of the files of accounts, and
// will be in after its service manager was started again.
func (t *Table) listed() []uint32 {
	user := t.nameOf("passwd", t.cfg.UID)
	var out []uint32
	for _, g := range t.accounts("group") {
		if slices.Contains(g.members, user) {
			out = append(out, g.id)
		}
	}
	return out
}

// manager returns the groups of the user's service manager, and so of all that
// it starts; false: there is none, or it cannot be found.
func (t *Table) manager() ([]uint32, bool) {
	group := fmt.Sprintf("user.slice/user-%d.slice/user@%[1]d.service/init.scope/cgroup.procs", t.cfg.UID)
	// Control groups of version 2, of both beside each other, and of version 1.
	for _, tree := range []string{"", "unified", "systemd"} {
		pid, _, _ := strings.Cut(string(t.read(filepath.Join("sys/fs/cgroup", tree, group))), "\n")
		if _, err := strconv.ParseUint(pid, 10, 32); err != nil {
			continue
		}
		for line := range bytes.Lines(t.read(filepath.Join("proc", pid, "status"))) {
			rest, found := strings.CutPrefix(string(line), "Groups:")
			if !found {
				continue
			}
			var out []uint32
			for word := range strings.FieldsSeq(rest) {
				if id, err := strconv.ParseUint(word, 10, 32); err == nil {
					out = append(out, uint32(id))
				}
			}
			return out, true
		}
	}
	return nil, false
}
