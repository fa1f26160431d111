//go:build bench

package bench

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/project-flotta/flotta-agent/test/device"
	"github.com/project-flotta/flotta-agent/test/site"
)

const rounds = 10

// TestApplyAgainstPodman compares a change through the agent, from the moment
// its configuration reached the agent, with a bare `podman play kube --replace`
// of the same manifest on the same device, turn by turn.
func TestApplyAgainstPodman(t *testing.T) {
	s, e := newEdge(t, "log-level = \"info\"\n[runtime]\nsettle = \"1s\"\n")
	save(t, s, e, "agent", 0)
	running(t, e, "agent", 0)
	bare(t, e, 0)
	var byAgent, byPodman []time.Duration
	for round := 1; round <= rounds; round++ {
		time.Sleep(3 * time.Second) // the change before has settled
		save(t, s, e, "agent", round)
		started := running(t, e, "agent", round)
		byAgent = append(byAgent, started.Sub(accepted(t, e)))
		byPodman = append(byPodman, bare(t, e, round))
	}
	a, p := median(byAgent), median(byPodman)
	t.Logf("change to running, agent      %s (median of %d)", a, rounds)
	t.Logf("change to running, podman     %s", p)
	t.Logf("ratio                         %.2f, difference %s", float64(a)/float64(p), (a - p).Round(time.Millisecond))
}

// bare replaces a pod by Podman alone, with the agent's own manifest under
// another name, and returns the time to the container's start.
func bare(t *testing.T, e *site.Edge, round int) time.Duration {
	t.Helper()
	manifest, err := e.ReadFile("/var/local/yggdrasil/device/workloads/agent/manifest.yaml")
	must(t, err)
	text := strings.NewReplacer("workload: agent", "bench: bare", "name: agent", "name: bare", "export-agent", "export-bare", "volumes/agent", "volumes/bare").Replace(string(manifest))
	text = regexp.MustCompile(`value: "\d+"`).ReplaceAllString(text, fmt.Sprintf(`value: "%d"`, round))
	must(t, e.WriteFile("/var/home/flotta/bare.yaml", []byte(text), 0o644))
	cmd, err := e.CommandAs(t.Context(), device.User, "sh", "-c", "date +%s%N; podman play kube --replace bare.yaml >&2")
	must(t, err)
	out, err := cmd.Output()
	must(t, err)
	began, err := strconv.ParseInt(strings.TrimSpace(string(out)), 10, 64)
	must(t, err)
	return running(t, e, "bare", round).Sub(time.Unix(0, began))
}

var logTime = regexp.MustCompile(`time=(\S+) .*msg="configuration accepted"`)

// accepted is when the newest configuration reached the agent, by its own log.
func accepted(t *testing.T, e *site.Edge) time.Time {
	t.Helper()
	r, err := e.Run(t.Context(), "journalctl", "--no-pager", "--unit=yggd", "--output=cat")
	must(t, err)
	all := logTime.FindAllStringSubmatch(r.Stdout, -1)
	if len(all) == 0 {
		t.Fatal("the agent accepted no configuration")
	}
	at, err := time.Parse(time.RFC3339Nano, all[len(all)-1][1])
	must(t, err)
	return at
}

func median(d []time.Duration) time.Duration {
	slices.Sort(d)
	return d[len(d)/2].Round(time.Millisecond)
}
