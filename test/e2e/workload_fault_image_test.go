//go:build device

package e2e

import (
	"fmt"
	"strings"
	"testing"

	"github.com/project-flotta/flotta-agent/test/site"
)

// badImage is a program that does not come to serve.
type badImage struct {
	workload, port string
	container      string // its part of the manifest
	reason, says   string // what is reported of it
}

var badImages = []badImage{
	{
		workload: "at-once", port: "18080", container: "args: [exit, '3']",
		reason: "ContainerExited", says: "exiting with 3",
	},
	{
		workload: "after-five", port: "18081", container: "args: [exit, '4', 5s]",
		reason: "ContainerExited", says: "exiting with 4",
	},
	{
		workload: "never-ready", port: "18082",
		container: "args: [sleep]\nlivenessProbe: {exec: {command: [/app, unhealthy]}, periodSeconds: 1, failureThreshold: 2, initialDelaySeconds: 1}",
		reason:    "", says: "sleeping", // NotReady, or that Podman ended it because of its probe
	},
}

// TestImagesThatDoNotServe brings each of them as the first version, which is
// cleaned up and tried again, and then as the second one, which is put back.
func TestImagesThatDoNotServe(t *testing.T) {
	t.Parallel()
	// A program that ends after 5 s has to be seen to end.
	r := newRig(t, site.EdgeConfig{Settings: strings.Replace(quickSync, `settle = "1s"`, `settle = "8s"`, 1)})
	for _, bad := range badImages {
		r.save(bad.workload+".yaml", r.workload(bad.workload, bad.container, ""))
	}
	for _, bad := range badImages {
		r.failsFirst(bad)
	}
	r.pausesGrow(badImages[0].workload)
	r.allServe("good")
	var watchers []*watcher
	for _, bad := range badImages {
		watchers = append(watchers, r.watch(t, bad.port))
		r.save(bad.workload+".yaml", r.workload(bad.workload, bad.container, ""))
	}
	for i, bad := range badImages {
		r.failsLater(bad)
		pauses, err := r.pauses(bad.workload)
		must(t, err)
		t.Logf("%s as an update: %s until the old version was back and reported; it is tried again after %v", bad.workload, watchers[i], pauses)
	}
	r.allServe("better")
}

// failsFirst waits until a first version was tried, reported, and cleaned up.
func (r *rig) failsFirst(bad badImage) {
	r.Helper()
	r.until(bad.workload+" is reported with its last words", func() error {
		return r.complains(bad.workload, bad.reason, bad.says)
	})
	r.until("nothing is left of "+bad.workload+" between two tries", func() error { return r.nothingLeft(bad.workload) })
	r.until(bad.workload+" is tried again", func() error {
		pauses, err := r.pauses(bad.workload)
		if err == nil && len(pauses) < 2 {
			err = fmt.Errorf("the pauses after its failures are %v", pauses)
		}
		return err
	})
	r.eventOf(bad)
}

// failsLater waits until a second version was tried and reported, and the first
// one is back.
func (r *rig) failsLater(bad badImage) {
	r.Helper()
	r.until(bad.workload+" is reported with its last words and the old version serves", func() error {
		if err := r.complains(bad.workload, bad.reason, bad.says); err != nil {
			return err
		}
		return r.serves(bad.workload, bad.port, "good")
	})
	r.phase(bad.workload, "Running")
	r.until("the event says that it was put back", func() error {
		for line := range strings.Lines(r.site.Events(r.edge.ID())) {
			if strings.Contains(line, "workload "+bad.workload+" was put back") && strings.Contains(line, bad.says) {
				return nil
			}
		}
		return fmt.Errorf("events: %s", r.site.Events(r.edge.ID()))
	})
}

func (r *rig) eventOf(bad badImage) {
	r.Helper()
	r.until("an event says what became of "+bad.workload, func() error {
		for line := range strings.Lines(r.site.Events(r.edge.ID())) {
			if strings.Contains(line, "WorkloadFailed") && strings.Contains(line, bad.workload) && strings.Contains(line, bad.says) {
				return nil
			}
		}
		return fmt.Errorf("events: %s", r.site.Events(r.edge.ID()))
	})
}

// pausesGrow waits for a third failure, and fails the test when a pause is not
// longer than the one before.
func (r *rig) pausesGrow(workload string) {
	r.Helper()
	r.until(workload+" has failed three times", func() error {
		pauses, err := r.pauses(workload)
		if err == nil && len(pauses) < 3 {
			err = fmt.Errorf("the pauses after its failures are %v", pauses)
		}
		for i := 1; i < len(pauses); i++ {
			if pauses[i] <= pauses[i-1] {
				r.Fatalf("the pauses between tries do not grow: %v", pauses)
			}
		}
		return err
	})
}

// allServe brings a version that works to all of them.
func (r *rig) allServe(round string) {
	r.Helper()
	for _, bad := range badImages {
		r.save(bad.workload+".yaml", r.pod(bad.workload, bad.port, round))
	}
	for _, bad := range badImages {
		r.until(bad.workload+" serves", func() error {
			if w, err := r.statusOf(bad.workload); err != nil || w.Reason != "" {
				return fmt.Errorf("it is %s %s %s %w", w.Phase, w.Reason, w.Message, err)
			}
			return r.serves(bad.workload, bad.port, round)
		})
	}
}
