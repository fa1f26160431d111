package device

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"strings"
)

// network is the device's network namespace and its cable to the host.
type network struct {
	namespace    string
	link         string // the host's end; the device's end is called host0
	table        string // of packet filter rules, on the host
	host, device netip.Addr
}

// newNetwork gives each slot a network of four addresses in 10.231.0.0/20, or in
// another range where the host itself already uses that one.
func newNetwork(r record) network {
	base := netip.MustParsePrefix("10.231.0.0/20")
	for _, other := range []string{"172.29.96.0/20", "192.168.208.0/20"} {
		if !used(base) {
			break
		}
		base = netip.MustParsePrefix(other)
	}
	raw := base.Addr().As4()
	raw[2] += byte(r.slot >> 6 & 15) // of 1024 slots
	raw[3] = byte(r.slot&63) << 2
	host := netip.AddrFrom4(raw).Next()
	return network{
		namespace: r.id(), link: r.id(), table: strings.ReplaceAll(r.id(), "-", "_"),
		host: host, device: host.Next(),
	}
}

// used says whether the host has an address in a range, on anything but the
// cables of devices.
func used(base netip.Prefix) bool {
	links, _ := net.Interfaces()
	for _, link := range links {
		if strings.HasPrefix(link.Name, "fd") {
			continue
		}
		addrs, _ := link.Addrs()
		for _, a := range addrs {
			if p, err := netip.ParsePrefix(a.String()); err == nil && p.Overlaps(base) && p.Bits() > 0 {
				return true
			}
		}
	}
	return false
}

// up lays the cable.
func (n *network) up(ctx context.Context) error {
	for _, args := range [][]string{
		{"netns", "add", n.namespace},
		{"link", "add", n.link, "type", "veth", "peer", "name", "host0", "netns", n.namespace},
		{"addr", "add", n.host.String() + "/30", "dev", n.link},
		{"link", "set", n.link, "up"},
		{"-n", n.namespace, "addr", "add", n.device.String() + "/30", "dev", "host0"},
		{"-n", n.namespace, "link", "set", "host0", "up"},
		{"-n", n.namespace, "link", "set", "lo", "up"},
		// Some network tools want a way to everywhere, although it ends here.
		{"-n", n.namespace, "route", "add", "default", "via", n.host.String()},
	} {
		if out, err := exec.CommandContext(ctx, "ip", args...).CombinedOutput(); err != nil {
			return fmt.Errorf("ip %s: %w: %s", strings.Join(args, " "), err, out)
		}
	}
	return n.filter(ctx, Loss{})
}

// Loss is what a bad network does to packets, in percent, one way and the other.
type Loss struct {
	ToHost   int
	ToDevice int
}

// filter sets the rules for what arrives, at both ends of the cable. Nobody gets
// an error for a packet that is dropped there, as on a real network.
func (n *network) filter(ctx context.Context, loss Loss) error {
	const chain = "chain arriving { type filter hook prerouting priority raw - 10;\n"
	rules := fmt.Sprintf("%siifname %q ip daddr != %s drop\n%s}", chain, n.link, n.host, drop(n.link, loss.ToHost))
	if err := nft(ctx, n.table, rules, "nft", "-f", "-"); err != nil {
		return err
	}
	rules = chain + drop("host0", loss.ToDevice) + "}"
	return nft(ctx, "harness", rules, "ip", "netns", "exec", n.namespace, "nft", "-f", "-")
}

func drop(link string, percent int) string {
	switch {
	case percent <= 0:
		return ""
	case percent >= 100:
		return fmt.Sprintf("iifname %q drop\n", link)
	}
	return fmt.Sprintf("iifname %q numgen random mod 100 < %d drop\n", link, percent)
}

// nft replaces a table in one step.
func nft(ctx context.Context, table, rules string, command ...string) error {
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Stdin = strings.NewReader(fmt.Sprintf("table inet %s\ndelete table inet %[1]s\ntable inet %[1]s {\n%s\n}\n", table, rules))
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("filter packets: %w: %s", err, out)
	}
	return nil
}

// CutNetwork drops every packet between the device and the host, both ways. It
// stays cut through a power cut, until RestoreNetwork.
func (d *Device) CutNetwork(ctx context.Context) error {
	return d.Impair(ctx, Loss{ToHost: 100, ToDevice: 100})
}

// RestoreNetwork ends CutNetwork, LosePackets and Impair.
func (d *Device) RestoreNetwork(ctx context.Context) error { return d.Impair(ctx, Loss{}) }

// LosePackets drops that many of a hundred packets, both ways. For a delay put a
// Proxy in between: this needs nothing of the kernel that may not be there.
func (d *Device) LosePackets(ctx context.Context, percent int) error {
	return d.Impair(ctx, Loss{ToHost: percent, ToDevice: percent})
}

// Impair replaces what was impaired before.
func (d *Device) Impair(ctx context.Context, loss Loss) error {
	if err := d.network.filter(ctx, loss); err != nil {
		return fmt.Errorf("impair network of %s: %w", d.name, err)
	}
	return nil
}
