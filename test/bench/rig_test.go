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

const testImage = "localhost/flotta-test:v1"

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// newEdge returns a registered device with those agent settings.
func newEdge(t *testing.T, settings string) (*site.Site, *site.Edge) {
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
	return s, e
}

// save saves the manifest of a workload; round makes it another one each time.
func save(t *testing.T, s *site.Site, e *site.Edge, name string, round int) {
	t.Helper()
	must(t, s.WriteManifest(name+".yaml", fmt.Sprintf(`apiVersion: management.project-flotta.io/v1alpha1
kind: EdgeWorkload
metadata: {name: %s}
spec:
  type: pod
  device: %q
  data: {egress: [{source: out, target: %[1]s}]}
  pod: {spec: {containers: [{name: app, image: %[3]q, args: [sleep], env: [{name: ROUND, value: "%[4]d"}]}]}}
`, name, e.ID(), testImage, round)))
}

// running waits until a workload's container of that round runs, and returns
// when it was started.
func running(t *testing.T, e *site.Edge, name string, round int) (started time.Time) {
	t.Helper()
	must(t, site.Until(t.Context(), 2*time.Minute, func() error {
		out, err := e.Podman(t.Context(), "inspect", "--format", "{{.State.Running}}|{{.State.StartedAt.UnixNano}}|{{.Config.Env}}", name+"-app")
		if err != nil {
			return err
		}
		parts := strings.SplitN(out, "|", 3)
		if parts[0] != "true" || !strings.Contains(parts[2]+" ", fmt.Sprintf("ROUND=%d", round)) {
			return fmt.Errorf("container is %s", out)
		}
		nano, err := strconv.ParseInt(parts[1], 10, 64)
		started = time.Unix(0, nano)
		return err
	}))
	return started
}

// agentPID is the agent's process as the host sees it.
func agentPID(t *testing.T, e *site.Edge) string {
	t.Helper()
	r, err := e.Run(t.Context(), "pgrep", "-x", "flotta-agent")
	must(t, err)
	inner := strings.TrimSpace(r.Stdout)
	entries, err := os.ReadDir("/proc")
	must(t, err)
	for _, p := range entries {
		status, err := os.ReadFile("/proc/" + p.Name() + "/status")
		if err != nil || !strings.HasPrefix(string(status), "Name:\tflotta-agent\n") {
			continue
		}
		for line := range strings.Lines(string(status)) {
			if fields := strings.Fields(line); fields[0] == "NSpid:" && fields[len(fields)-1] == inner {
				return p.Name()
			}
		}
	}
	t.Fatalf("no process of the host is the device's agent %s", inner)
	return ""
}
