//go:build device

package e2e

import (
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/project-flotta/flotta-agent/test/device"
	"github.com/project-flotta/flotta-agent/test/site"
)

// TestRuntimeAway takes Podman's socket away for a while, and then the user's
// whole service manager, also while the agent starts.
func TestRuntimeAway(t *testing.T) {
	t.Parallel()
	r := newRig(t, site.EdgeConfig{Settings: quickSync})
	r.save("steady.yaml", r.pod("steady", "18080", "one"))
	r.save("bystander.yaml", r.workload("bystander", "args: [sleep]", ""))
	r.until("steady serves", func() error { return r.serves("steady", "18080", "one") })
	r.phase("bystander", "Running")
	r.sub("without Podman's socket", podmanAway)
	r.sub("the service manager restarts", managerRestarts)
	r.sub("the agent starts first", agentFirst)
}

func podmanAway(r *rig) {
	check := r.untouched("bystander")
	id := r.running("steady", "app")
	r.userCommand("systemctl", "--user", "stop", "podman.socket", "podman.service")
	r.save("steady.yaml", r.pod("steady", "18080", "two"))
	r.until("it is reported", func() error { return r.complains("steady", "RuntimeUnavailable") })
	// What runs goes on, and nothing is half done.
	hold(r.T, 45*time.Second, func() error { // a minute, with the time until it is reported
		now, err := r.edge.Container(r.ctx, "steady", "app")
		if err == nil && now != id {
			err = fmt.Errorf("the workload was touched without Podman")
		}
		return err
	})
	r.userCommand("systemctl", "--user", "start", "podman.socket")
	r.until("the change is applied", func() error { return r.serves("steady", "18080", "two") })
	check("after Podman came back")
	r.bothThere("two")
}

// bothThere waits until both workloads run as they should, each once.
func (r *rig) bothThere(round string) {
	r.Helper()
	r.until("both workloads are there, once", func() error {
		if err := r.serves("steady", "18080", round); err != nil {
			return err
		}
		for _, name := range []string{"steady", "bystander"} {
			w, err := r.statusOf(name)
			if err != nil || w.Phase != "Running" || w.Reason != "" {
				return fmt.Errorf("%s is reported %s, %s: %s %w", name, w.Phase, w.Reason, w.Message, err)
			}
		}
		return r.nothingDoubled("steady", "bystander")
	})
}

// manager does something to the service manager of the workloads' user.
func (r *rig) manager(verb string) {
	r.Helper()
	_, err := r.edge.Run(r.ctx, "systemctl", verb, "user@"+strconv.Itoa(r.edge.UID())+".service")
	must(r.T, err)
}

func managerRestarts(r *rig) {
	r.manager("restart")
	r.bothThere("two")
	// The agent's connections are new ones, for changes as well as for news.
	r.save("steady.yaml", r.pod("steady", "18080", "three"))
	r.bothThere("three")
	check := r.untouched("steady")
	r.userCommand("podman", "pod", "rm", "--force", "bystander")
	r.bothThere("three")
	check("after the drift of another one")
}

func agentFirst(r *rig) {
	_, err := r.edge.Run(r.ctx, "systemctl", "stop", r.edge.Service())
	must(r.T, err)
	r.manager("stop")
	r.save("steady.yaml", r.pod("steady", "18080", "four"))
	_, err = r.edge.Run(r.ctx, "systemctl", "start", r.edge.Service())
	must(r.T, err)
	r.until("it is reported that nothing can be seen", func() error { return r.complains("steady", "RuntimeUnavailable") })
	_, err = r.edge.Run(r.ctx, "pgrep", "-u", device.User, "podman")
	if err == nil {
		r.Error("something of the user's runs: this shows nothing")
	}
	r.manager("start")
	r.bothThere("four")
}
