package facts

import (
	"net"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// notHardware names interfaces that come and go with containers and virtual
// machines: they say nothing about the machine, and would make each start of a
// workload a change of hardware.
func notHardware() []string {
	return []string{"veth", "podman", "cni", "docker", "virbr", "tap", "tun", "dummy", "ifb"}
}

func (h host) interfaces() []protocol.Interface {
	interfaces := []protocol.Interface{}
	for _, name := range h.list("sys/class/net") {
		if name == "lo" || hasPrefix(name, notHardware()) {
			continue
		}
		dir := path.Join("sys/class/net", name)
		if !h.exists(path.Join(dir, "flags")) { // bonding_masters is a file
			continue
		}
		i := protocol.Interface{
			Name:          clean(name),
			MACAddress:    h.attribute(path.Join(dir, "address")),
			MTU:           h.number(path.Join(dir, "mtu")),
			SpeedMbps:     h.number(path.Join(dir, "speed")), // -1 when not known
			HasCarrier:    h.number(path.Join(dir, "carrier")) == 1,
			Vendor:        h.attribute(path.Join(dir, "device/vendor")),
			Product:       h.attribute(path.Join(dir, "device/device")),
			Flags:         parseFlags(h.attribute(path.Join(dir, "flags"))),
			IPv4Addresses: []string{},
			IPv6Addresses: []string{},
		}
		if h.real() {
			i.IPv4Addresses, i.IPv6Addresses = addresses(name)
		}
		interfaces = append(interfaces, i)
	}
	return interfaces
}

// addresses returns the addresses of an interface with their prefix lengths.
func addresses(name string) (v4, v6 []string) {
	v4, v6 = []string{}, []string{}
	i, err := net.InterfaceByName(name)
	if err != nil {
		return v4, v6
	}
	addrs, err := i.Addrs()
	if err != nil {
		return v4, v6
	}
	for _, a := range addrs {
		n, ok := a.(*net.IPNet)
		switch {
		case !ok:
		case n.IP.To4() != nil:
			v4 = append(v4, n.String())
		default:
			v6 = append(v6, n.String())
		}
	}
	slices.Sort(v4)
	slices.Sort(v6)
	return v4, v6
}

// parseFlags names the bits of an interface's flags, as the kernel's if.h does,
// in lower case. Running is left out: it follows the carrier.
func parseFlags(text string) []string {
	flags := []string{}
	bits, err := strconv.ParseUint(strings.TrimPrefix(text, "0x"), 16, 64)
	if err != nil {
		return flags
	}
	for _, f := range []struct {
		bit  uint64
		name string
	}{
		{0x1, "up"},
		{0x2, "broadcast"},
		{0x8, "loopback"},
		{0x10, "pointtopoint"},
		{0x100, "promisc"},
		{0x1000, "multicast"},
	} {
		if bits&f.bit != 0 {
			flags = append(flags, f.name)
		}
	}
	return flags
}
