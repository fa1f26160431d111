package facts

import (
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// notDisk names block devices that are made of memory, of files and of others.
func notDisk() []string {
	return []string{"loop", "ram", "zram", "dm-", "md", "nbd", "drbd", "rbd", "fd"}
}

// hasPrefix reports whether name begins with one of prefixes.
func hasPrefix(name string, prefixes []string) bool {
	return slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(name, p) })
}

func (h host) disks() []protocol.Disk {
	disks := []protocol.Disk{}
	byID, byPath := h.links("dev/disk/by-id"), h.links("dev/disk/by-path")
	for _, name := range h.list("sys/block") {
		if hasPrefix(name, notDisk()) {
			continue
		}
		if d := h.disk(name); d.SizeBytes > 0 {
			d.ByID, d.ByPath = byID[name], byPath[name]
			d.ID = firstOf(d.ByID, d.ByPath, d.Path)
			disks = append(disks, d)
		}
	}
	return disks
}

func (h host) disk(name string) protocol.Disk {
	dir := filepath.Join("sys/block", name)
	d := protocol.Disk{
		Name:      name,
		Path:      "/dev/" + strings.ReplaceAll(name, "!", "/"), // cciss!c0d0
		DriveType: "SSD",
		Vendor:    h.attribute(filepath.Join(dir, "device/vendor")),
		Model:     h.attribute(filepath.Join(dir, "device/model")),
		Serial:    firstOf(h.attribute(filepath.Join(dir, "device/serial")), h.attribute(filepath.Join(dir, "serial"))),
		WWN:       firstOf(h.attribute(filepath.Join(dir, "device/wwid")), h.attribute(filepath.Join(dir, "wwid"))),
	}
	switch {
	case strings.HasPrefix(name, "sr"):
		d.DriveType = "ODD"
	case h.number(filepath.Join(dir, "queue/rotational")) == 1:
		d.DriveType = "HDD"
	}
	if sectors := h.number(filepath.Join(dir, "size")); sectors <= math.MaxInt64/512 {
		d.SizeBytes = sectors * 512 // always of 512 bytes here, whatever the disk has
	}
	if target, err := os.Readlink(h.path(filepath.Join(dir, "device"))); err == nil {
		if hctl := filepath.Base(target); isHCTL(hctl) {
			d.HCTL = hctl
		}
	}
	return d
}

// isHCTL reports whether name is a SCSI address: host, channel, target, LUN.
func isHCTL(name string) bool {
	parts := strings.Split(name, ":")
	return len(parts) == 4 && !slices.ContainsFunc(parts, func(p string) bool {
		_, err := strconv.ParseUint(p, 10, 64)
		return err != nil
	})
}

// links maps the names of disks to the first of the links that udev made for
// them in dir.
func (h host) links(dir string) map[string]string {
	links := map[string]string{}
	for _, name := range h.list(dir) {
		target, err := os.Readlink(h.path(filepath.Join(dir, name)))
		if err != nil {
			continue
		}
		if disk := filepath.Base(target); links[disk] == "" {
			links[disk] = clean("/" + dir + "/" + name)
		}
	}
	return links
}

func firstOf(texts ...string) string {
	for _, t := range texts {
		if t != "" {
			return t
		}
	}
	return ""
}

// parseMounts reads mountinfo and returns the mounted block devices by
// directory. Of several mounts of one device (containers bind them) only the
// first one is a fact about the machine.
func parseMounts(text string) []protocol.Mount {
	mounts := []protocol.Mount{}
	seen := map[string]bool{}
	for line := range strings.Lines(text) {
		m, ok := parseMount(line)
		if !ok || seen[m.Device] || len(mounts) == maxEntries {
			continue
		}
		seen[m.Device] = true
		mounts = append(mounts, m)
	}
	slices.SortFunc(mounts, func(a, b protocol.Mount) int { return strings.Compare(a.Directory, b.Directory) })
	return mounts
}

// parseMount reads one line: ids, root, mount point, options, optional fields,
// a hyphen, type, source, options of the file system.
func parseMount(line string) (protocol.Mount, bool) {
	before, after, ok := strings.Cut(line, " - ")
	head, tail := strings.Fields(before), strings.Fields(after)
	if !ok || len(head) < 6 || len(tail) < 2 {
		return protocol.Mount{}, false
	}
	device := unescape(tail[1])
	if !strings.HasPrefix(device, "/dev/") || strings.HasPrefix(device, "/dev/loop") {
		return protocol.Mount{}, false
	}
	return protocol.Mount{
		Device:    clean(device),
		Directory: clean(unescape(head[4])),
		Type:      clean(tail[0]),
		Options:   clean(head[5]),
	}, true
}

// unescape undoes how mountinfo writes white space and backslashes: as three
// octal digits behind a backslash.
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
