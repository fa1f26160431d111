package workload_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/project-flotta/flotta-agent/internal/workload"
	"github.com/project-flotta/flotta-agent/internal/workload/workloadtest"
)

// TestLoadedImageIsTriedAtOnce: a person puts the image there, or another one under
// the name of one that does not work.
func TestLoadedImageIsTriedAtOnce(t *testing.T) {
	t.Parallel()
	for name, before := range map[string]func(*device){
		"missing": func(*device) {},
		"bad":     func(d *device) { d.world.Load("by-hand:1", "bad", workloadtest.Broken) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				d := newDevice(t)
				d.startImages(workload.ImageConfig{})
				before(d)
				d.want("1", map[string]wish{"a": {Image: "by-hand:1"}})
				time.Sleep(30 * time.Minute) // the pauses have become long
				d.world.Load("by-hand:1", "good", workloadtest.Good)
				d.eventually(15*time.Second, func() string { return d.runs("a") })
			})
		})
	}
}

// TestImageLoadedDuringAnAttempt: the attempt fails with the image before, and
// that one is what it remembers.
func TestImageLoadedDuringAnAttempt(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(t)
		d.startImages(workload.ImageConfig{})
		d.world.Load("by-hand:1", "bad", workloadtest.Broken)
		d.want("1", map[string]wish{"a": {Image: "by-hand:1"}})
		time.Sleep(30 * time.Minute)
		tried := d.world.Starts("a")
		for d.world.Starts("a") == tried { // a start that fails takes half a second
			time.Sleep(10 * time.Millisecond)
		}
		d.world.Load("by-hand:1", "good", workloadtest.Good)
		d.eventually(15*time.Second, func() string { return d.runs("a") })
	})
}
