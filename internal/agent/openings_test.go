package agent

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/project-flotta/flotta-agent/internal/desired"
	"github.com/project-flotta/flotta-agent/internal/host/firewall"
	"github.com/project-flotta/flotta-agent/internal/workload"
	"github.com/project-flotta/flotta-agent/internal/workload/manifest"
)

func TestOpenings(t *testing.T) {
	t.Parallel()
	web := workload.State{Name: "web", HostPorts: []manifest.HostPort{
		{Protocol: "tcp", Port: 80}, {Protocol: "udp", IP: "192.0.2.1", Port: 53}, {Protocol: "tcp", IP: "nowhere", Port: 1},
	}}
	blind := workload.State{Name: "db", Reason: workload.ReasonUnobservable}
	wanted := []desired.Workload{{Name: "web"}, {Name: "db"}, {Name: "broken", Invalid: "it is"}}
	ports := []firewall.Opening{
		{Workload: "web", Protocol: "tcp", Port: 80},
		{Workload: "web", Protocol: "udp", Address: netip.MustParseAddr("192.0.2.1"), Port: 53},
	}
	for name, test := range map[string]struct {
		status []workload.State
		wanted []desired.Workload
		want   []firewall.Opening
		known  bool
	}{
		"nothing is wanted":         {known: true},
		"nothing was seen yet":      {wanted: wanted},
		"one was seen":              {status: []workload.State{web}, wanted: wanted},
		"one could not be observed": {status: []workload.State{web, blind}, wanted: wanted},
		"all were seen":             {status: []workload.State{web, {Name: "db"}}, wanted: wanted, want: ports, known: true},
		"one is being removed":      {status: []workload.State{web}, want: ports, known: true},
		"one that was observed before": {
			status: []workload.State{{Name: "web", Reason: workload.ReasonUnobservable, HostPorts: web.HostPorts[:1]}},
			wanted: wanted[:1], want: ports[:1], known: true,
		},
	} {
		got, known := openings(workload.Status{Workloads: test.status}, test.wanted)
		if diff := cmp.Diff(test.want, got, cmp.Comparer(func(x, y netip.Addr) bool { return x == y })); diff != "" || known != test.known {
			t.Errorf("%s: known %v, (-want +got):\n%s", name, known, diff)
		}
	}
}
