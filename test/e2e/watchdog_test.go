//go:build device

package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/project-flotta/flotta-agent/test/site"
)

// TestWatchdog: systemd ends an agent that hangs, and starts it again; one that is
// offline for many times as long is left alone. Workloads notice neither.
func TestWatchdog(t *testing.T) {
	t.Parallel()
	const watchdog = 8 * time.Second
	r := newRig(t, site.EdgeConfig{Transport: site.Direct})
	must(t, r.edge.WriteFile("/etc/systemd/system/flotta-agent.service.d/watchdog.conf", fmt.Appendf(nil, "[Service]\nWatchdogSec=%d\n", watchdog/time.Second), 0o644))
	r.run("systemctl", "daemon-reload")
	r.run("systemctl", "restart", r.edge.Service())
	show := func(property string) string {
		return strings.TrimSpace(r.run("systemctl", "show", "--value", "--property="+property, r.edge.Service()))
	}
	if state := show("Type") + " " + show("ActiveState"); state != "notify active" {
		t.Errorf("after a start that has ended it is %q", state)
	}
	r.save("w.yaml", r.workload("steady", "args: [sleep]", ""))
	r.phase("steady", "Running")
	id := r.running("steady", "app")
	restarts := func() string { return show("NRestarts") }

	must(t, r.edge.CutNetwork(r.ctx))
	hold(t, 4*watchdog, func() error {
		if n := restarts(); n != "0" {
			return fmt.Errorf("it was restarted %s times for lack of a network", n)
		}
		return nil
	})
	must(t, r.edge.RestoreNetwork(r.ctx))

	must(t, r.edge.Kill(r.ctx, "STOP", "^/usr/bin/flotta-agent"))
	r.until("the agent that hangs is restarted", func() error {
		if n := restarts(); n == "0" {
			return fmt.Errorf("it was not")
		}
		return nil
	})
	r.save("w2.yaml", r.workload("next", "args: [sleep]", ""))
	r.running("next", "app")
	if now := r.running("steady", "app"); now != id {
		t.Errorf("container %s is %s now", id, now)
	}
	if s := r.edge.Journal(r.ctx, 5000); !strings.Contains(s, "Watchdog timeout") {
		t.Error("it was not the watchdog")
	}
}
