package workload_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/project-flotta/flotta-agent/internal/workload"
	"github.com/project-flotta/flotta-agent/internal/workload/workloadtest"
)

// startImages runs a reconciler with other settings for images, that logs into
// the returned buffer.
func (d *device) startImages(images workload.ImageConfig) *journal {
	d.t.Helper()
	log := &journal{}
	r, err := workload.New(workload.Config{
		Desired: d.store, Runtime: d.world, Units: workloadtest.Units{World: d.world},
		Log: slog.New(slog.NewTextHandler(log, nil)), StateDir: d.dir, UID: -1, GID: -1, Images: images,
	})
	if err != nil {
		d.t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	d.reconciler, d.stop, d.done = r, stop, make(chan struct{})
	go func() {
		defer close(d.done)
		_ = r.Run(ctx)
	}()
	return log
}

// journal is a log that can be read while it is written.
type journal struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.Write(p)
}

func (j *journal) count(text string) int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return strings.Count(j.text.String(), text)
}

func TestImageConfigIsChecked(t *testing.T) {
	t.Parallel()
	for _, c := range []workload.ImageConfig{
		{PullStall: -1}, {GCHigh: 0.5, GCLow: 0.6}, {GCHigh: 1.1}, {GCLow: -0.1},
	} {
		d := newDevice(t)
		if _, err := workload.New(workload.Config{
			Desired: d.store, Runtime: d.world, Units: workloadtest.Units{World: d.world},
			Log: slog.New(slog.DiscardHandler), StateDir: d.dir, Images: c,
		}); err == nil {
			t.Errorf("%+v was taken", c)
		}
	}
}

func TestStalledPullIsCalledOffAndTriedAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(t)
		log := d.startImages(workload.ImageConfig{})
		d.want("1", map[string]wish{"a": {Image: workloadtest.Hanging}})
		time.Sleep(2 * time.Minute)
		if s := d.status("a"); s.Reason != "Pulling" || !strings.Contains(s.Message, "(no progress for ") {
			t.Errorf("while it hangs: %+v", s)
		}
		d.eventually(5*time.Minute, func() string {
			if s := d.status("a"); s.Reason != workload.ReasonImage || !strings.Contains(s.Message, "no progress for 5m0s") {
				return fmt.Sprintf("status %+v", s)
			}
			return ""
		})
		d.eventually(time.Minute, func() string {
			if d.world.Pulls() < 2 {
				return "it was not tried again"
			}
			return ""
		})
		if n := log.count("pulling image"); n > 10 {
			t.Errorf("%d lines in the log", n)
		}
	})
}

func TestQuietPullsDoNotHoldUpOthers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(t)
		d.startImages(workload.ImageConfig{})
		hanging := map[string]wish{}
		for i := range 6 { // twice as many as may run at once
			hanging[fmt.Sprintf("h%d", i)] = wish{Image: fmt.Sprintf("hanging:%d", i)}
		}
		d.want("1", hanging)
		time.Sleep(10 * time.Second)
		d.world.Publish("good:1", workloadtest.Good)
		hanging["a"] = wish{Image: "good:1"}
		d.want("2", hanging)
		d.eventually(time.Minute, func() string { return d.runs("a") })
	})
}

func TestSlowPullIsLeftAlone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(t)
		log := d.startImages(workload.ImageConfig{})
		d.world.Publish(workloadtest.Crawling, workloadtest.Good)
		d.want("1", map[string]wish{"a": {Image: workloadtest.Crawling}})
		d.eventually(40*time.Minute, func() string { return d.runs("a") })
		if d.world.Pulls() != 1 {
			t.Errorf("%d pulls", d.world.Pulls())
		}
		// One at the start, one a minute, and one at the end.
		if begun, during, done := log.count(`msg="pulling image"`), log.count(`msg="still pulling image"`), log.count(`msg="image pulled"`); begun != 1 || during < 28 || during > 31 || done != 1 {
			t.Errorf("log: %d, %d and %d lines", begun, during, done)
		}
	})
}

func TestLocalImageServesWhenTheRegistryIsGone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(t)
		log := d.startImages(workload.ImageConfig{})
		d.world.Load("floating:latest", "one", workloadtest.Good)
		d.want("1", map[string]wish{"a": {Image: "floating:latest"}})
		d.eventually(time.Minute, func() string { return d.runs("a") })
		if d.world.Pulls() == 0 || log.count("using the one that is there") == 0 {
			t.Error("it was not pulled, or nothing was said")
		}
		d.eventually(time.Minute, func() string {
			if s := d.status("a"); len(s.Notes) != 1 || !strings.Contains(s.Notes[0], "the local one is used") {
				return fmt.Sprintf("status %+v", s)
			}
			return ""
		})
	})
}

// updates brings the device to its nth image of workload a, one after the other.
func (d *device) updates(n int) {
	d.t.Helper()
	for i := 1; i <= n; i++ {
		image := fmt.Sprintf("good:%d", i)
		d.world.Publish(image, workloadtest.Good)
		d.want(image, map[string]wish{"a": {Image: image}})
		d.eventually(time.Minute, func() string { return d.runs("a") })
		time.Sleep(20 * time.Minute)
	}
}

func (d *device) images(what string, want ...string) {
	d.t.Helper()
	synctest.Wait()
	if diff := cmp.Diff(want, d.world.ImageIDs()); diff != "" {
		d.t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

func TestUnusedImagesGoWhenTheDiskFillsUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(t)
		d.world.SetDisk(1000, 0)
		d.world.Load("theirs:1", "theirs", workloadtest.Good)
		d.startImages(workload.ImageConfig{})
		d.updates(5)
		d.images("with room", "good:1", "good:2", "good:3", "good:4", "good:5", "theirs")
		d.world.SetDisk(1000, 260)
		time.Sleep(10 * time.Minute)
		d.images("at 86 %, one is enough", "good:2", "good:3", "good:4", "good:5", "theirs")
		// Its own image, that of the manifest kept aside, and what is not ours.
		d.world.SetDisk(1000, 800)
		time.Sleep(10 * time.Minute)
		d.images("full", "good:4", "good:5", "theirs")
		d.want("gone", nil)
		time.Sleep(30 * time.Minute)
		d.images("with nothing desired", "theirs")
	})
}

func TestImageOfSomebodyElseStays(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(t)
		d.world.SetDisk(1000, 0)
		d.startImages(workload.ImageConfig{})
		d.updates(4)
		d.world.Load("kept:3", "good:3", workloadtest.Good) // which a person wants to keep
		d.want("gone", nil)
		d.world.SetDisk(1000, 900)
		time.Sleep(time.Hour)
		got := d.world.ImageIDs()
		if slices.Contains(got, "good:4") || !slices.Contains(got, "good:3") {
			t.Errorf("left are %v", got)
		}
		if err := d.reconciler.PurgeImages(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := d.world.ImageIDs(); !slices.Contains(got, "good:3") {
			t.Errorf("left after the purge are %v", got)
		}
	})
}

// TestLoadedImageStays, which may be had nowhere else, when the workload that used
// it goes.
func TestLoadedImageStays(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(t)
		d.world.SetDisk(1000, 900)
		d.world.Load("loaded:1", "loaded", workloadtest.Good)
		d.startImages(workload.ImageConfig{})
		d.want("1", map[string]wish{"a": {Image: "loaded:1"}})
		d.eventually(time.Minute, func() string { return d.runs("a") })
		time.Sleep(time.Hour)
		d.want("2", nil)
		time.Sleep(time.Hour)
		if err := d.reconciler.PurgeImages(t.Context()); err != nil {
			t.Fatal(err)
		}
		d.images("after its workload", "loaded")
	})
}

func TestImageBehindAMovedTagGoes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(t)
		d.world.SetDisk(1000, 0)
		d.startImages(workload.ImageConfig{})
		for _, id := range []string{"one", "two", "three"} {
			d.world.PublishAs("floating:latest", id, workloadtest.Good)
			d.want(id, map[string]wish{"a": {Image: "floating:latest", Secret: id}})
			d.eventually(time.Minute, func() string { return d.runs("a") })
			time.Sleep(20 * time.Minute)
		}
		d.images("with room", "one", "three", "two")
		d.halt()
		d.world.SetDisk(1000, 900)
		d.startImages(workload.ImageConfig{}) // which knows from the disk what is ours
		time.Sleep(20 * time.Minute)
		d.images("full", "three")
	})
}

func TestNothingIsRemovedBeforeTheFirstConfiguration(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(t)
		d.world.SetDisk(1000, 0)
		d.startImages(workload.ImageConfig{})
		d.updates(3)
		d.halt()
		d.world.SetDisk(1000, 990)
		fresh := newDevice(t)
		fresh.dir, fresh.world = d.dir, d.world
		fresh.startImages(workload.ImageConfig{})
		time.Sleep(time.Hour)
		fresh.images("without a configuration", "good:1", "good:2", "good:3")
	})
}

func TestFullDiskMakesRoomForAPull(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(t)
		d.startImages(workload.ImageConfig{GCHigh: 1}) // never by itself
		d.world.SetDisk(400, 0)
		d.updates(5)
		d.images("two had to go", "good:3", "good:4", "good:5")
		d.world.SetDisk(400, 300)
		d.world.Publish("good:6", workloadtest.Good)
		d.want("6", map[string]wish{"a": {Image: "good:6"}})
		d.eventually(time.Minute, func() string {
			s := d.status("a")
			if s.Reason != workload.ReasonImage || !strings.Contains(s.Message, "the disk of "+workloadtest.ImageDir+" is full") {
				return fmt.Sprintf("status %+v", s)
			}
			return ""
		})
		if s := d.status("a"); s.Phase != workload.PodRunning {
			t.Errorf("what ran does not: %+v", s)
		}
	})
}

func TestPurge(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(t)
		d.world.Load("theirs:1", "theirs", workloadtest.Good)
		d.startImages(workload.ImageConfig{})
		d.updates(3)
		d.want("gone", nil)
		time.Sleep(time.Minute)
		for range 2 {
			if err := d.reconciler.PurgeImages(t.Context()); err != nil {
				t.Fatal(err)
			}
			d.images("purged", "theirs")
		}
	})
}

// TestCollectionNeverHitsWhatIsWanted removes whatever it may, all the time, while
// workloads come, change and go: no start ever finds its image gone.
func TestCollectionNeverHitsWhatIsWanted(t *testing.T) {
	t.Parallel()
	for seed := range uint64(8) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				random := rand.New(rand.NewPCG(seed, seed))
				d := newDevice(t)
				d.world.SetDisk(1000, 1000)
				for i := range 6 {
					d.world.Publish(fmt.Sprintf("good:%d", i), workloadtest.Good)
				}
				log := d.startImages(workload.ImageConfig{
					GCHigh: 1e-9, GCLow: 1e-9, GCInterval: 2 * time.Second, GCMinAge: time.Nanosecond,
				})
				d.world.SetDisk(1<<30, 1<<29)
				for round := range 40 {
					wishes := map[string]wish{}
					for _, name := range []string{"a", "b", "c"} {
						if random.IntN(4) > 0 {
							// Two containers: the first one's image waits for the second's.
							wishes[name] = wish{Image: fmt.Sprintf(
								"good:%d}, {name: second, image: good:%d", random.IntN(6), random.IntN(6),
							)}
						}
					}
					d.want(fmt.Sprint(round), wishes)
					time.Sleep(time.Duration(random.IntN(12_000)) * time.Millisecond)
				}
				for name := range d.digests() {
					d.eventually(time.Minute, func() string { return d.runs(name) })
				}
				if n := log.count("not as desired"); n > 0 {
					t.Errorf("%d attempts failed:\n%s", n, log.text.String())
				}
				if log.count("unused image removed") == 0 {
					t.Error("nothing was ever removed")
				}
			})
		})
	}
}

// TestImageIsWantedWhileItIsRemoved wants an image again at the moment at which
// its removal, or that of the one before it, has begun.
func TestImageIsWantedWhileItIsRemoved(t *testing.T) {
	t.Parallel()
	for _, trigger := range []string{"good:1", "good:2"} {
		t.Run(trigger, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				d := newDevice(t)
				d.world.SetDisk(1000, 0)
				log := d.startImages(workload.ImageConfig{})
				d.updates(5)
				d.world.Publish("other:1", workloadtest.Good) // whose pull the start waits for
				var once sync.Once
				d.world.OnRemove(func(id string) {
					if id == trigger {
						once.Do(func() {
							d.want("again", map[string]wish{"a": {Image: "good:5"}, "b": {Image: "good:2}, {name: second, image: other:1"}})
						})
					}
				})
				d.world.SetDisk(1000, 450)
				d.eventually(10*time.Minute, func() string { return d.runs("b") })
				if n := log.count("not as desired"); n > 0 {
					t.Errorf("%d attempts failed:\n%s", n, log.text.String())
				}
			})
		})
	}
}
