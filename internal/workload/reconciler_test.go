package workload_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/project-flotta/flotta-agent/internal/workload"
	"github.com/project-flotta/flotta-agent/internal/workload/workloadtest"
)

func TestDeployUpdateRemove(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(t)
		d.world.Publish("good:1", workloadtest.Good)
		d.world.Publish("good:2", workloadtest.Good)
		d.start(-1)
		d.want("1", map[string]wish{"a": {Image: "good:1", Secret: "x"}, "b": {Image: "good:1"}})
		d.eventually(time.Minute, func() string { return d.runs("a") + d.runs("b") })
		b := d.world.Containers("b")
		if !d.sawEvent(workload.EventStarted) {
			t.Error("no event of the start")
		}
		d.eventually(time.Minute, func() string {
			if s := d.status("a"); s.Phase != "Running" || s.Reason != "" || s.Applied != s.Desired || !d.reconciler.Status().Settled {
				return fmt.Sprintf("status %+v", s)
			}
			return ""
		})

		d.want("2", map[string]wish{"a": {Image: "good:2", Secret: "y"}, "b": {Image: "good:1"}})
		d.eventually(time.Minute, func() string { return d.runs("a") })
		if diff := cmp.Diff(b, d.world.Containers("b")); diff != "" {
			t.Errorf("the workload that did not change was restarted (-want +got):\n%s", diff)
		}

		d.want("3", nil)
		d.eventually(time.Minute, func() string {
			pods, enabled, secrets := d.world.Left()
			folders, _ := os.ReadDir(filepath.Join(d.dir, "workloads"))
			want := []string{"flotta", "other-0123456789ab"}
			if len(pods) > 0 || len(enabled) > 0 || len(folders) > 0 || !slices.Equal(secrets, want) {
				return fmt.Sprint("left: ", pods, enabled, secrets, folders)
			}
			return ""
		})
		if _, err := os.Stat(filepath.Join(d.dir, "volumes", "a")); err != nil {
			t.Errorf("the volume is gone: %v", err)
		}
		if !d.sawEvent(workload.EventRemoved) || len(d.reconciler.Status().Workloads) > 0 {
			t.Errorf("events %v, status %+v", d.events, d.reconciler.Status())
		}
	})
}

func TestNothingIsTouchedBeforeTheFirstConfiguration(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newSteady(t)
		d.halt()
		before := d.world.Containers("a")

		fresh := newDevice(t) // of its desired state
		fresh.dir, fresh.world = d.dir, d.world
		fresh.start(-1)
		time.Sleep(time.Hour)
		if diff := cmp.Diff(before, d.world.Containers("a")); diff != "" {
			t.Errorf("a device that was told nothing touched what runs (-want +got):\n%s", diff)
		}
	})
}

func TestImageAppears(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(t)
		d.start(-1)
		d.want("1", map[string]wish{"a": {Image: "later:1"}})
		d.eventually(time.Minute, func() string {
			if s := d.status("a"); s.Reason != workload.ReasonImage || s.Phase != "Error" {
				return fmt.Sprintf("status %+v", s)
			}
			return ""
		})
		time.Sleep(20 * time.Minute) // the pause has grown to its limit
		d.world.Publish("later:1", workloadtest.Good)
		d.eventually(7*time.Minute, func() string { return d.runs("a") })
	})
}

func TestNewSnapshotRetriesAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(t)
		d.start(-1)
		d.want("1", map[string]wish{"a": {Image: "later:1"}})
		time.Sleep(20 * time.Minute)
		d.world.Publish("later:1", workloadtest.Good)
		d.want("2", map[string]wish{"a": {Image: "later:1"}, "b": {Image: "later:1"}})
		d.eventually(15*time.Second, func() string { return d.runs("a") })
	})
}

func TestBadUpdateIsPutBack(t *testing.T) {
	t.Parallel()
	for _, bad := range []string{"exits:1", "broken:1", "missing:1"} {
		t.Run(strings.TrimSuffix(bad, ":1"), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				d := newDevice(t)
				d.world.Publish("good:1", workloadtest.Good)
				d.world.Publish("exits:1", workloadtest.Exits)
				d.world.Publish("broken:1", workloadtest.Broken)
				d.start(-1)
				d.want("1", map[string]wish{"a": {Image: "good:1", Secret: "x"}})
				d.eventually(time.Minute, func() string { return d.runs("a") })
				good := d.digests()["a"]
				d.want("2", map[string]wish{"a": {Image: bad, Secret: "y"}})
				d.eventually(time.Minute, func() string {
					s := d.status("a")
					if d.world.Digest("a") != good || s.Reason == "" || s.Applied != good || s.Phase != "Running" || s.Message == "" {
						return fmt.Sprintf("status %+v", s)
					}
					return ""
				})
				if !d.sawEvent(workload.EventFailed) {
					t.Error("no event of the failure")
				}
				d.want("3", map[string]wish{"a": {Image: "good:1", Secret: "z"}})
				d.eventually(time.Minute, func() string { return d.runs("a") })
			})
		})
	}
}

// TestFallBackThatFailsOnce: that what ran before runs again is an event, also
// when it took two tries to come to that.
func TestFallBackThatFailsOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(t)
		d.world.Publish("good:1", workloadtest.Good)
		d.world.Publish("exits:1", workloadtest.Exits)
		var tries atomic.Int32
		d.at = func(point string) {
			switch {
			case point == "restored" && tries.Load() == 0:
				d.world.Load("good:1", "good:1", workloadtest.Broken)
			case point == "restore-restarted":
				tries.Add(1)
				d.world.Load("good:1", "good:1", workloadtest.Good)
			}
		}
		d.start(-1)
		d.want("1", map[string]wish{"a": {Image: "good:1"}})
		d.eventually(time.Minute, func() string { return d.runs("a") })
		good := d.digests()["a"]
		d.want("2", map[string]wish{"a": {Image: "exits:1"}})
		d.eventually(10*time.Minute, func() string {
			if n := d.countEvents(workload.EventFailed); n != 2 || d.world.Digest("a") != good {
				return fmt.Sprintf("%d events of the failure, status %+v", n, d.status("a"))
			}
			return ""
		})
		time.Sleep(3 * time.Hour)
		if n := d.countEvents(workload.EventFailed); n != 2 || tries.Load() < 4 {
			t.Errorf("%d events of %d failures, want two: how it began, and that it was put back", n, tries.Load())
		}
	})
}

func TestFailedFirstDeploymentLeavesNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(t)
		d.world.Publish("exits:1", workloadtest.Exits)
		d.start(-1)
		d.want("1", map[string]wish{"a": {Image: "exits:1"}})
		d.eventually(time.Minute, func() string {
			pods, enabled, _ := d.world.Left()
			if s := d.status("a"); s.Reason != workload.ReasonExited || len(pods)+len(enabled) > 0 {
				return fmt.Sprintf("status %+v, pods %v, enabled %v", s, pods, enabled)
			}
			return ""
		})
	})
}

func TestInvalidBesideGood(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newSteady(t)
		before := d.world.Containers("a")
		d.want("2", map[string]wish{"a": {Image: "invalid"}, "b": {Image: "good:1"}})
		d.eventually(time.Minute, func() string { return d.runs("b") })
		d.eventually(time.Minute, func() string {
			if s := d.status("a"); s.Reason != workload.ReasonInvalid || s.Phase != "Running" {
				return fmt.Sprintf("status %+v", s)
			}
			return ""
		})
		if diff := cmp.Diff(before, d.world.Containers("a")); diff != "" {
			t.Errorf("what ran was touched (-want +got):\n%s", diff)
		}
		d.world.StopByHand("a") // still kept alive
		d.eventually(2*time.Minute, func() string {
			if len(d.world.Containers("a")) == 0 {
				return "a does not run"
			}
			return ""
		})
	})
}

func TestHangingPullHoldsUpNobody(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(t)
		d.world.Publish("good:1", workloadtest.Good)
		d.start(-1)
		d.want("1", map[string]wish{"z": {Image: "good:1"}})
		d.eventually(time.Minute, func() string { return d.runs("z") })
		many := map[string]wish{"fine": {Image: "good:1"}, "z": {Image: "good:1"}}
		for i := range 10 {
			many[fmt.Sprintf("hangs%d", i)] = wish{Image: workloadtest.Hanging}
		}
		d.want("2", many)
		d.eventually(time.Minute, func() string { return d.runs("fine") })
		// What hangs is called off by what is newer.
		d.want("3", map[string]wish{"hangs1": {Image: "good:1"}})
		d.eventually(time.Minute, func() string { return d.runs("hangs1") })
	})
}

func TestDriftIsPutRight(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(t)
		d.world.Publish("good:1", workloadtest.Good)
		d.start(-1)
		d.want("1", map[string]wish{"a": {Image: "good:1", Secret: "x"}})
		d.eventually(time.Minute, func() string { return d.runs("a") })
		for range 3 {
			d.world.StopByHand("a")
			d.eventually(2*time.Minute, func() string { return d.runs("a") })
		}
		if err := os.Remove(filepath.Join(d.dir, "workloads", "a", "manifest.yaml")); err != nil {
			t.Fatal(err)
		}
		d.eventually(3*time.Minute, func() string {
			if _, err := os.Stat(filepath.Join(d.dir, "workloads", "a", "manifest.yaml")); err != nil {
				return err.Error()
			}
			return d.runs("a")
		})
	})
}

func TestDamagedRecord(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newSteady(t)
		before := d.world.Containers("a")
		d.halt()
		if err := os.WriteFile(filepath.Join(d.dir, "workloads", "a", "applied.json"), []byte("{"), 0o600); err != nil {
			t.Fatal(err)
		}
		d.start(-1)
		d.eventually(time.Minute, func() string { return d.runs("a") })
		if diff := cmp.Diff(before, d.world.Containers("a")); diff != "" {
			t.Errorf("it was restarted (-want +got):\n%s", diff)
		}
	})
}

func TestRuntimeIsWaitedFor(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(t)
		d.world.Publish("good:1", workloadtest.Good)
		d.world.SetDown(true)
		d.start(-1)
		d.want("1", map[string]wish{"a": {Image: "good:1"}})
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if s := d.status("a"); s.Reason != workload.ReasonUnobservable {
			t.Errorf("status %+v", s)
		}
		d.world.SetDown(false)
		d.eventually(2*time.Minute, func() string { return d.runs("a") })
	})
}

func TestStatusIsAValueAndWakes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(t)
		d.world.Publish("good:1", workloadtest.Good)
		d.start(-1)
		changed := d.reconciler.Changed()
		d.want("1", map[string]wish{"a": {Image: "good:1"}})
		<-changed
		d.eventually(time.Minute, func() string { return d.runs("a") })
		d.eventually(time.Minute, func() string {
			if !d.reconciler.Status().Settled {
				return "not settled"
			}
			return ""
		})
		since := d.status("a").Since
		changed = d.reconciler.Changed()
		s := d.reconciler.Status()
		s.Workloads[0].Name = "changed by a caller"
		time.Sleep(time.Hour)
		synctest.Wait()
		select {
		case <-changed:
			t.Error("an hour without a change woke the heartbeat")
		default:
		}
		if got := d.status("a"); got.Since != since {
			t.Errorf("since %s, want %s", got.Since, since)
		}
	})
}
