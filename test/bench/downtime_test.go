//go:build bench

package bench

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/project-flotta/flotta-agent/test/device"
	"github.com/project-flotta/flotta-agent/test/site"
)

// Where the two servers are that are compared.
const (
	agentPort = 18080
	barePort  = 18081
)

// downtime compares how long a client gets no answer while a workload is changed
// by the agent, and by `podman play kube --replace`, turn by turn, with the image
// on the device.
func downtime(t *testing.T, figures *report) {
	r := newRig(t, quietSettings)
	r.saveServer(0)
	r.running("served", 0)
	r.settled("served")
	manifest, err := r.edge.ReadFile("/var/local/yggdrasil/device/workloads/served/manifest.yaml")
	must(t, err)
	bare := strings.NewReplacer("workload: served", "bench: bare", "name: served", "name: bare", "export-served", "export-bare",
		"volumes/served", "volumes/bare", fmt.Sprint(agentPort), fmt.Sprint(barePort)).Replace(string(manifest))
	replace := func(round int) {
		text := strings.Replace(bare, `value: "0"`, fmt.Sprintf(`value: "%d"`, round), 1)
		must(t, r.edge.WriteFile("/var/home/flotta/bare.yaml", []byte(text), 0o644))
		_, err := r.edge.RunAs(t.Context(), device.User, "podman", "play", "kube", "--replace", "bare.yaml")
		must(t, err)
	}
	replace(0)
	var byAgent, byPodman []time.Duration
	for round := 1; round <= rounds; round++ {
		byAgent = append(byAgent, r.gap(agentPort, round, func() { r.saveServer(round) }))
		byPodman = append(byPodman, r.gap(barePort, round, func() { replace(round) }))
	}
	a, p := median(byAgent), median(byPodman)
	figures.add(t, "downtime of a change, by the agent", "%s (median of %d, %s)", a, rounds, spread(byAgent))
	figures.add(t, "downtime, podman play kube --replace", "%s (%s)", p, spread(byPodman))
	figures.add(t, "  ratio", "%.2f, difference %s", float64(a)/float64(p), a-p)
}

// saveServer saves the manifest of a workload that serves its round.
func (r *rig) saveServer(round int) {
	r.Helper()
	must(r.T, r.site.WriteManifest("served.yaml", fmt.Sprintf(`apiVersion: management.project-flotta.io/v1alpha1
kind: EdgeWorkload
metadata: {name: served}
spec:
  type: pod
  device: %q
  pod: {spec: {containers: [{name: app, image: %q, args: [serve, "8080"], ports: [{containerPort: 8080, hostPort: %d}], env: [{name: ROUND, value: "%d"}]}]}}
`, r.edge.ID(), testImage, agentPort, round)))
}

// gap returns the time between the last answer of the old version and the first
// one of the next, as a client sees it that asks every 5 ms.
func (r *rig) gap(port, round int, change func()) time.Duration {
	r.Helper()
	ctx, cancel := context.WithTimeout(r.Context(), 2*time.Minute)
	defer cancel()
	client := &http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	before, after := fmt.Sprint(round-1), fmt.Sprint(round)
	var last, first time.Time
	var asking sync.WaitGroup
	asking.Go(func() {
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for ctx.Err() == nil && first.IsZero() {
			switch asked(ctx, client, fmt.Sprintf("http://%s:%d/env?name=ROUND", r.edge.Addr(), port)) {
			case before:
				last = time.Now()
			case after:
				first = time.Now()
			}
			<-tick.C
		}
	})
	change()
	asking.Wait()
	if last.IsZero() || first.IsZero() {
		r.Fatalf("round %d did not follow the one before", round)
	}
	must(r.T, site.Until(ctx, time.Minute, func() error { // so that the next round begins in peace
		_, err := r.edge.Podman(ctx, "version")
		return err
	}))
	return first.Sub(last)
}

// asked returns the answer at url, or nothing.
func asked(ctx context.Context, client *http.Client, url string) string {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return ""
	}
	resp, err := client.Do(req)
	if err != nil {
		return ""
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return ""
	}
	return string(body)
}
