//go:build device

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/project-flotta/flotta-agent/test/site"
	"github.com/project-flotta/flotta-agent/test/testenv"
)

// pod returns the manifest of a workload that tells its round.
func (r *rig) pod(name, port, round string) string {
	return r.workload(name, fmt.Sprintf("args: [serve, '8080']\nports: [{containerPort: 8080, hostPort: %s}]\nenv: [{name: ROUND, value: '%s'}]", port, round), "")
}

// faultyAgent builds the agent with its points of failure.
func faultyAgent(t *testing.T) string {
	t.Helper()
	root, err := testenv.Root()
	must(t, err)
	path := filepath.Join(t.TempDir(), "flotta-agent")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-tags", "grpcnotrace,faultpoints", "-o", path, "./cmd/flotta-agent")
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	return path
}

func TestPowerCutAndBootWithoutNetwork(t *testing.T) {
	t.Parallel()
	r := newRig(t, site.EdgeConfig{})
	r.save("w.yaml", r.pod("steady", "18080", "kept"))
	r.answers("18080", "/env?name=ROUND", "kept")
	r.phase("steady", "Running")

	must(t, r.edge.PowerCut())
	must(t, r.edge.CutNetwork(r.ctx))
	must(t, r.edge.PowerOn(r.ctx))
	r.running("steady", "app")
	// What was saved meanwhile arrives when the network is back, and until then
	// the agent leaves alone what runs.
	id := r.running("steady", "app")
	r.until("the agent runs without network", func() error {
		_, err := r.edge.Run(r.ctx, "pgrep", "-x", "flotta-agent")
		return err
	})
	r.save("w.yaml", r.pod("steady", "18080", "new"))
	hold(t, 10*time.Second, func() error {
		now, err := r.edge.Container(r.ctx, "steady", "app")
		if err == nil && now != id {
			err = fmt.Errorf("the container was replaced while the network was cut")
		}
		return err
	})
	must(t, r.edge.RestoreNetwork(r.ctx))
	r.answers("18080", "/env?name=ROUND", "new")
}

func TestServersAndYggdRestart(t *testing.T) {
	t.Parallel()
	r := newRig(t, site.EdgeConfig{})
	r.save("w.yaml", r.pod("steady", "18080", "one"))
	r.answers("18080", "/env?name=ROUND", "one")
	r.phase("steady", "Running")
	id := r.running("steady", "app")

	r.site.API.Kill()
	_, err := r.edge.Run(r.ctx, "systemctl", "restart", r.edge.Service())
	must(t, err)
	must(t, r.edge.Kill(r.ctx, "KILL", r.edge.Carrier()))
	hold(t, 5*time.Second, func() error {
		now, err := r.edge.Container(r.ctx, "steady", "app")
		if err == nil && now != id {
			err = fmt.Errorf("the container was replaced while the servers were away")
		}
		return err
	})
	must(t, r.site.API.Start())
	r.save("w.yaml", r.pod("steady", "18080", "two"))
	r.answers("18080", "/env?name=ROUND", "two")
}

func TestSlowAndLossyNetwork(t *testing.T) {
	t.Parallel()
	s := newSite(t, true)
	s.APIPath.Delay(100 * time.Millisecond) // each way: 200 ms for an answer
	s.S3Path.Delay(100 * time.Millisecond)
	e := newEdge(t, s, site.EdgeConfig{})
	must(t, e.LosePackets(t.Context(), 10))
	r := &rig{T: t, ctx: t.Context(), site: s, edge: e}
	must(t, e.Registered(t.Context()))
	r.device("", "")
	r.save("w.yaml", r.workload("far", "args: [write, /export/out/now, hello]", "data: {egress: [{source: out, target: far}]}\n"))
	r.running("far", "app")
	r.phase("far", "Running")
	r.object("far/now", "hello\n")
}
