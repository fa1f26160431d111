package workload_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/project-flotta/flotta-agent/internal/workload"
	"github.com/project-flotta/flotta-agent/internal/workload/workloadtest"
)

// TestCompletes runs what comes to its end once, and not again at the next boot.
func TestCompletes(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		policy string
		image  workloadtest.Behaviour
		reason string
	}{
		"Never and well":     {"Never", workloadtest.Ends, ""},
		"Never and badly":    {"Never", workloadtest.Fails, workload.ReasonExited},
		"OnFailure and well": {"OnFailure", workloadtest.Ends, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				d := newDevice(t)
				d.world.Publish("job:1", test.image)
				d.world.Publish("job:2", test.image)
				d.start(-1)
				d.want("1", map[string]wish{"job": {Image: "job:1", Pod: "restartPolicy: " + test.policy}})
				d.eventually(time.Minute, func() string { return d.completed("job", test.reason) })
				if !d.sawEvent(workload.EventCompleted) {
					t.Error("no event of the end")
				}
				time.Sleep(time.Hour)
				d.halt()
				d.world.PowerCut()
				d.start(-1)
				time.Sleep(time.Hour)
				synctest.Wait()
				if n := d.world.Starts("job"); n != 1 {
					t.Errorf("started %d times", n)
				}

				d.want("2", map[string]wish{"job": {Image: "job:2", Pod: "restartPolicy: " + test.policy}})
				d.eventually(time.Minute, func() string { return d.completed("job", test.reason) })
				if n := d.world.Starts("job"); n != 2 {
					t.Errorf("started %d times", n)
				}

				d.want("3", nil)
				d.eventually(time.Minute, func() string {
					if pods, _, _ := d.world.Left(); len(pods) > 0 {
						return fmt.Sprint("left: ", pods)
					}
					return ""
				})
			})
		})
	}
}

// completed says what is missing for a workload to have come to its end.
func (d *device) completed(name, reason string) string {
	_, enabled, _ := d.world.Left()
	s := d.status(name)
	if len(enabled) > 0 || s.Applied == "" || s.Applied != s.Desired || s.Reason != reason || !d.reconciler.Status().Settled {
		return fmt.Sprintf("status %+v, enabled %v", s, enabled)
	}
	return d.runs(name)
}

// TestFailedUpdateOfWhatCompleted does not run the old version a second time.
func TestFailedUpdateOfWhatCompleted(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(t)
		d.world.Publish("job:1", workloadtest.Ends)
		d.world.Publish("broken:1", workloadtest.Broken)
		d.start(-1)
		d.want("1", map[string]wish{"job": {Image: "job:1", Pod: "restartPolicy: Never"}})
		d.eventually(time.Minute, func() string { return d.completed("job", "") })
		old := d.applied("job")

		d.want("2", map[string]wish{"job": {Image: "broken:1", Pod: "restartPolicy: Never"}})
		d.eventually(time.Minute, func() string {
			pods, enabled, _ := d.world.Left()
			if s := d.status("job"); s.Reason != workload.ReasonNotStarted || len(pods) > 0 || len(enabled) > 0 {
				return fmt.Sprintf("status %+v, pods %v, enabled %v", s, pods, enabled)
			}
			return ""
		})
		if d.applied("job") != old {
			t.Error("the record of what completed is gone")
		}
	})
}

// TestOnFailureIsTriedUntilItSucceeds leaves the repetition to Podman.
func TestOnFailureIsTriedUntilItSucceeds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(t)
		d.world.Publish("good:1", workloadtest.Good)
		d.start(-1)
		d.want("1", map[string]wish{"job": {Image: "good:1", Pod: "restartPolicy: OnFailure"}})
		d.eventually(time.Minute, func() string {
			if len(d.world.Containers("job")) == 0 {
				return "not started"
			}
			return ""
		})
		d.world.Meddle("job", func(c *workload.Container) { c.Restarts, c.StartedAt = 2, time.Now() })
		d.eventually(time.Minute, func() string { return d.runs("job") })
		if n := d.world.Starts("job"); n != 1 {
			t.Errorf("started %d times", n)
		}
	})
}
