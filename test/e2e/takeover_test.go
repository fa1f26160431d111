//go:build device

package e2e

import (
	"bytes"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/project-flotta/flotta-agent/test/site"
)

// TestTakeOverFromFormerAgent: a device of flotta v0.2 gets this agent, without a network,
// and loses nothing.
func TestTakeOverFromFormerAgent(t *testing.T) {
	t.Parallel()
	f := newFormer(t, stateDir, site.EdgeConfig{})
	f.asFlotta("podman pod create --name mine && podman run -d --pids-limit=-1 --pod mine --name mine-app " + imageV1 + " sleep")
	mine := f.asFlotta("podman ps --no-trunc --format '{{.ID}}' --filter name=mine-app")
	must(t, f.edge.CutNetwork(f.ctx))
	gap := f.answering()
	f.install()
	f.until("the workload is taken over", f.taken)
	// Its own stop takes up to 10 s, because the test program does not heed SIGTERM.
	if d := gap(); d > 30*time.Second {
		t.Errorf("the workload did not answer for %s", d)
	} else {
		t.Logf("the workload did not answer for %s", d.Round(10*time.Millisecond))
	}
	must(t, f.edge.RestoreNetwork(f.ctx))
	f.answers("18080", "/file?path=/out/small", "small")
	if now := f.asFlotta("podman ps --no-trunc --format '{{.ID}}' --filter name=mine-app"); now != mine {
		t.Errorf("somebody else's container is %s now, it was %s", now, mine)
	}
	if out := f.asFlotta("podman secret ls --format '{{.Name}}'"); !strings.Contains(out, "former") {
		t.Error("a secret was removed that somebody else's container may use")
	}
	f.answers("18080", "/put?path=/out/new&text=fresh", "")
	f.object("from-device/new", "fresh")
	f.phase("courier", "Running")
	f.untransferred()

	must(t, f.edge.PowerCut())
	must(t, f.edge.PowerOn(f.ctx))
	f.answers("18080", "/file?path=/out/new", "fresh")
	f.until("there still is one of it", f.taken)
	f.untransferred()
}

// TestTakeOverIsKilledAtEveryStep has the data of flotta v0.2 elsewhere, too.
func TestTakeOverIsKilledAtEveryStep(t *testing.T) {
	t.Parallel()
	f := newFormer(t, "/etc/yggdrasil/device", site.EdgeConfig{
		Agent: faultyAgent(t), WorkerEnv: []string{"FLOTTA_TEST_CRASH_FILE=" + crashFile},
	})
	points := []string{
		"takeover-noted", "takeover-worker-kept", "takeover-worker-removed", "takeover-worker-ended",
		"takeover-bind-written", "takeover-bind-enabled", "takeover-volumes-moved", "takeover-configuration",
		"takeover-units-disabled", "takeover-units-stopped", "takeover-pod-removed", "takeover-units-removed", "takeover-files-removed",
		"takeover-secrets-removed",
	}
	f.crashAt(points[0])
	f.install()
	for i, point := range points {
		began := time.Now()
		f.crashed(point)
		t.Logf("killed at %s after %s", point, time.Since(began).Round(100*time.Millisecond))
		if i+1 < len(points) {
			f.crashAt(points[i+1])
		}
		switch point {
		case "takeover-units-disabled", "takeover-pod-removed":
			must(t, f.edge.PowerCut())
			must(t, f.edge.PowerOn(f.ctx))
			f.crashAt(points[i+1]) // it was in memory
			f.restartService()
		default:
			f.restartService()
		}
	}
	f.until("the workload is taken over", f.taken)
	f.answers("18080", "/file?path=/out/small", "small")
	f.answers("18080", "/put?path=/out/new&text=fresh", "")
	f.object("from-device/new", "fresh")
	f.untransferred()
	if out := f.asFlotta("podman secret ls --format '{{.Name}}'"); strings.Contains(out, "former") {
		t.Error("its secret is still there")
	}
	if got, err := os.ReadFile(f.export("out/large")); err != nil || !bytes.Equal(got, f.large) {
		t.Errorf("a file of the volume is not what it was: %v", err)
	}
}
