//go:build device

package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/project-flotta/flotta-agent/test/device"
	"github.com/project-flotta/flotta-agent/test/image"
	"github.com/project-flotta/flotta-agent/test/site"
)

// TestRootMode has the system's Podman and service manager run the workloads,
// from a device on which nobody has turned them on: deployment, status, update,
// a bad update, the way of a Secret, a power cut and the removal.
func TestRootMode(t *testing.T) {
	t.Parallel()
	host, err := device.DetectHost()
	must(t, err)
	cfg := site.EdgeConfig{Settings: strings.Replace(site.DefaultSettings, "[runtime]\n", "[runtime]\nmode = \"root\"\n", 1)}
	if !host.PureCgroupV2 {
		cfg.Cgroup = device.CgroupV1
	}
	s := newSite(t, true)
	e, err := s.NewEdge(t.Context(), cfg)
	must(t, err)
	t.Cleanup(func() {
		if t.Failed() {
			ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
			defer cancel()
			t.Logf("journal of %s:\n%s", e.Name(), e.Journal(ctx, 250))
		}
	})
	must(t, e.AddImage(t.Context(), "root", image.Spec{Ref: imageV1}))
	must(t, e.Registered(t.Context()))
	r := &rig{T: t, ctx: t.Context(), site: s, edge: e}
	r.device("", "")

	const port = "18080"
	spec := func(word string) string {
		return r.workload("plain", `args: [serve, "8080"]
ports: [{containerPort: 8080, hostPort: 18080}]
env:
- {name: WORD, value: `+word+`}
- {name: PASSWORD, valueFrom: {secretKeyRef: {name: keys, key: TOKEN}}}
`, "")
	}
	r.save("secret.yaml", "apiVersion: v1\nkind: Secret\nmetadata: {name: keys}\nstringData: {TOKEN: s3cr3t}\n")
	r.save("w.yaml", spec("one"))
	r.answers(port, "/env?name=WORD", "one")
	r.answers(port, "/env?name=PASSWORD", "s3cr3t")
	r.phase("plain", "Running")
	if got := r.onRoot("systemctl", "is-enabled", "flotta-workload@plain.service"); got != "enabled" {
		t.Errorf("the system's unit is %s", got)
	}
	if out, err := e.Podman(t.Context(), "ps", "--all", "--quiet"); err != nil || out != "" {
		t.Errorf("flotta has containers: %q, %v", out, err)
	}

	r.save("w.yaml", spec("two"))
	r.answers(port, "/env?name=WORD", "two")
	r.save("w.yaml", r.workload("plain", "args: [exit, '3']\nports: [{containerPort: 8080, hostPort: 18080}]", ""))
	r.until("the failed update is reported", func() error {
		if events := s.Events(e.ID()); !strings.Contains(events, "WorkloadFailed") {
			return fmt.Errorf("events: %s", events)
		}
		return nil
	})
	r.answers(port, "/env?name=WORD", "two")

	must(t, e.PowerCut())
	must(t, e.PowerOn(t.Context()))
	r.answers(port, "/env?name=WORD", "two")

	r.remove("w.yaml")
	r.remove("secret.yaml")
	r.until("nothing is left", func() error {
		left := r.onRoot("podman", "ps", "--all", "--noheading") + r.onRoot("podman", "pod", "ps", "--noheading") +
			r.onRoot("podman", "secret", "ls", "--noheading") + r.onRoot("sh", "-c", "ls -d /etc/systemd/system/flotta-workload@* 2>/dev/null || true") +
			r.onRoot("systemctl", "list-units", "--all", "--plain", "--no-legend", "flotta-workload@*")
		if left != "" {
			return fmt.Errorf("left: %s", left)
		}
		return nil
	})
}

// onRoot runs a command as root of the device and returns what it says.
func (r *rig) onRoot(args ...string) string {
	r.Helper()
	result, err := r.edge.Run(r.ctx, args...)
	if err != nil {
		r.Errorf("%v: %v: %s", args, err, result.Stderr)
	}
	return strings.TrimSpace(result.Stdout)
}
