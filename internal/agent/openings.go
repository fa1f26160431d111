package agent

import (
	"net/netip"

	"github.com/project-flotta/flotta-agent/internal/desired"
	"github.com/project-flotta/flotta-agent/internal/host/firewall"
	"github.com/project-flotta/flotta-agent/internal/workload"
)

// openings returns the ports of the host that workloads take. False: that is
// not known yet, because not every workload was looked at since the agent
// started; nothing is closed that only seems to be nobody's.
func openings(status workload.Status, wanted []desired.Workload) ([]firewall.Opening, bool) {
	seen := make(map[string]bool, len(status.Workloads))
	var out []firewall.Opening
	for _, w := range status.Workloads {
		seen[w.Name] = w.Reason != workload.ReasonUnobservable || len(w.HostPorts) > 0
		for _, p := range w.HostPorts {
			o := firewall.Opening{Workload: w.Name, Protocol: p.Protocol, Port: p.Port}
			if p.IP != "" {
				address, err := netip.ParseAddr(p.IP)
				if err != nil {
					continue // Podman cannot listen there either
				}
				o.Address = address
			}
			out = append(out, o)
		}
	}
	for _, w := range wanted {
		if w.Invalid == "" && !seen[w.Name] {
			return nil, false
		}
	}
	return out, true
}
