//go:build device

package e2e

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/project-flotta/flotta-agent/test/device"
	"github.com/project-flotta/flotta-agent/test/image"
	"github.com/project-flotta/flotta-agent/test/site"
)

const (
	stateDisk = "/var/local/yggdrasil"
	podDisk   = "/var/pods"
)

// newCramped returns a rig with the agent's state and Podman's storage on small
// disks of their own.
func newCramped(t *testing.T) *rig {
	t.Helper()
	s := newSite(t, true)
	e, err := s.NewEdge(t.Context(), site.EdgeConfig{
		Settings: quickSync, Agent: faultyAgent(t), WorkerEnv: []string{"FLOTTA_TEST_CRASH_FILE=" + crashFile},
		Limits: map[string]int64{stateDisk: 64 << 20, podDisk: 192 << 20},
	})
	must(t, err)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("journal of %s:\n%s", e.Name(), e.Journal(t.Context(), 250))
		}
	})
	_, err = e.Run(t.Context(), "sh", "-ec", "chown flotta: "+podDisk+`
		install -d -o flotta -g flotta ~flotta/.config ~flotta/.config/containers
		printf '[storage]\ndriver = "overlay"\ngraphroot = "`+podDisk+`/storage"\n' >~flotta/.config/containers/storage.conf
		chown flotta: ~flotta/.config/containers/storage.conf`)
	must(t, err)
	_, err = e.RunAs(t.Context(), device.User, "systemctl", "--user", "stop", "podman.service")
	must(t, err)
	must(t, e.AddImage(t.Context(), device.User, image.Spec{Ref: imageV1}))
	must(t, e.Registered(t.Context()))
	r := &rig{T: t, ctx: t.Context(), site: s, edge: e}
	r.device("", "")
	root, err := e.Podman(t.Context(), "info", "--format", "{{.Store.GraphRoot}}")
	must(t, err)
	if root != podDisk+"/storage" {
		t.Fatalf("Podman keeps its storage in %s", root)
	}
	return r
}

// TestDiskFull has no room for the agent's state at every second step of an
// update, and at those that only a rollback and a removal have, and then none for
// Podman.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	r := newCramped(t)
	r.setScene()
	check := r.untouched("bystander")
	update := operations()[0]
	points := r.whole(update)
	for i := 1; i < len(points); i += 2 {
		r.sub("for the agent, at "+points[i], func(r *rig) { crampedState(r, update, points[i]) })
	}
	for _, point := range []string{"fall-back", "restored"} {
		r.sub("for the agent, rolling back at "+point, func(r *rig) { crampedRollback(r, point) })
	}
	for _, point := range []string{"remove-begin", "remove-stopped", "remove-pod"} {
		r.sub("for the agent, removing at "+point, func(r *rig) { crampedRemoval(r, point) })
	}
	r.sub("for Podman", crampedPodman)
	check("after full disks")
}

// crampedState has the agent come to a step and find itself on a full disk there.
func crampedState(r *rig, update operation, point string) {
	before, err := r.ask("18080", "/env?name=ROUND")
	must(r.T, err)
	after := "cramped-" + point
	r.crashAt(point)
	update.begin(r, after)
	r.crashed(point)
	must(r.T, r.edge.FillDisk(r.ctx, stateDisk))
	r.restartService()
	// It cannot record what it does, and must not stop what runs for it.
	r.until("the agent is back", func() error {
		_, err := r.edge.Run(r.ctx, "pgrep", "-x", "flotta-agent")
		return err
	})
	r.until("one version or the other serves", func() error {
		round, err := r.ask("18080", "/env?name=ROUND")
		if err == nil && round != before && round != after {
			err = fmt.Errorf("round %q serves", round)
		}
		return err
	})
	r.until("it is reported, or done", func() error {
		if update.done(r, after) == nil {
			return nil
		}
		return r.complains("steady", "no space left")
	})
	must(r.T, r.edge.FreeDisk(r.ctx, stateDisk))
	r.until("it is done when there is room", func() error { return update.done(r, after) })
}

// crampedRollback has the agent find itself on a full disk while a bad version is
// in force: what ran before comes back all the same.
func crampedRollback(r *rig, point string) {
	i := slices.IndexFunc(operations(), func(op operation) bool { return op.name == "update that is rolled back" })
	op := operations()[i]
	r.crashAt(point)
	op.begin(r, "cramped-"+point)
	r.crashed(point)
	must(r.T, r.edge.FillDisk(r.ctx, stateDisk))
	r.restartService()
	r.until("the version before serves on a full disk", func() error { return r.serves("careful", "18081", "good") })
	must(r.T, r.edge.FreeDisk(r.ctx, stateDisk))
	r.until("it is reported", func() error { return op.done(r, "cramped-"+point) })
	op.finish(r)
}

// crampedRemoval does the same in the middle of a removal, which needs no room.
func crampedRemoval(r *rig, point string) {
	r.save("fresh.yaml", r.pod("fresh", "18082", point))
	r.until("fresh serves", func() error { return r.serves("fresh", "18082", point) })
	r.crashAt(point)
	r.remove("fresh.yaml")
	r.crashed(point)
	must(r.T, r.edge.FillDisk(r.ctx, stateDisk))
	r.restartService()
	r.until("nothing of it is left on a full disk", func() error { return r.nothingLeft("fresh") })
	must(r.T, r.edge.FreeDisk(r.ctx, stateDisk))
	r.until("it is forgotten", func() error { return r.forgotten("fresh") })
}

// crampedPodman does the same with no room at all for a container.
func crampedPodman(r *rig) {
	before, err := r.ask("18080", "/env?name=ROUND")
	must(r.T, err)
	must(r.T, r.edge.FillDisk(r.ctx, podDisk))
	r.save("fresh.yaml", r.pod("fresh", "18082", "full"))
	r.until("the new workload is reported", func() error {
		w, err := r.statusOf("fresh")
		if err == nil && (w.Reason == "" || w.Phase == "Running" || !strings.Contains(w.Message, "no space left")) {
			err = fmt.Errorf("it is reported %s, %s: %s", w.Phase, w.Reason, w.Message)
		}
		return err
	})
	if err := r.serves("steady", "18080", before); err != nil {
		r.Errorf("a new workload that finds no room took down another one: %v", err)
	}
	r.save("steady.yaml", r.pod("steady", "18080", "full"))
	r.until("the update is made, or reported while the old version serves", func() error {
		if err := r.serves("steady", "18080", "full"); err == nil {
			return nil
		}
		return errors.Join(r.complains("steady", "no space left"), r.serves("steady", "18080", before))
	})
	must(r.T, r.edge.FreeDisk(r.ctx, podDisk))
	r.until("fresh is deployed when there is room", func() error { return r.serves("fresh", "18082", "full") })
	r.save("steady.yaml", r.pod("steady", "18080", "end"))
	r.until("steady is updated when there is room", func() error { return r.serves("steady", "18080", "end") })
	r.until("nothing is doubled", func() error { return r.nothingDoubled(append(slices.Clone(scene), "fresh")...) })
}
