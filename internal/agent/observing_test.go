package agent

import (
	"testing"

	"github.com/project-flotta/flotta-agent/internal/desired"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// A device of which neither metrics nor logs are wanted asks Podman nothing for
// them; how much that is, the test of fifty workloads counts.
func TestWhoReadsContainers(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		workload desired.Workload
		want     bool
	}{
		"neither": {desired.Workload{Name: "w"}, false},
		"metrics": {desired.Workload{Name: "w", Metrics: &protocol.WorkloadMetrics{}}, true},
		"logs":    {desired.Workload{Name: "w", LogTarget: "central"}, true},
	} {
		state := desired.State{Workloads: []desired.Workload{{Name: "other"}, tc.workload}}
		if got := readsContainers(state); got != tc.want {
			t.Errorf("%s: %t, want %t", name, got, tc.want)
		}
	}
}
