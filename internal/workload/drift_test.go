package workload_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/project-flotta/flotta-agent/internal/workload"
	"github.com/project-flotta/flotta-agent/internal/workload/workloadtest"
)

// TestMeddledPod mends what a person did to the containers of a pod.
func TestMeddledPod(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*workload.Container){
		"stopped":   func(c *workload.Container) { c.Status = workload.ContainerExited },
		"removed":   func(c *workload.Container) { c.Name = "another" },
		"unhealthy": func(c *workload.Container) { c.Health = workload.HealthUnhealthy },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				d := newSteady(t)
				time.Sleep(10 * time.Minute)
				d.world.Meddle("a", change)
				d.eventually(time.Minute, func() string {
					if n := d.world.Starts("a"); n != 2 {
						return fmt.Sprintf("started %d times", n)
					}
					return d.runs("a")
				})
				time.Sleep(time.Hour)
				if n := d.world.Starts("a"); n != 2 {
					t.Errorf("started %d times", n)
				}
			})
		})
	}
}

// TestPausedPod lets run again what a person paused, in the same containers.
func TestPausedPod(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newSteady(t)
		before := d.world.Containers("a")
		d.world.Meddle("a", func(c *workload.Container) { c.Status = workload.ContainerPaused })
		d.eventually(time.Minute, func() string {
			pod, _, err := d.world.Pod(t.Context(), "a")
			if err != nil || pod.Containers[0].Status != workload.ContainerRunning {
				return fmt.Sprintf("pod %+v, err %v", pod, err)
			}
			return ""
		})
		if diff := cmp.Diff(before, d.world.Containers("a")); diff != "" {
			t.Errorf("it was restarted (-want +got):\n%s", diff)
		}
	})
}

// TestPodmanAtWork leaves alone what Podman restarts by itself.
func TestPodmanAtWork(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newSteady(t)
		for range 40 { // ended whenever somebody looks, but never since the same start
			d.world.Meddle("a", func(c *workload.Container) {
				c.Status, c.StartedAt = workload.ContainerExited, time.Now()
				c.Restarts++
			})
			time.Sleep(7 * time.Second)
		}
		if n := d.world.Starts("a"); n != 1 {
			t.Errorf("started %d times", n)
		}
	})
}

// TestDeletedByHand puts back what a person deleted of that which a workload
// needs to start, although systemd tries again by itself and tells nobody.
func TestDeletedByHand(t *testing.T) {
	t.Parallel()
	files := func(d *device) []string {
		found, err := filepath.Glob(filepath.Join(d.dir, "workloads", "a", "files-*"))
		if err != nil {
			t.Fatal(err)
		}
		return found
	}
	for name, remove := range map[string]func(*device){
		"secret": func(d *device) {
			for _, s := range d.ownSecrets() {
				_ = d.world.RemoveSecret(context.Background(), s)
			}
		},
		"files": func(d *device) {
			for _, dir := range files(d) {
				_ = os.RemoveAll(dir)
			}
		},
	} {
		for state, disturb := range map[string]func(*device){
			"it runs":                  func(*device) {},
			"it cannot start any more": func(d *device) { _ = workloadtest.Units{World: d.world}.Restart(context.Background(), "a") },
		} {
			t.Run(name+" gone and "+state, func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					d := newDevice(t)
					d.world.Publish("good:1", workloadtest.Good)
					d.start(-1)
					d.want("1", map[string]wish{"a": {Image: "good:1", Secret: "x", Pod: "volumes: [{name: keys, secret: {secretName: a}}]"}})
					d.eventually(time.Minute, func() string { return d.runs("a") })
					before := d.world.Containers("a")
					if len(d.ownSecrets()) == 0 || len(files(d)) == 0 {
						t.Fatalf("secrets %v, files %v: nothing to delete", d.ownSecrets(), files(d))
					}
					remove(d)
					disturb(d)
					d.eventually(2*time.Minute, func() string {
						if len(d.ownSecrets()) == 0 || len(files(d)) == 0 {
							return fmt.Sprintf("secrets %v, files %v", d.ownSecrets(), files(d))
						}
						return d.runs("a")
					})
					if diff := cmp.Diff(before, d.world.Containers("a")); state == "it runs" && diff != "" {
						t.Errorf("it was restarted (-want +got):\n%s", diff)
					}
				})
			})
		}
	}
}

// TestSickUpdate puts back what ran when the probe of its successor fails.
func TestSickUpdate(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(t)
		d.world.Publish("good:1", workloadtest.Good)
		d.world.Publish("sick:1", workloadtest.Sick)
		d.start(-1)
		d.want("1", map[string]wish{"a": {Image: "good:1"}})
		d.eventually(time.Minute, func() string { return d.runs("a") })
		good := d.applied("a")
		d.want("2", map[string]wish{"a": {Image: "sick:1"}})
		d.eventually(time.Minute, func() string {
			if d.world.Digest("a") != good {
				return "the version before does not run"
			}
			return d.reasoned("a", workload.ReasonNotReady, "unhealthy")
		})

		// Trying again takes down what runs: within a day, it happens rarely, and
		// not because something else of the configuration changes.
		tried := d.world.Starts("a")
		for i := range 24 {
			time.Sleep(time.Hour)
			d.want(fmt.Sprint("other ", i), map[string]wish{"a": {Image: "sick:1"}, "b": {Image: "none:1", Secret: fmt.Sprint(i)}})
		}
		if n := (d.world.Starts("a") - tried) / 2; n < 20 || n > 35 {
			t.Errorf("tried %d times in a day", n)
		}
		d.world.Publish("good:2", workloadtest.Good)
		d.want("3", map[string]wish{"a": {Image: "good:2"}})
		d.eventually(time.Minute, func() string { return d.runs("a") })
	})
}

// TestFilesOfATakenBackUpdateGo, which may hold secrets.
func TestFilesOfATakenBackUpdateGo(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newSteady(t)
		good := d.applied("a")
		d.world.Publish("sick:1", workloadtest.Sick)
		d.want("2", map[string]wish{"a": {Image: "sick:1", Secret: "x", Pod: "volumes: [{name: keys, secret: {secretName: a}}]"}})
		d.eventually(time.Minute, func() string {
			if d.world.Digest("a") != good {
				return "the version before does not run"
			}
			if s := d.reasoned("a", workload.ReasonNotReady, ""); s != "" {
				return s
			}
			left, err := filepath.Glob(filepath.Join(d.dir, "workloads", "a", "files-*"))
			if err != nil || len(left) > 0 {
				return fmt.Sprintf("left %v, err %v", left, err)
			}
			return ""
		})
	})
}

// TestSlowStartHoldsUpNobody starts more slow workloads than may start at once.
func TestSlowStartHoldsUpNobody(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(t)
		d.world.Publish("slow:1", workloadtest.Slow)
		d.world.Publish("good:1", workloadtest.Good)
		wishes := map[string]wish{"z": {Image: "good:1"}}
		for i := range 8 {
			wishes[fmt.Sprintf("a%d", i)] = wish{Image: "slow:1"}
		}
		d.start(-1)
		d.want("1", wishes)
		d.eventually(time.Minute, func() string { return d.runs("z") })
		d.eventually(20*time.Minute, func() string { return d.runs("a0") + d.runs("a7") })
	})
}
