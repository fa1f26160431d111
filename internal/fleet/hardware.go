package fleet

import (
	"fmt"
	"maps"
	"math"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/project-flotta/flotta-agent/pkg/api/v1alpha1"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// TakeHardware merges what a device reported into its status and labels. Labels
// are replaced by a copy.
func TakeHardware(object *v1alpha1.EdgeDevice, reported *protocol.HardwareInfo) {
	if reported == nil {
		return
	}
	object.Status.Hardware = MergeHardware(object.Status.Hardware, reported)
	object.Labels = maps.Clone(object.Labels)
	if object.Labels == nil {
		object.Labels = make(map[string]string)
	}
	hw := object.Status.Hardware
	label := func(key, value string) {
		if normal := normalLabel(value); normal != "" {
			object.Labels[key] = normal
		}
	}
	label(v1alpha1.LabelHostname, hw.Hostname)
	if hw.CPU != nil {
		label(v1alpha1.LabelCPUArchitecture, hw.CPU.Architecture)
		label(v1alpha1.LabelCPUModel, hw.CPU.ModelName)
	}
	if v := hw.SystemVendor; v != nil {
		label(v1alpha1.LabelSystemManufacturer, v.Manufacturer)
		label(v1alpha1.LabelSystemProduct, v.ProductName)
		label(v1alpha1.LabelSystemSerial, v.SerialNumber)
	}
}

// normalLabel makes a label value of a text: lower case, without what labels
// cannot hold, at most 63 bytes; empty when nothing is left.
func normalLabel(text string) string {
	alnum := func(r rune) bool { return 'a' <= r && r <= 'z' || '0' <= r && r <= '9' }
	trim := func(s string) string { return strings.TrimFunc(s, func(r rune) bool { return !alnum(r) }) }
	kept := strings.Map(func(r rune) rune {
		if alnum(r) || r == '-' || r == '_' || r == '.' {
			return r
		}
		return -1
	}, trim(strings.ToLower(text)))
	if len(kept) > validation.LabelValueMaxLength {
		kept = kept[:validation.LabelValueMaxLength]
	}
	return trim(kept)
}

// MergeHardware returns old with what is reported. Agents report all of it once
// and then what changes, so what is missing from a report is as it was: a nil
// list, a section that is not there, a field with its zero value. Old is not
// changed and may be nil.
func MergeHardware(old *v1alpha1.Hardware, in *protocol.HardwareInfo) *v1alpha1.Hardware {
	if in == nil {
		return old
	}
	out := v1alpha1.Hardware{Disks: []v1alpha1.Disk{}, Gpus: []v1alpha1.Gpu{}, Interfaces: []v1alpha1.Interface{}}
	if old != nil {
		out = *old
	}
	set(&out.Hostname, in.Hostname)
	out.Boot = mergeBoot(out.Boot, in.Boot)
	out.CPU = mergeCPU(out.CPU, in.CPU)
	out.Memory = mergeMemory(out.Memory, in.Memory)
	out.SystemVendor = mergeVendor(out.SystemVendor, in.SystemVendor)
	setList(&out.Disks, in.Disks, disk)
	setList(&out.Gpus, in.GPUs, func(g protocol.GPU) v1alpha1.Gpu {
		return v1alpha1.Gpu{Address: g.Address, DeviceID: g.DeviceID, Name: g.Name, Vendor: g.Vendor, VendorID: g.VendorID}
	})
	setList(&out.Interfaces, in.Interfaces, netInterface)
	setList(&out.HostDevices, in.HostDevices, func(d protocol.HostDevice) v1alpha1.HostDevice {
		return v1alpha1.HostDevice{
			Path: d.Path, DeviceType: d.DeviceType,
			UID: number32(d.UID), GID: number32(d.GID), Major: number32(d.Major), Minor: number32(d.Minor),
		}
	})
	setList(&out.Mounts, in.Mounts, func(m protocol.Mount) v1alpha1.Mount {
		return v1alpha1.Mount{Device: m.Device, Directory: m.Directory, Type: m.Type, Options: m.Options}
	})
	return &out
}

// set overwrites a field with a value that says something.
func set[T comparable](field *T, value T) {
	var zero T
	if value != zero {
		*field = value
	}
}

// setList overwrites a list with one that was reported, be it empty.
func setList[In, Out any](field *[]Out, in []In, convert func(In) Out) {
	if in == nil {
		return
	}
	list := make([]Out, 0, len(in))
	for _, v := range in {
		list = append(list, convert(v))
	}
	*field = list
}

// number32 is n, or the nearest number that fits: the schema of the API takes
// these for signed.
func number32(n int64) uint32 { return uint32(min(max(n, 0), math.MaxInt32)) }

// copyOf returns a pointer to a copy of what p points to, or to a zero value.
func copyOf[T any](p *T) *T {
	var v T
	if p != nil {
		v = *p
	}
	return &v
}

func mergeBoot(old *v1alpha1.Boot, in *protocol.Boot) *v1alpha1.Boot {
	if in == nil {
		return old
	}
	out := copyOf(old)
	set(&out.CurrentBootMode, in.CurrentBootMode)
	set(&out.PxeInterface, in.PXEInterface)
	return out
}

func mergeCPU(old *v1alpha1.CPU, in *protocol.CPU) *v1alpha1.CPU {
	if in == nil {
		return old
	}
	out := copyOf(old)
	set(&out.Architecture, in.Architecture)
	set(&out.Count, in.Count)
	set(&out.ModelName, in.ModelName)
	if in.Frequency != 0 {
		out.Frequency = fmt.Sprintf("%.2f", in.Frequency)
	}
	if in.Flags != nil || out.Flags == nil {
		out.Flags = append([]string{}, in.Flags...)
	}
	return out
}

func mergeMemory(old *v1alpha1.Memory, in *protocol.Memory) *v1alpha1.Memory {
	if in == nil {
		return old
	}
	out := copyOf(old)
	set(&out.PhysicalBytes, in.PhysicalBytes)
	set(&out.UsableBytes, in.UsableBytes)
	return out
}

func mergeVendor(old *v1alpha1.SystemVendor, in *protocol.SystemVendor) *v1alpha1.SystemVendor {
	if in == nil {
		return old
	}
	out := copyOf(old)
	set(&out.Manufacturer, in.Manufacturer)
	set(&out.ProductName, in.ProductName)
	set(&out.SerialNumber, in.SerialNumber)
	set(&out.Virtual, in.Virtual)
	return out
}

func disk(d protocol.Disk) v1alpha1.Disk {
	out := v1alpha1.Disk{
		Bootable: d.Bootable, ByID: d.ByID, ByPath: d.ByPath, DriveType: d.DriveType, Hctl: d.HCTL, ID: d.ID,
		IsInstallationMedia: d.IsInstallationMedia, Model: d.Model, Name: d.Name, Path: d.Path, Serial: d.Serial,
		SizeBytes: d.SizeBytes, Smart: d.SMART, Vendor: d.Vendor, Wwn: d.WWN,
	}
	if d.IOPerf != nil {
		out.IoPerf = &v1alpha1.IoPerf{SyncDuration: d.IOPerf.SyncDuration}
	}
	return out
}

func netInterface(i protocol.Interface) v1alpha1.Interface {
	return v1alpha1.Interface{
		Biosdevname: i.Biosdevname, ClientID: i.ClientID, Flags: append([]string{}, i.Flags...),
		HasCarrier: i.HasCarrier, IPV4Addresses: i.IPv4Addresses, IPV6Addresses: i.IPv6Addresses,
		MacAddress: i.MACAddress, Mtu: i.MTU, Name: i.Name, Product: i.Product, SpeedMbps: i.SpeedMbps, Vendor: i.Vendor,
	}
}
