//go:build integration

package operator

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/project-flotta/flotta-agent/pkg/api/v1alpha1"
	"github.com/project-flotta/flotta-agent/test/testenv"
)

// Of two operators one works, and the other one takes over when it ends; the
// probes tell when the API server is away, which is no reason to restart.
func TestLeaderElectionAndHealth(t *testing.T) {
	t.Parallel()
	p, err := startPlane(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.kube.Stop)
	r := newRigOn(t, p)
	holder := func() string {
		var lease coordinationv1.Lease
		err := r.admin.Get(t.Context(), types.NamespacedName{Namespace: "flotta", Name: leaderElectionID}, &lease)
		if err != nil || lease.Spec.HolderIdentity == nil {
			return ""
		}
		return *lease.Spec.HolderIdentity
	}
	stopFirst := begin(t, p, func(c *Config) { c.LeaderElection = true })
	r.until("somebody leads", func() error {
		if holder() == "" {
			return fmt.Errorf("nobody does")
		}
		return nil
	})
	first := holder()
	port, err := testenv.FreePort("127.0.0.1")
	r.must(err)
	address := fmt.Sprintf("127.0.0.1:%d", port)
	stopSecond := begin(t, p, func(c *Config) { c.LeaderElection, c.ProbeAddr = true, address })
	probe := func(path string, want int) {
		t.Helper()
		r.until(fmt.Sprint(path, " answers ", want), func() error {
			res, err := http.Get("http://" + address + path) //nolint:noctx // the address is local
			if err != nil {
				return err
			}
			body, _ := io.ReadAll(res.Body)
			_ = res.Body.Close()
			if res.StatusCode != want {
				return fmt.Errorf("%s: %s", res.Status, body)
			}
			return nil
		})
	}
	probe("/readyz", http.StatusOK) // also of the one that waits
	if holder() != first {
		t.Error("the second operator took over while the first one worked")
	}
	stopFirst()
	r.until("the second leads", func() error {
		if h := holder(); h == "" || h == first {
			return fmt.Errorf("%q does", h)
		}
		return nil
	})
	id := r.id("dev")
	r.device(id, nil)
	r.workload("w", byName(id))
	r.lists(id, "w")

	// One that leads ends when it cannot renew for ten seconds, which the API server
	// may take to start again.
	stopSecond()
	begin(t, p, func(c *Config) { c.ProbeAddr = address })
	probe("/readyz", http.StatusOK)
	p.kube.KillServer()
	probe("/readyz", http.StatusInternalServerError)
	probe("/healthz", http.StatusOK)
	r.must(p.kube.StartServer())
	probe("/readyz", http.StatusOK)
	r.workload("x", byName(id))
	r.lists(id, "w", "x")
}

// A killed operator goes on where it was: what happened meanwhile is what it finds.
func TestOperatorCatchesUp(t *testing.T) {
	t.Parallel()
	p, err := startPlane(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.kube.Stop)
	registry := prometheus.NewRegistry()
	stop := begin(t, p, func(c *Config) { c.Registerer = registry })
	r := newRigOn(t, p)
	id, gone := r.id("dev"), r.id("gone")
	r.device(id, map[string]string{"place": "hall"})
	r.device(gone, nil)
	old := r.workload("old", byLabels(map[string]string{"place": "hall"}))
	edited := r.workload("edited", byLabels(map[string]string{"place": "hall"}))
	r.lists(id, "edited", "old")
	stop()

	r.must(r.admin.Delete(t.Context(), old))
	r.must(r.admin.Delete(t.Context(), r.read(gone)))
	r.edit(edited, func() { edited.Spec.DeviceSelector.MatchLabels["place"] = "yard" })
	r.workload("new", byName(id))
	begin(t, p, func(c *Config) { c.Registerer = registry })
	r.lists(id, "new")
	r.gone(old)
	r.gone(&v1alpha1.EdgeDevice{ObjectMeta: metav1.ObjectMeta{Namespace: r.ns, Name: gone}})

	r.until("the metrics are right", func() error { // they are of a cache, which lags
		families, err := registry.Gather()
		r.must(err)
		seen := map[string]float64{}
		for _, f := range families {
			for _, m := range f.GetMetric() {
				for _, l := range m.GetLabel() {
					if l.GetName() != "state" || strings.Contains(l.GetValue(), r.ns) {
						t.Errorf("metric %s has label %s=%s", f.GetName(), l.GetName(), l.GetValue())
					}
					seen[f.GetName()+" "+l.GetValue()] = m.GetGauge().GetValue()
				}
			}
		}
		if seen["flotta_operator_devices registered"] != 1 || seen["flotta_operator_devices offline"] != 1 || seen["flotta_operator_workloads waiting"] != 2 {
			return fmt.Errorf("metrics are %v", seen)
		}
		return nil
	})
}

func TestConfigurationIsChecked(t *testing.T) {
	t.Parallel()
	_, err := New(Config{LeaderElection: true, OfflineAfter: -time.Second})
	if err == nil {
		t.Fatal("an empty configuration is accepted")
	}
	for _, name := range []string{"REST", "Logger", "Namespaces", "OfflineAfter", "Concurrency", "ControlNamespace"} {
		if !strings.Contains(err.Error(), name) {
			t.Errorf("the error does not name %s: %v", name, err)
		}
	}
}

// An operator that cannot read what it works with is not ready, however well the
// API server answers.
func TestNotReadyBeforeTheObjectsAreRead(t *testing.T) {
	t.Parallel()
	port, err := testenv.FreePort("127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	address := fmt.Sprintf("127.0.0.1:%d", port)
	begin(t, shared.plane, func(c *Config) {
		c.REST, c.ProbeAddr = shared.rest(testenv.EdgeAPIToken), address // it may not read EdgeConfigs
	})
	r := &rig{T: t, plane: shared.plane}
	status := func(path string) (answer string) {
		r.until(path+" is answered", func() error {
			res, err := http.Get("http://" + address + path) //nolint:noctx // the address is local
			if err == nil {
				answer = res.Status
				err = res.Body.Close()
			}
			return err
		})
		return answer
	}
	for range 30 {
		if got := status("/readyz"); !strings.HasPrefix(got, "500") {
			t.Fatalf("/readyz answers %s", got)
		}
		time.Sleep(100 * time.Millisecond)
	}
	if got := status("/healthz"); !strings.HasPrefix(got, "200") {
		t.Errorf("/healthz answers %s", got)
	}
}
