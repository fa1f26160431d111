package mounts

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Mount is one mounted file system.
type Mount struct {
	Source    string // as who mounted it gave it, such as /dev/sda1
	Directory string // real path, as this process sees it
	Type      string // such as ext4
	Options   string // of the mount, not of the file system
	Root      string // folder of the file system that is mounted there
	Number    string // of the device, such as 8:17; of some file systems, btrfs for one, a number of their own
	FSOptions string // of the file system, whichever way it is mounted
	// Shared and Master are the groups of mounts that see the same mounts and
	// unmounts below them: the one that this mount is in, and the one that it
	// only follows. Empty: none.
	Shared, Master string
}

// Table is the kernel's table of mounts. Its methods may be called from any
// goroutine.
type Table struct{ file string }

// Default is the table of the mount namespace that this process lives in.
const Default = "/proc/self/mountinfo"

// New returns the table in that file; it reads nothing.
func New(file string) *Table { return &Table{file: file} }

// Mounts returns all mounts in the order in which they were made. Of several at
// one directory, the last one is the one that is seen.
func (t *Table) Mounts() ([]Mount, error) {
	f, err := os.Open(t.file)
	if err != nil {
		return nil, fmt.Errorf("read mounts: %w", err)
	}
	defer func() { _ = f.Close() }()
	list, err := parse(f)
	if err != nil {
		return nil, fmt.Errorf("read mounts %s: %w", t.file, err)
	}
	return list, nil
}

// Mounted reports whether dir, an absolute path, is where something is mounted.
// An automount point is one, too: what belongs there appears when it is used.
func (t *Table) Mounted(dir string) (bool, error) {
	dir = filepath.Clean(dir)
	list, err := t.Mounts()
	if err != nil {
		return false, err
	}
	if at(list, dir) {
		return true, nil
	}
	// Only the parents: what is mounted behind a last link is not at dir but
	// where the link leads, and there it counts as well.
	seen, err := filepath.EvalSymlinks(dir)
	if err != nil || seen == dir {
		return false, nil //nolint:nilerror // it is not there, or cannot be reached
	}
	return at(list, seen), nil
}

func at(list []Mount, dir string) bool {
	for _, m := range list {
		if m.Directory == dir {
			return true
		}
	}
	return false
}

// maxLine is more than the kernel writes: a page for each of two paths, which
// escaping can make four times as long, and for options.
const maxLine = 64 << 10

// parse reads mountinfo. Lines that make no sense are skipped.
func parse(r io.Reader) ([]Mount, error) {
	var list []Mount
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxLine)
	for lines.Scan() {
		if m, ok := parseLine(lines.Text()); ok {
			list = append(list, m)
		}
	}
	return list, lines.Err()
}

// parseLine reads ids, root, mount point, options, any number of optional
// fields, a hyphen, type, source and options of the file system.
func parseLine(line string) (Mount, bool) {
	before, after, ok := strings.Cut(line, " - ")
	head, tail := strings.Split(before, " "), strings.Split(after, " ")
	if !ok || len(head) < 6 || len(tail) < 2 {
		return Mount{}, false
	}
	m := Mount{
		Source: unescape(tail[1]), Directory: unescape(head[4]), Type: unescape(tail[0]),
		Options: head[5], Root: unescape(head[3]), Number: head[2],
	}
	if len(tail) > 2 {
		m.FSOptions = tail[2]
	}
	for _, field := range head[6:] {
		switch key, group, _ := strings.Cut(field, ":"); key {
		case "shared":
			m.Shared = group
		case "master":
			m.Master = group
		}
	}
	return m, strings.HasPrefix(m.Directory, "/")
}

// unescape undoes how the kernel writes white space, backslashes and hashes: as
// a backslash and three octal digits.
func unescape(text string) string {
	if !strings.Contains(text, `\`) {
		return text
	}
	var b strings.Builder
	for i := 0; i < len(text); i++ {
		if text[i] == '\\' && i+3 < len(text) {
			if n, err := strconv.ParseUint(text[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(text[i])
	}
	return b.String()
}
