//go:build bench

package bench

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/project-flotta/flotta-agent/test/device"
	"github.com/project-flotta/flotta-agent/test/site"
)

const rounds = 12

// applyAgainstPodman compares a change through the agent, from the moment its
// configuration reached the agent, with a bare `podman play kube --replace` of
// the same manifest on the same device, turn by turn.
func applyAgainstPodman(t *testing.T, figures *report) {
	r := newRig(t, quietSettings)
	r.save("agent", 0)
	r.running("agent", 0)
	r.bare(0)
	r.settled("agent")
	var travel, byAgent, deciding, acting, byPodman, returned []time.Duration
	for round := 1; round <= rounds; round++ {
		saved := time.Now()
		r.save("agent", round)
		started := r.running("agent", round)
		c := r.change("agent", saved)
		travel, byAgent = append(travel, c.reached.Sub(saved)), append(byAgent, started.Sub(c.reached))
		deciding, acting = append(deciding, c.acting.Sub(c.reached)), append(acting, started.Sub(c.acting))
		running, done := r.bare(round)
		byPodman, returned = append(byPodman, running), append(returned, done)
	}
	a, p := median(byAgent), median(byPodman)
	figures.add(t, "change to running, by the agent", "%s (median of %d, %s)", a, rounds, spread(byAgent))
	figures.add(t, "change to running, by podman alone", "%s (%s; the command returns after %s)", p, spread(byPodman), median(returned))
	figures.add(t, "  ratio", "%.2f, difference %s", float64(a)/float64(p), a-p)
	figures.add(t, "  of the agent's time", "until systemd's unit begins to change %s, from there %s", median(deciding), median(acting))
	figures.add(t, "  before it, manifest to agent", "%s (yggd asks every 5 s)", median(travel))
}

// bare replaces a pod by Podman alone, with the agent's own manifest under
// another name. It returns the times from before the command until the container
// was started, and until the command had returned.
func (r *rig) bare(round int) (running, returned time.Duration) {
	r.Helper()
	manifest, err := r.edge.ReadFile("/var/local/yggdrasil/device/workloads/agent/manifest.yaml")
	must(r.T, err)
	text := strings.NewReplacer("workload: agent", "bench: bare", "name: agent", "name: bare", "export-agent", "export-bare", "volumes/agent", "volumes/bare").Replace(string(manifest))
	text = regexp.MustCompile(`value: "\d+"`).ReplaceAllString(text, fmt.Sprintf(`value: "%d"`, round))
	must(r.T, r.edge.WriteFile("/var/home/flotta/bare.yaml", []byte(text), 0o644))
	cmd, err := r.edge.CommandAs(r.Context(), device.User, "sh", "-ec", "date +%s%N; podman play kube --replace bare.yaml >&2; date +%s%N")
	must(r.T, err)
	out, err := cmd.Output()
	must(r.T, err)
	var began, ended int64
	_, err = fmt.Sscan(string(out), &began, &ended)
	must(r.T, err)
	return r.running("bare", round).Sub(time.Unix(0, began)), time.Duration(ended - began)
}

// change is what the journal says of one change of a workload. What it does not
// say is zero.
type change struct {
	reached time.Time // the configuration was with the agent
	acting  time.Time // systemd began to reload the unit, or to stop it
	applied time.Time // the agent took it for proven
}

// change waits until the journal has the whole of a change since a moment.
func (r *rig) change(workload string, since time.Time) (c change) {
	r.Helper()
	must(r.T, site.Until(r.Context(), time.Minute, func() error {
		result, err := r.edge.Run(r.Context(), "journalctl", "--no-pager", "--output=json",
			"--output-fields=MESSAGE,MESSAGE_ID,USER_UNIT", fmt.Sprintf("--since=@%d", since.Unix()))
		if err != nil {
			return err
		}
		c = change{}
		for line := range strings.Lines(result.Stdout) {
			if err := c.read(line, workload, since); err != nil {
				return err
			}
		}
		if c.reached.IsZero() || c.acting.IsZero() || c.applied.IsZero() {
			return fmt.Errorf("the journal lacks some of a change: %+v", c)
		}
		return nil
	}))
	return c
}

// What systemd calls its messages "Reloading ..." and "Stopping ...".
const (
	idReloading = "d34d037fff1847e6ae669a370e694725"
	idStopping  = "de5b426a63be47a7b6ac3eaac82e2f6f"
)

// read takes what a line of the journal says of a change.
func (c *change) read(line, workload string, since time.Time) error {
	var e struct {
		Time    int64           `json:"__REALTIME_TIMESTAMP,string"`
		Message json.RawMessage `json:"MESSAGE"` // not a string when it is not UTF-8
		ID      string          `json:"MESSAGE_ID"`
		Unit    string          `json:"USER_UNIT"`
	}
	if err := json.Unmarshal([]byte(line), &e); err != nil {
		return fmt.Errorf("decode line of the journal: %w", err)
	}
	at, said := time.UnixMicro(e.Time), string(e.Message)
	if at.Before(since) {
		return nil
	}
	unit := e.Unit == "flotta-workload@"+workload+".service"
	switch {
	case strings.Contains(said, `msg=\"configuration accepted\"`):
		if !c.reached.IsZero() {
			return fmt.Errorf("a second configuration arrived at %s", at)
		}
		c.reached = at
	case strings.Contains(said, `msg=\"workload updated\"`):
		c.applied = at
	case unit && c.acting.IsZero() && (e.ID == idReloading || e.ID == idStopping):
		c.acting = at
	}
	return nil
}

func median(d []time.Duration) time.Duration {
	sorted := slices.Sorted(slices.Values(d))
	middle := sorted[len(sorted)/2]
	if len(sorted)%2 == 0 {
		middle = (middle + sorted[len(sorted)/2-1]) / 2
	}
	return middle.Round(time.Millisecond)
}

func spread(d []time.Duration) string {
	return fmt.Sprintf("%s to %s", slices.Min(d).Round(time.Millisecond), slices.Max(d).Round(time.Millisecond))
}
