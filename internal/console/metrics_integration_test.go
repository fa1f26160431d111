//go:build integration

package console

import (
	"bytes"
	"os/exec"
	"strings"
	"testing"
)

// Prometheus's own tool finds nothing wrong with the metrics, but for the names
// that flotta v0.2 gave to some.
func TestMetricsAsPrometheusWantsThem(t *testing.T) {
	t.Parallel()
	d, now := whole()
	d.DataSync = []DataSync{{Workload: "web \"\\\n", Egress: &DataDirection{Files: 3, LastSuccess: now}}}
	check := func(text []byte) (problems []string) {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), "promtool", "check", "metrics")
		cmd.Stdin = bytes.NewReader(text)
		out, err := cmd.CombinedOutput()
		if err != nil && len(out) == 0 {
			t.Fatalf("promtool of the Debian package prometheus: %v", err)
		}
		for line := range strings.Lines(string(out)) {
			if !strings.HasPrefix(line, "flotta_agent_datasync_") {
				problems = append(problems, line)
			}
		}
		return problems
	}
	if problems := check(Metrics(d)); len(problems) > 0 {
		t.Errorf("promtool: %q", problems)
	}
	if problems := check([]byte("# TYPE bad_total gauge\nbad_total 1\n")); len(problems) == 0 {
		t.Error("promtool finds nothing wrong with anything")
	}
}
