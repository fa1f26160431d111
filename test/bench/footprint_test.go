//go:build bench

package bench

import (
	"fmt"
	"os"
	"testing"
	"time"
)

// Aims. The device worker of flotta v0.2 has 50.3 MB and 54.6 MB.
const (
	maxBinary   = 25.0 // MB
	maxResident = 30.0
)

// idling is how long the agent is left alone before it is weighed: time for a
// resync and for the collector of the Go runtime to give memory back.
const idling = time.Minute

// footprint weighs the agent with one and with ten workloads, with the settings
// that users have.
func footprint(t *testing.T, figures *report) {
	r := newRig(t, userSettings)
	info, err := os.Stat(r.edge.Path("/usr/bin/flotta-agent"))
	must(t, err)
	size := float64(info.Size()) / 1e6
	figures.add(t, "binary, stripped", "%.1f MB (aim %.0f; v0.2 50.3)", size, maxBinary)
	if size > maxBinary {
		t.Errorf("the binary has %.1f MB, the aim is %.0f", size, maxBinary)
	}
	for _, n := range []int{1, 10} {
		for i := range n {
			r.save(fmt.Sprintf("load-%d", i), 1)
		}
		for i := range n {
			r.running(fmt.Sprintf("load-%d", i), 1)
		}
		for i := range n {
			r.settled(fmt.Sprintf("load-%d", i))
		}
		time.Sleep(idling)
		r.weigh(n, maxResident, figures)
	}
}

func (r *rig) weigh(workloads int, most float64, figures *report) {
	r.Helper()
	proc := "/proc/" + r.agentPID()
	rss := megabytes(r.T, proc+"/status", "VmRSS:")
	figures.add(r.T, fmt.Sprintf("resident, idle, %d workload(s)", workloads),
		"RSS %.1f MB (aim %.0f; v0.2 54.6), PSS %.1f, peak %.1f; of RSS: anonymous %.1f, program %.1f",
		rss, most, megabytes(r.T, proc+"/smaps_rollup", "Pss:"), megabytes(r.T, proc+"/status", "VmHWM:"),
		megabytes(r.T, proc+"/status", "RssAnon:"), megabytes(r.T, proc+"/status", "RssFile:"))
	if rss > most {
		r.Errorf("with %d workloads the agent has %.1f MB resident, the aim is %.0f", workloads, rss, most)
	}
	// Not the agent's own: mostly Podman's service, there because the agent talks to it.
	var service float64
	for _, pid := range r.pids("podman") {
		service += megabytes(r.T, "/proc/"+pid+"/smaps_rollup", "Pss:")
	}
	figures.add(r.T, "  beside it, Podman's processes", "PSS %.1f MB", service)
}
