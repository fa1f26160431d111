package workload_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/project-flotta/flotta-agent/internal/workload/workloadtest"
)

// TestALeavingDeviceIsLeftAlone wants nothing to be started, changed or removed
// while the last files are on their way, and everything after that.
func TestALeavingDeviceIsLeftAlone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(t)
		d.world.Publish("good:1", workloadtest.Good)
		d.start(-1)
		d.want("1", map[string]wish{"a": {Image: "good:1", Secret: "x"}, "late": {Image: "missing:1"}})
		d.eventually(time.Minute, func() string { return d.runs("a") })
		if _, err := d.store.Leave(); err != nil {
			t.Fatal(err)
		}
		kept := d.world.Containers("a")
		d.world.Publish("missing:1", workloadtest.Good)
		time.Sleep(time.Hour)
		d.halt()
		d.start(-1) // as after a crash
		time.Sleep(time.Hour)
		synctest.Wait()
		if diff := cmp.Diff(kept, d.world.Containers("a")); diff != "" {
			t.Errorf("the workload was touched (-want +got):\n%s", diff)
		}
		if d.world.Digest("late") != "" {
			t.Error("a workload was started")
		}
		d.world.StopByHand("a")
		time.Sleep(time.Hour)
		synctest.Wait()
		if len(d.world.Containers("a")) > 0 {
			t.Error("a workload was started again")
		}
		if d.reconciler.Status().Settled {
			t.Error("settled, with workloads left")
		}

		if err := d.store.Withdraw(); err != nil {
			t.Fatal(err)
		}
		d.eventually(time.Minute, func() string {
			pods, enabled, secrets := d.world.Left()
			folders, _ := os.ReadDir(filepath.Join(d.dir, "workloads"))
			settled := d.reconciler.Status().Settled
			if len(pods) > 0 || len(enabled) > 0 || len(folders) > 0 || !settled || !slices.Equal(secrets, []string{"flotta", "other-0123456789ab"}) {
				return fmt.Sprint("left: ", pods, enabled, secrets, folders, " settled: ", settled)
			}
			return ""
		})
		if _, err := os.Stat(filepath.Join(d.dir, "volumes", "a")); err != nil {
			t.Errorf("the volume is gone: %v", err)
		}
	})
}
