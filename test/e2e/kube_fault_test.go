//go:build device

package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/project-flotta/flotta-agent/test/site"
)

// TestKubeOutages takes parts of the control plane away, one after the other.
// Devices notice nothing, and what was asked for meanwhile happens afterwards.
// It is not parallel: the cluster is everybody's.
func TestKubeOutages(t *testing.T) { //nolint:paralleltest // it stops what other tests use
	r := newKubeRig(t, site.EdgeConfig{})
	r.save("w.yaml", r.pod("steady", "18080", "one"))
	r.answers("18080", "/env?name=ROUND", "one")
	r.phase("steady", "Running")
	r.sub("one of two Edge API replicas", kubeReplicaDown)
	r.sub("both Edge API replicas", kubeEdgeAPIDown)
	r.sub("the operator, killed in the middle", kubeOperatorKilled)
	r.sub("the API server, for a minute", kubeServerDown)
}

// undisturbed fails when the container of the steady workload changes within d.
func (r *rig) undisturbed(d time.Duration, id string) {
	r.Helper()
	hold(r.T, d, func() error {
		now, err := r.edge.Container(r.ctx, "steady", "app")
		if err == nil && now != id {
			err = fmt.Errorf("the container was replaced")
		}
		return err
	})
}

func kubeReplicaDown(r *rig) {
	api := shared.cluster.APIs[0]
	api.Kill()
	r.save("w.yaml", r.pod("steady", "18080", "two"))
	r.answers("18080", "/env?name=ROUND", "two")
	must(r.T, api.Start())
}

func kubeEdgeAPIDown(r *rig) {
	id := r.running("steady", "app")
	for _, api := range shared.cluster.APIs {
		api.Kill()
	}
	r.undisturbed(6*time.Second, id)
	for _, api := range shared.cluster.APIs {
		must(r.T, api.Start())
	}
	// The CA and the certificates were found again, not made anew.
	if out := r.kubectl("get", "secrets", "-n", "flotta", "-l", "reg-client-ca=true", "-o", "name"); strings.Count(out, "secret/") != 1 {
		r.Errorf("register secrets after a restart: %s", out)
	}
	r.save("w.yaml", r.pod("steady", "18080", "three"))
	r.answers("18080", "/env?name=ROUND", "three")
}

func kubeOperatorKilled(r *rig) {
	for i := range 5 {
		r.save(fmt.Sprintf("many-%d.yaml", i), r.workload(fmt.Sprintf("many-%d", i), "args: [sleep]", ""))
		if i == 2 {
			shared.cluster.Operator.Kill()
		}
	}
	must(r.T, shared.cluster.Operator.Start())
	for i := range 5 {
		name := fmt.Sprintf("many-%d", i)
		r.running(name, "app")
		r.phase(name, "Running")
	}
	shared.cluster.Operator.Kill()
	for i := range 5 {
		r.remove(fmt.Sprintf("many-%d.yaml", i))
	}
	must(r.T, shared.cluster.Operator.Start())
	for i := range 5 {
		r.gone(fmt.Sprintf("many-%d", i))
	}
	r.until("the workloads are deleted for good", func() error {
		if out := r.kubectl("get", "edgeworkloads", "-o", "name"); strings.Contains(out, "many-") {
			return fmt.Errorf("still there: %s", out)
		}
		return nil
	})
}

func kubeServerDown(r *rig) {
	id := r.running("steady", "app")
	restarts, err := r.edge.Run(r.ctx, "systemctl", "show", "-p", "NRestarts", r.edge.Service())
	must(r.T, err)
	shared.cluster.Kube.KillServer()
	r.undisturbed(time.Minute, id)
	must(r.T, shared.cluster.Kube.StartServer())
	after, err := r.edge.Run(r.ctx, "systemctl", "show", "-p", "NRestarts", r.edge.Service())
	must(r.T, err)
	if after.Stdout != restarts.Stdout {
		r.Errorf("the service was restarted: %s, before it was %s", after.Stdout, restarts.Stdout)
	}
	r.save("w.yaml", r.pod("steady", "18080", "four"))
	r.answers("18080", "/env?name=ROUND", "four")
}
