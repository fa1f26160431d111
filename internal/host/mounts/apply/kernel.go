package apply

import (
	"bufio"
	"bytes"
	"context"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/project-flotta/flotta-agent/internal/host/mounts"
)

// kernel is what the system under the units is asked for. Tests that cannot be
// root put another one into a Reconciler.
type kernel struct {
	// table returns what is mounted, and watch calls changed when that changes.
	table func() ([]mounts.Mount, error)
	watch func(ctx context.Context, changed func()) error
	// device returns the number of a block device, or errAbsent.
	device func(path string) (string, error)
	// present reports whether a block device of that number is there.
	present func(number string) bool
	// filesystem says what is wrong with the type of a file system.
	filesystem func(kind string) error
	// fstab returns the folders that /etc/fstab mounts something at.
	fstab func() []string
	// holders names who keeps a mount from being unmounted.
	holders func(m mounts.Mount, table []mounts.Mount) []string
	// rules say where something may be mounted.
	rules func(cfg Config) rules
}

func newKernel(table *mounts.Table) kernel {
	return kernel{
		table:  table.Mounts,
		watch:  table.Watch,
		device: blockDevice,
		present: func(number string) bool {
			_, err := os.Stat(filepath.Join("/sys/dev/block", number))
			return err == nil
		},
		filesystem: newFilesystems().check,
		fstab: func() []string {
			text, _ := os.ReadFile("/etc/fstab") // there need not be one
			return fstab(text)
		},
		holders: holdersIn("/proc"),
		rules:   func(cfg Config) rules { return newRules(cfg.Allowed, slices.Concat(protectedTrees(), cfg.Protected)) },
	}
}

// fstab returns the mount points in the text of an fstab.
func fstab(text []byte) []string {
	var out []string
	for lines := bufio.NewScanner(bytes.NewReader(text)); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		if len(fields) < 2 || strings.HasPrefix(fields[0], "#") || !strings.HasPrefix(fields[1], "/") {
			continue
		}
		out = append(out, filepath.Clean(unescape(fields[1])))
	}
	return out
}

// unescape undoes how blanks are written in an fstab: as a backslash and three
// octal digits.
func unescape(text string) string {
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

// at returns what is mounted at dir and seen there, and how many mounts lie upon
// each other.
func at(table []mounts.Mount, dir string) (top mounts.Mount, n int) {
	for _, m := range table {
		if m.Directory == dir {
			top = m
			n++
		}
	}
	return top, n
}

// isOn reports whether m is a mount of the device of that number. Some file
// systems have numbers of their own: the name of their device tells.
func (k kernel) isOn(m mounts.Mount, number string) bool {
	if m.Number == number {
		return true
	}
	if !strings.HasPrefix(m.Number, "0:") || !strings.HasPrefix(m.Source, "/dev/") {
		return false
	}
	source, err := k.device(m.Source)
	return err == nil && source == number
}

// alive reports whether the device under a mount is still there.
func (k kernel) alive(m mounts.Mount) bool {
	if strings.HasPrefix(m.Number, "0:") {
		if !strings.HasPrefix(m.Source, "/dev/") {
			return true // it needs none
		}
		_, err := k.device(m.Source)
		return err == nil
	}
	return k.present(m.Number)
}
