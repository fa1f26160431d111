package console

import (
	"strings"
	"testing"
)

func TestAllMetrics(t *testing.T) {
	t.Parallel()
	d, now := whole()
	d.DataSync = []DataSync{{Workload: "web", Egress: &DataDirection{Files: 3, Bytes: 1000, LastSuccess: now}}}
	golden(t, "metrics.txt", string(Metrics(d)))
}

// What a receiver gets is not made by the server, which sets Healthy.
func TestMetricsKnowWhatIsHealthy(t *testing.T) {
	t.Parallel()
	for want, d := range map[string]Document{
		"flotta_agent_healthy 1\n": {},
		"flotta_agent_healthy 0\n": {Problems: []string{"something"}},
	} {
		if got := string(Metrics(d)); !strings.Contains(got, want) {
			t.Errorf("no %q in:\n%s", want, got)
		}
	}
}
