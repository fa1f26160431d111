package facts

import (
	"path"
	"strings"

	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// gpus lists the display controllers on the PCI bus, class 03.
func (h host) gpus() []protocol.GPU {
	const dir = "sys/bus/pci/devices"
	gpus := []protocol.GPU{}
	for _, address := range h.list(dir) {
		at := path.Join(dir, address)
		if !strings.HasPrefix(h.attribute(path.Join(at, "class")), "0x03") {
			continue
		}
		gpus = append(gpus, protocol.GPU{
			Address:  clean(address),
			VendorID: strings.TrimPrefix(h.attribute(path.Join(at, "vendor")), "0x"),
			DeviceID: strings.TrimPrefix(h.attribute(path.Join(at, "device")), "0x"),
		})
	}
	if len(gpus) == 0 {
		return gpus // on most devices the names need not be read
	}
	names := firstOf(h.table("usr/share/hwdata/pci.ids"), h.table("usr/share/misc/pci.ids"))
	for i := range gpus {
		gpus[i].Vendor, gpus[i].Name = pciNames(names, gpus[i].VendorID, gpus[i].DeviceID)
	}
	return gpus
}

// pciNames finds names in a pci.ids: lines of an ID, two blanks and the name, those
// of devices behind a tab below their vendor's. Where there is none, it is "".
func pciNames(table, vendorID, deviceID string) (vendor, device string) {
	if vendorID == "" {
		return "", ""
	}
	for line := range strings.Lines(table) {
		switch {
		case vendor == "":
			if name, ok := strings.CutPrefix(line, vendorID+"  "); ok {
				vendor = clean(name)
			}
		case strings.HasPrefix(line, "\t\t"), strings.HasPrefix(line, "#"):
		case !strings.HasPrefix(line, "\t"):
			return vendor, "" // the next vendor
		default:
			if name, ok := strings.CutPrefix(line, "\t"+deviceID+"  "); ok {
				return vendor, clean(name)
			}
		}
	}
	return vendor, ""
}
