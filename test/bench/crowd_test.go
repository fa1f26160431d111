//go:build bench

package bench

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/project-flotta/flotta-agent/test/device"
	"github.com/project-flotta/flotta-agent/test/site"
)

const (
	// crowd is how many workloads one device gets at once.
	crowd = 50
	// starts is how many units the agent starts at the same time.
	starts = 4
	// crowdResident is the aim for the agent's memory with that many, in MB.
	crowdResident = 35.0
	// crowdResync is often enough to be counted in a minute.
	crowdResync = 10 * time.Second
)

// manyAtOnce compares the time in which the agent brings many workloads with that
// of as many bare `podman play kube`, as many at the same time, and looks at what
// the agent then costs.
func manyAtOnce(t *testing.T, figures *report) {
	r := newRig(t, strings.Replace(quietSettings, `resync = "1h"`, fmt.Sprintf("resync = %q", crowdResync), 1))
	r.save("probe", 1)
	r.running("probe", 1)
	r.settled("probe")
	bare := r.bareCrowd()
	requests, reloads := r.podmanRequests(), r.reloads()
	agent := r.agentCrowd()
	requests, reloads = r.podmanRequests()-requests, r.reloads()-reloads
	figures.add(t, fmt.Sprintf("%d workloads at once, by the agent", crowd), "%s from the configuration to the last one's start", agent)
	figures.add(t, fmt.Sprintf("%d bare play kube, %d at a time", crowd, starts), "%s", bare)
	figures.add(t, "  ratio", "%.2f; each workload took %.1f requests to Podman's service, and %.1f reloads of systemd",
		float64(agent)/float64(bare), float64(requests)/crowd, float64(reloads)/crowd)
	for i := range crowd {
		r.settled(crowdName(i))
	}
	time.Sleep(idling)
	requests = r.podmanRequests()
	idle := r.trace(time.Minute, nil)
	requests = r.podmanRequests() - requests
	looks := float64(time.Minute / crowdResync)
	figures.add(t, fmt.Sprintf("a look at %d workloads", crowd), "%.1f requests to Podman, %.1f writes to systemd (of about %.0f looks: %s)",
		float64(requests)/looks, float64(idle.systemd)/looks, looks, idle)
	r.weigh(crowd, crowdResident, figures)
}

func crowdName(i int) string { return fmt.Sprintf("crowd-%02d", i) }

// bareCrowd starts as many pods by Podman alone, removes them, and returns how
// long the start took.
func (r *rig) bareCrowd() time.Duration {
	r.Helper()
	manifest, err := r.edge.ReadFile("/var/local/yggdrasil/device/workloads/probe/manifest.yaml")
	must(r.T, err)
	for i := range crowd {
		name := "bare-" + strconv.Itoa(i)
		text := strings.NewReplacer("workload: probe", "bench: "+name, "name: probe", "name: "+name,
			"export-probe", "export-"+name, "volumes/probe", "volumes/"+name).Replace(string(manifest))
		must(r.T, r.edge.WriteFile("/var/home/flotta/"+name+".yaml", []byte(text), 0o644))
	}
	cmd, err := r.edge.CommandAs(r.Context(), device.User, "sh", "-ec", fmt.Sprintf(
		"date +%%s%%N; seq 0 %[1]d | xargs -P %[2]d -I N podman play kube bare-N.yaml >&2; date +%%s%%N; "+
			"seq 0 %[1]d | xargs -P %[2]d -I N podman pod rm --force bare-N >&2", crowd-1, starts))
	must(r.T, err)
	out, err := cmd.Output()
	must(r.T, err)
	var began, ended int64
	_, err = fmt.Sscan(string(out), &began, &ended)
	must(r.T, err)
	return time.Duration(ended - began).Round(10 * time.Millisecond)
}

// agentCrowd brings as many workloads with one configuration, and returns how
// long it took from its arrival until the last container was started.
func (r *rig) agentCrowd() time.Duration {
	r.Helper()
	r.site.APIPath.Cut()
	for i := range crowd {
		r.save(crowdName(i), 1)
	}
	since := time.Now()
	r.site.APIPath.Mend()
	var last time.Time
	for i := range crowd {
		if started := r.running(crowdName(i), 1); started.After(last) {
			last = started
		}
	}
	return last.Sub(r.accepted(since)).Round(10 * time.Millisecond)
}

// accepted returns when the agent took over the last configuration.
func (r *rig) accepted(since time.Time) (at time.Time) {
	r.Helper()
	must(r.T, site.Until(r.Context(), time.Minute, func() error {
		result, err := r.edge.Run(r.Context(), "journalctl", "--no-pager", "--output=json",
			"--output-fields=MESSAGE", "--unit=yggd.service", fmt.Sprintf("--since=@%d", since.Unix()))
		if err != nil {
			return err
		}
		for line := range strings.Lines(result.Stdout) {
			var e struct {
				Time    int64           `json:"__REALTIME_TIMESTAMP,string"`
				Message json.RawMessage `json:"MESSAGE"`
			}
			if err := json.Unmarshal([]byte(line), &e); err != nil {
				return fmt.Errorf("decode line of the journal: %w", err)
			}
			if strings.Contains(string(e.Message), `msg=\"configuration accepted\"`) {
				at = time.UnixMicro(e.Time)
			}
		}
		if at.IsZero() {
			return fmt.Errorf("no configuration was accepted")
		}
		return nil
	}))
	return at
}

// podmanRequests returns how many requests Podman's service has answered so far,
// by its own log.
func (r *rig) podmanRequests() int {
	r.Helper()
	result, err := r.edge.Run(r.Context(), "journalctl", "--no-pager", "--quiet", "--output=cat", "_SYSTEMD_USER_UNIT=podman.service")
	must(r.T, err)
	return strings.Count(result.Stdout, "HTTP/1.1")
}

// reloads returns how often the user's service manager has read its units so far.
func (r *rig) reloads() int {
	r.Helper()
	result, err := r.edge.Run(r.Context(), "journalctl", "--no-pager", "--quiet", "--output=cat",
		"_SYSTEMD_UNIT=user@"+strconv.Itoa(r.edge.UID())+".service", "_COMM=systemd")
	must(r.T, err)
	return strings.Count(result.Stdout, "Reloading.\n")
}
