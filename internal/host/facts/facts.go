package facts

import (
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// Bounds of what is read: an attribute is a line, and a table (cpuinfo of 256
// processors, mountinfo of a busy host) stays below a few MiB.
const (
	maxAttribute = 4 << 10
	maxTable     = 8 << 20
	maxEntries   = 1024 // disks, interfaces, mounts, device nodes
)

// host reads below root.
type host struct{ root string }

// Collect describes the machine whose file system is at root: "/" for this one.
// Addresses of interfaces are only known of this one. It reads some dozen small
// files and looks at what is in /dev.
func Collect(root string) protocol.HardwareInfo {
	h := host{root: root}
	cpu := h.cpu()
	info := protocol.HardwareInfo{
		Hostname:     h.hostname(),
		CPU:          cpu,
		Memory:       h.memory(),
		SystemVendor: h.vendor(cpu.Flags),
		Interfaces:   h.interfaces(),
		Disks:        h.disks(),
		Mounts:       parseMounts(h.table("proc/self/mountinfo")),
		GPUs:         h.gpus(),
		HostDevices:  h.devices(),
	}
	info.Boot = h.boot(info.Interfaces)
	return info
}

// real reports whether the machine is this one.
func (h host) real() bool { return h.root == "" || filepath.Clean(h.root) == "/" }

func (h host) path(name string) string { return filepath.Join("/", h.root, name) }

func (h host) exists(name string) bool {
	_, err := os.Stat(h.path(name))
	return err == nil
}

// read returns at most limit bytes of a regular file, or "".
func (h host) read(name string, limit int64) string {
	// Not a pipe, which would block.
	if info, err := os.Stat(h.path(name)); err != nil || !info.Mode().IsRegular() {
		return ""
	}
	f, err := os.Open(h.path(name))
	if err != nil {
		return ""
	}
	defer f.Close() //nolint:errcheck // only read
	data, err := io.ReadAll(io.LimitReader(f, limit))
	if err != nil && len(data) == 0 { // some attributes answer with an error
		return ""
	}
	return string(data)
}

func (h host) table(name string) string { return h.read(name, maxTable) }

// attribute returns the one line of a file, fit for JSON and for labels.
func (h host) attribute(name string) string { return clean(h.read(name, maxAttribute)) }

func (h host) number(name string) int64 {
	n, err := strconv.ParseInt(h.attribute(name), 10, 64)
	if err != nil || n < 0 {
		return 0
	}
	return n
}

// list returns the names in a folder, sorted.
func (h host) list(name string) []string {
	entries, err := os.ReadDir(h.path(name))
	if err != nil {
		return nil
	}
	var names []string
	for _, e := range entries[:min(len(entries), maxEntries)] {
		names = append(names, e.Name())
	}
	return names
}

// clean makes one line of printable text of what firmware and drivers give:
// padding, zero bytes and worse.
func clean(text string) string {
	text = strings.ToValidUTF8(text, "")
	text = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, text)
	return strings.Join(strings.Fields(text), " ")
}

func (h host) hostname() string {
	if name := h.attribute("proc/sys/kernel/hostname"); name != "" {
		return name
	}
	return h.attribute("etc/hostname")
}

func (h host) vendor(cpuFlags []string) *protocol.SystemVendor {
	v := &protocol.SystemVendor{
		Manufacturer: h.attribute("sys/class/dmi/id/sys_vendor"),
		ProductName:  h.attribute("sys/class/dmi/id/product_name"),
		SerialNumber: h.attribute("sys/class/dmi/id/product_serial"),
	}
	if v.ProductName == "" { // boards without DMI
		v.ProductName = h.attribute("sys/firmware/devicetree/base/model")
	}
	if v.SerialNumber == "" {
		v.SerialNumber = h.attribute("sys/firmware/devicetree/base/serial-number")
	}
	for _, f := range cpuFlags {
		v.Virtual = v.Virtual || f == "hypervisor"
	}
	v.Virtual = v.Virtual || h.exists("sys/hypervisor/type") || h.exists("proc/device-tree/hypervisor")
	return v
}

// boot says how the machine was booted; interfaces tell which of them BOOTIF on
// the kernel's command line means.
func (h host) boot(interfaces []protocol.Interface) *protocol.Boot {
	b := &protocol.Boot{CurrentBootMode: "bios"}
	if h.exists("sys/firmware/efi") {
		b.CurrentBootMode = "uefi"
	}
	mac := parseBootif(h.attribute("proc/cmdline"))
	for _, i := range interfaces {
		if mac != "" && strings.EqualFold(i.MACAddress, mac) {
			b.PXEInterface = i.Name
		}
	}
	return b
}

// parseBootif returns the address in BOOTIF=01-52-54-00-00-00-01, or "".
func parseBootif(cmdline string) string {
	for word := range strings.FieldsSeq(cmdline) {
		if v, ok := strings.CutPrefix(word, "BOOTIF="); ok {
			_, mac, ok := strings.Cut(v, "-") // hardware type, address
			if ok && strings.Count(mac, "-") == 5 {
				return strings.ReplaceAll(mac, "-", ":")
			}
		}
	}
	return ""
}
