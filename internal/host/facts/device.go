package facts

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// maxDepth is how deep below /dev nodes are looked for: /dev/bus/usb/001/002.
const maxDepth = 4

// ordinary are the nodes that every machine has, whatever is built into it or
// plugged in: terminals, memory, random numbers, control nodes of the kernel.
var ordinary = regexp.MustCompile(`^(` + strings.Join([]string{
	`tty[0-9]*`, `console`, `ptmx`, `vcs.*`, `hvc[0-9]+`, `null`, `zero`, `full`, `u?random`, `k?mem`, `port`, `kmsg`,
	`loop-control`, `loop[0-9]+(p[0-9]+)?`, `z?ram[0-9]+`, `nbd[0-9]+(p[0-9]+)?`, `btrfs-control`, `autofs`, `fuse`, `cuse`, `userfaultfd`, `snapshot`,
	`mapper/control`, `cpu_dma_latency`, `hpet`, `mcelog`, `nvram`, `uinput`, `uhid`, `vga_arbiter`, `rfkill`, `udmabuf`, `vhost-.*`, `ppp`, `net/tun`,
	`cpu/.*`, `snd/(seq|timer)`, `input/mice`, `vfio/vfio`, `dm-[0-9]+`, `md[0-9]+`,
}, "|") + `)$`)

// skipped are folders below /dev without a device.
func skipped() []string {
	return []string{"pts", "shm", "mqueue", "hugepages", "fd", "disk", "block", "char"}
}

// devices lists the device nodes that something built in or plugged in has, with
// whom they belong to: a workload can be given them.
func (h host) devices() []protocol.HostDevice {
	devices := []protocol.HostDevice{}
	h.walkDevices("", func(name string, stat unix.Stat_t) {
		if d, ok := hostDevice(name, stat); ok && h.connected(name) {
			devices = append(devices, d)
		}
	})
	slices.SortFunc(devices, func(a, b protocol.HostDevice) int { return strings.Compare(a.Path, b.Path) })
	return devices[:min(len(devices), maxEntries)]
}

// walkDevices calls found for everything in a folder below /dev that is no folder.
// Links are not followed.
func (h host) walkDevices(dir string, found func(name string, stat unix.Stat_t)) {
	entries, err := os.ReadDir(h.path(filepath.Join("dev", dir)))
	if err != nil {
		return
	}
	for _, e := range entries {
		name := filepath.Join(dir, e.Name())
		switch {
		case e.IsDir() && strings.Count(name, "/") < maxDepth && !slices.Contains(skipped(), name):
			h.walkDevices(name, found)
		case e.Type()&fs.ModeDevice != 0:
			var stat unix.Stat_t
			if unix.Lstat(h.path(filepath.Join("dev", name)), &stat) == nil {
				found(name, stat)
			}
		}
	}
}

// hostDevice describes a node below /dev, if it is one that is told of.
func hostDevice(name string, stat unix.Stat_t) (protocol.HostDevice, bool) {
	d := protocol.HostDevice{
		Path: "/dev/" + clean(name), UID: int64(stat.Uid), GID: int64(stat.Gid),
		Major: int64(unix.Major(stat.Rdev)), Minor: int64(unix.Minor(stat.Rdev)),
	}
	switch stat.Mode & unix.S_IFMT {
	case unix.S_IFCHR:
		d.DeviceType = "char"
	case unix.S_IFBLK:
		d.DeviceType = "block"
	default:
		return d, false
	}
	return d, !ordinary.MatchString(name)
}

// connected is false for a serial port of which there is only the name: the
// kernel makes some whether there are such ports or not.
func (h host) connected(name string) bool {
	kind := h.attribute(filepath.Join("sys/class/tty", name, "type"))
	return !strings.HasPrefix(name, "ttyS") || kind != "" && kind != "0"
}
