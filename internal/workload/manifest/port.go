package manifest

import (
	"encoding/json"
	"net/netip"
	"strings"
)

// rewritePorts checks the ports of a container, notes those that it takes of
// the host, and leaves out the others where they would be published too.
func (p *podSpec) rewritePorts(c map[string]any, initial bool) error {
	ports, err := objects(c, "ports")
	if err != nil {
		return err
	}
	kept := make([]any, 0, len(ports))
	for i, port := range ports {
		host, named, err := p.readPort(port)
		if err != nil {
			return within(err, "ports[%d]", i)
		}
		if named || !p.options.HideContainerPorts {
			kept = append(kept, port)
		}
		if host.Port == 0 || initial {
			continue // Podman publishes no ports of init containers
		}
		for _, other := range p.hostPorts {
			if other.overlaps(host) {
				return invalidf("ports[%d]: port %d of the host is asked for twice", i, host.Port)
			}
		}
		p.hostPorts = append(p.hostPorts, host)
	}
	if len(ports) > 0 && len(kept) == 0 {
		delete(c, "ports")
	} else if len(ports) > 0 {
		c["ports"] = kept
	}
	return nil
}

// readPort returns the port of the host that a port of a container takes, whose
// number is zero if it takes none, and whether it names one.
func (p *podSpec) readPort(port map[string]any) (host HostPort, named bool, err error) {
	const highest = 65535
	var numbers [2]int64
	for i, field := range []string{"hostPort", "containerPort"} {
		if port[field] == nil || port[field] == json.Number("0") {
			continue
		}
		if numbers[i], err = integer(port, field, 1, highest); err != nil {
			return HostPort{}, false, err
		}
	}
	if numbers == [2]int64{} {
		return HostPort{}, false, invalidf("there is no containerPort")
	}
	host.Port, named = uint16(numbers[0]), numbers[0] != 0 //nolint:gosec // checked above
	if !named && p.hostNetwork {
		host.Port = uint16(numbers[1]) //nolint:gosec // checked above
	}
	protocol, isText := port["protocol"].(string)
	if port["protocol"] != nil && !isText {
		return HostPort{}, false, invalidf("protocol is none of TCP, UDP and SCTP")
	}
	switch host.Protocol = strings.ToLower(protocol); host.Protocol {
	case "":
		host.Protocol = "tcp"
	case "tcp", "udp", "sctp":
	default:
		return HostPort{}, false, invalidf("protocol %.20q is none of TCP, UDP and SCTP", protocol)
	}
	host.IP, err = readHostIP(port["hostIP"])
	return host, named, err
}

// readHostIP returns the address; empty for all addresses.
func readHostIP(value any) (string, error) {
	text, isText := value.(string)
	if value == nil || isText && text == "" {
		return "", nil
	}
	ip, err := netip.ParseAddr(text)
	if err != nil || ip.Zone() != "" {
		return "", invalidf("hostIP %.80q is no address", text)
	}
	if ip.IsUnspecified() {
		return "", nil
	}
	return ip.String(), nil
}

// overlaps reports whether both cannot be taken at a time.
func (h HostPort) overlaps(other HostPort) bool {
	return h.Protocol == other.Protocol && h.Port == other.Port && (h.IP == "" || other.IP == "" || h.IP == other.IP)
}
