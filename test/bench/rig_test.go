//go:build bench

package bench

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/project-flotta/flotta-agent/test/device"
	"github.com/project-flotta/flotta-agent/test/image"
	"github.com/project-flotta/flotta-agent/test/site"
)

const (
	testImage = "localhost/flotta-test:v1"

	// quietSettings leave nothing to be done by the clock for an hour, but the
	// heartbeat.
	quietSettings = "log-level = \"info\"\n[runtime]\nresync = \"1h\"\nsettle = \"1s\"\n[sync]\ninterval = \"1h\"\n"
	// userSettings are the defaults: what a user's device does.
	userSettings = "log-level = \"info\"\n"
)

// rig is a site with one registered device, for one measurement.
type rig struct {
	*testing.T
	site *site.Site
	edge *site.Edge
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// newRig returns a registered device with those agent settings.
func newRig(t *testing.T, settings string) *rig {
	t.Helper()
	s, err := site.Start(t.Context(), site.Config{Dir: t.TempDir(), AutoApprove: true})
	must(t, err)
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	e, err := s.NewEdge(t.Context(), site.EdgeConfig{Settings: settings})
	must(t, err)
	must(t, e.AddImage(t.Context(), device.User, image.Spec{Ref: testImage}))
	must(t, e.Registered(t.Context()))
	must(t, s.WriteManifest("device.yaml", fmt.Sprintf(`apiVersion: management.project-flotta.io/v1alpha1
kind: EdgeDevice
metadata: {name: %q}
spec: {storage: {s3: {secretName: storage, configMapName: storage}}}
`, e.ID())))
	return &rig{T: t, site: s, edge: e}
}

// save saves the manifest of a workload with egress; round makes it another one
// each time.
func (r *rig) save(name string, round int) {
	r.Helper()
	must(r.T, r.site.WriteManifest(name+".yaml", fmt.Sprintf(`apiVersion: management.project-flotta.io/v1alpha1
kind: EdgeWorkload
metadata: {name: %s}
spec:
  type: pod
  device: %q
  data: {egress: [{source: out, target: %[1]s}]}
  pod: {spec: {containers: [{name: app, image: %[3]q, args: [sleep], env: [{name: ROUND, value: "%[4]d"}]}]}}
`, name, r.edge.ID(), testImage, round)))
}

// running waits until a workload's container of that round runs, and returns
// when Podman started it.
func (r *rig) running(name string, round int) (started time.Time) {
	r.Helper()
	must(r.T, site.Until(r.Context(), 2*time.Minute, func() error {
		out, err := r.edge.Podman(r.Context(), "inspect", "--format", "{{.State.Running}}|{{.State.StartedAt.UnixNano}}|{{.Config.Env}}", name+"-app")
		if err != nil {
			return err
		}
		parts := strings.SplitN(out, "|", 3)
		if len(parts) != 3 || parts[0] != "true" || !strings.Contains(parts[2], fmt.Sprintf("ROUND=%d", round)) {
			return fmt.Errorf("container is %s", out)
		}
		nano, err := strconv.ParseInt(parts[1], 10, 64)
		started = time.Unix(0, nano)
		return err
	}))
	return started
}

// settled waits until the control plane has heard that a workload runs, which
// the agent says when it has kept running for a while.
func (r *rig) settled(name string) {
	r.Helper()
	must(r.T, site.Until(r.Context(), 2*time.Minute, func() error {
		if phase := r.edge.Phase(name); phase != "Running" {
			return fmt.Errorf("workload %s is reported %q", name, phase)
		}
		return nil
	}))
}

// pids are the device's processes of that name, as the host sees them.
func (r *rig) pids(name string) []string {
	r.Helper()
	result, err := r.edge.Run(r.Context(), "sh", "-c", "pgrep -x "+name+" || true")
	must(r.T, err)
	inner := map[string]bool{}
	for pid := range strings.FieldsSeq(result.Stdout) {
		inner[pid] = true
	}
	own, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", r.edge.Leader()))
	must(r.T, err)
	entries, err := os.ReadDir("/proc")
	must(r.T, err)
	var pids []string
	for _, p := range entries {
		// Other devices on this machine may have a process of the same number.
		if space, err := os.Readlink("/proc/" + p.Name() + "/ns/pid"); err != nil || space != own {
			continue
		}
		if nested := strings.Fields(field("/proc/"+p.Name()+"/status", "NSpid:")); len(nested) > 0 && inner[nested[len(nested)-1]] {
			pids = append(pids, p.Name())
		}
	}
	return pids
}

func (r *rig) agentPID() string {
	r.Helper()
	pids := r.pids("flotta-agent")
	if len(pids) != 1 {
		r.Fatalf("the device has %d agents", len(pids))
	}
	return pids[0]
}

// field returns what follows a key in a file of /proc; empty when there is none.
func field(path, key string) string {
	raw, err := os.ReadFile(path)
	if err != nil {
		return "" // the process has ended
	}
	for line := range strings.Lines(string(raw)) {
		if rest, found := strings.CutPrefix(line, key); found {
			return strings.TrimSpace(rest)
		}
	}
	return ""
}

// megabytes reads such a field, in kB, as MB.
func megabytes(t *testing.T, path, key string) float64 {
	t.Helper()
	kB, err := strconv.ParseFloat(strings.TrimSuffix(field(path, key), " kB"), 64)
	must(t, err)
	return kB * 1024 / 1e6
}
