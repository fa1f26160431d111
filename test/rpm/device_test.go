//go:build device

package rpm

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/project-flotta/flotta-agent/internal/console"
	"github.com/project-flotta/flotta-agent/test/device"
	"github.com/project-flotta/flotta-agent/test/image"
	"github.com/project-flotta/flotta-agent/test/site"
)

// patience is how long anything may take on a machine under load.
const patience = 90 * time.Second

// rig is a site with one device.
type rig struct {
	*testing.T
	site *site.Site
	edge *site.Edge
}

func newRig(t *testing.T, cfg site.EdgeConfig) *rig {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "site")
	must(t, os.Mkdir(dir, 0o750))
	s, err := site.Start(t.Context(), site.Config{Dir: dir, AutoApprove: true})
	must(t, err)
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close site: %v", err)
		}
	})
	e, err := s.NewEdge(t.Context(), cfg)
	must(t, err)
	t.Cleanup(func() {
		if t.Failed() {
			ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
			defer cancel()
			t.Logf("journal of %s:\n%s", e.Name(), e.Journal(ctx, 250))
		}
	})
	return &rig{T: t, site: s, edge: e}
}

// manage waits until the device is registered and runs a workload, whose
// container it returns.
func (r *rig) manage() string {
	r.Helper()
	must(r.T, r.edge.FindUser(r.Context()))
	must(r.T, r.edge.AddImage(r.Context(), device.User, image.Spec{Ref: "localhost/flotta-test:v1"}))
	must(r.T, r.edge.Registered(r.Context()))
	must(r.T, r.site.WriteManifest("web.yaml", fmt.Sprintf(`apiVersion: management.project-flotta.io/v1alpha1
kind: EdgeWorkload
metadata: {name: web}
spec:
  type: pod
  device: %q
  pod:
    spec:
      containers:
      - name: app
        image: localhost/flotta-test:v1
        ports: [{containerPort: 8080, hostPort: 18080}]
`, r.edge.ID())))
	return r.running()
}

func (r *rig) until(what string, f func() error) {
	r.Helper()
	if err := site.Until(r.Context(), patience, f); err != nil {
		r.Fatalf("%s: %v", what, err)
	}
}

// running waits until the workload runs and is seen to, and returns its
// container and when it was started.
func (r *rig) running() (id string) {
	r.Helper()
	r.until("the workload runs", func() (err error) {
		if id, err = r.edge.Container(r.Context(), "web", "app"); err != nil {
			return err
		}
		started, err := r.edge.Podman(r.Context(), "inspect", "--format", "{{.State.StartedAt}}", id)
		id += " " + started
		return err
	})
	r.until("it is known to run", func() error {
		if phase := r.edge.Phase("web"); phase != "Running" {
			return fmt.Errorf("it is %q", phase)
		}
		return nil
	})
	return id
}

// agent waits until an agent of that version runs and is well, and returns its
// process.
func (r *rig) agent(version string) (pid string) {
	r.Helper()
	r.until("agent "+version+" is well", func() error {
		result, err := r.edge.Run(r.Context(), "flotta-agent", "status", "-o", "json")
		if result.Code != 0 {
			return err
		}
		var d console.Document
		if err := json.Unmarshal([]byte(result.Stdout), &d); err != nil {
			return err
		}
		if d.Version != version || !d.Healthy {
			return fmt.Errorf("it is %s, healthy %v", d.Version, d.Healthy)
		}
		result, err = r.edge.Run(r.Context(), "pgrep", "-x", "flotta-agent")
		pid = strings.TrimSpace(result.Stdout)
		return err
	})
	return pid
}

// sh runs a line of shell on the device that has to succeed.
func (r *rig) sh(line string) string {
	r.Helper()
	result, err := r.edge.Run(r.Context(), "sh", "-c", line)
	if err != nil {
		r.Fatalf("%v: %s", err, result.Stdout)
	}
	return strings.TrimSpace(result.Stdout)
}

// is checks what lines of shell print.
func (r *rig) is(want map[string]string) {
	r.Helper()
	for line, want := range want {
		if got := r.sh(line + " || :"); got != want {
			r.Errorf("%s: %q, want %q", line, got, want)
		}
	}
}

const settings = site.DefaultSettings + "# mine\n"

// TestImage boots an image that the packages were put into before, with a /usr
// that nobody can write to.
func TestImage(t *testing.T) {
	t.Parallel()
	r := newRig(t, site.EdgeConfig{Packages: pack(t, older, "", "-greenboot"), ReadOnlyUsr: true, Settings: settings})
	r.manage()
	r.agent(older)
	r.is(map[string]string{
		"touch /usr/x 2>&1":              "touch: cannot touch '/usr/x': Read-only file system",
		"cat /etc/flotta/agent.toml":     strings.TrimSpace(settings),
		"ls /etc/flotta":                 "agent.toml\nagent.toml.d\nagent.toml.rpmnew\nmaintenance\npki",
		"systemctl --failed --no-legend": "",
	})
	// The device's own files, merged over those of another image.
	r.sh("sed -i /^flotta:/d /etc/subuid /etc/subgid; sync")
	must(t, r.edge.PowerCut())
	must(t, r.edge.PowerOn(t.Context()))
	r.running()
	if got := r.sh("cat /etc/subuid"); !strings.Contains(got, "flotta:600000:65536") {
		t.Errorf("after the boot, subuid is %q", got)
	}
}
