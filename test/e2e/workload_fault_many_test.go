//go:build device

package e2e

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/project-flotta/flotta-agent/test/site"
)

const (
	// crowd is how many workloads one device gets at once.
	crowd = 50
	// crowdPatience is how long all of them may take on a machine under load.
	crowdPatience = 5 * time.Minute
	// maxResident is the aim for the agent's memory with that many, in kB.
	maxResident = 35_000_000 / 1024
	// idleCalls is how many requests to Podman a look at everything may take,
	// whatever the number of workloads.
	idleCalls = 6
)

// TestFiftyAtOnce brings all workloads with one configuration; one of them does
// not start.
func TestFiftyAtOnce(t *testing.T) {
	t.Parallel()
	r := newRig(t, site.EdgeConfig{Settings: strings.Replace(quickSync, `"3s"`, `"5s"`, 1)})
	r.site.APIPath.Cut()
	var names []string
	for i := range crowd {
		name := fmt.Sprintf("crowd-%02d", i)
		names = append(names, name)
		r.save(name+".yaml", r.workload(name, "args: [sleep]", ""))
	}
	r.save("broken.yaml", r.failing("broken", "crowd"))
	began := time.Now()
	r.site.APIPath.Mend()
	if err := site.Until(r.ctx, crowdPatience, func() error {
		d, err := r.site.Device(r.edge.ID())
		if err != nil {
			return err
		}
		running := 0
		for _, w := range d.Status.Workloads {
			if strings.HasPrefix(w.Name, "crowd-") && w.Phase == "Running" && w.Reason == "" {
				running++
			}
		}
		if running != crowd {
			return fmt.Errorf("%d are reported to run as wanted", running)
		}
		return nil
	}); err != nil {
		t.Fatalf("%d workloads run: %v", crowd, err)
	}
	t.Logf("%d workloads ran after %s", crowd, time.Since(began).Round(100*time.Millisecond))
	r.until("the broken one is reported", func() error { return r.complains("broken", "unknown command") })
	check := r.untouched(names...)
	r.remove("broken.yaml")
	r.until("the broken one is gone", func() error { return r.forgotten("broken") })
	r.idlesCheaply()
	check("after some idling")
	r.until("nothing is doubled", func() error { return r.nothingDoubled(names...) })
}

// idlesCheaply looks at what the agent costs when nothing happens.
func (r *rig) idlesCheaply() {
	r.Helper()
	const looks, resync = 4, 5 * time.Second
	calls := r.apiCalls()
	time.Sleep(looks * resync)
	calls = r.apiCalls() - calls
	r.Logf("%d requests to Podman in %s, with a look every %s", calls, looks*resync, resync)
	// A fifth more looks because of the jitter, and one for the edges.
	if most := (looks*5/4 + 1) * idleCalls; calls == 0 || calls > most {
		r.Errorf("%d requests to Podman in the time of %d looks, want some, and at most %d", calls, looks, most)
	}
	resident := r.agentMemory()
	r.Logf("the agent has %d kB resident with %d workloads", resident, crowd)
	if resident > maxResident {
		r.Errorf("the agent has %d kB resident with %d workloads, the aim is %d", resident, crowd, maxResident)
	}
}

// agentMemory returns the agent's resident memory in kB.
func (r *rig) agentMemory() int {
	r.Helper()
	out, err := r.edge.Run(r.ctx, "sh", "-ec", `cat "/proc/$(pgrep -x flotta-agent)/status"`)
	must(r.T, err)
	for line := range strings.Lines(out.Stdout) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kB, err := strconv.Atoi(strings.Fields(rest)[0])
			must(r.T, err)
			return kB
		}
	}
	r.Fatalf("no VmRSS in %s", out.Stdout)
	return 0
}
