package workload_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/project-flotta/flotta-agent/internal/workload/workloadtest"
)

// TestCrashAtEveryPoint kills the reconciler at each point of an update, of one
// that has to be put back, and of a removal, and lets another one go on.
func TestCrashAtEveryPoint(t *testing.T) {
	t.Parallel()
	for name, image := range map[string]string{"update": "good:2", "put back": "exits:1", "remove": ""} {
		for point := 1; point <= 14; point++ {
			t.Run(fmt.Sprintf("%s/%d", name, point), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) { crashAt(t, image, point) })
			})
		}
	}
}

func crashAt(t *testing.T, image string, point int) {
	d := newDevice(t)
	d.world.Publish("good:1", workloadtest.Good)
	d.world.Publish("good:2", workloadtest.Good)
	d.world.Publish("exits:1", workloadtest.Exits)
	d.start(-1)
	d.want("1", map[string]wish{"a": {Image: "good:1", Secret: "x"}, "still": {Image: "good:1"}})
	d.eventually(time.Minute, func() string { return d.runs("a") + d.runs("still") })
	good, still := d.digests()["a"], d.world.Containers("still")
	d.halt()

	wishes := map[string]wish{"still": {Image: "good:1"}}
	if image != "" {
		wishes["a"] = wish{Image: image, Secret: "y"}
	}
	d.start(point)
	d.want("2", wishes)
	time.Sleep(30 * time.Second)
	synctest.Wait()
	d.revive()
	d.eventually(5*time.Minute, func() string {
		switch image {
		case "":
			pods, enabled, secrets := d.world.Left()
			if len(pods) != 1 || len(enabled) != 1 || len(secrets) != 2 {
				return fmt.Sprint("left: ", pods, enabled, secrets)
			}
			return ""
		case "exits:1":
			if d.world.Digest("a") != good || d.applied("a") != good {
				return "the version before does not run"
			}
			return ""
		default:
			return d.runs("a")
		}
	})
	if diff := cmp.Diff(still, d.world.Containers("still")); diff != "" {
		t.Errorf("the other workload was restarted (-want +got):\n%s", diff)
	}
}

// TestConverges throws everything at a device that can happen to one, and then
// wants it to be as desired.
func TestConverges(t *testing.T) {
	t.Parallel()
	seeds := uint64(60)
	if testing.Short() {
		seeds = 10
	}
	for seed := range seeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { converge(t, seed) })
		})
	}
}

func converge(t *testing.T, seed uint64) {
	random := rand.New(rand.NewPCG(seed, 0))
	d := newDevice(t)
	d.world.Publish("good:1", workloadtest.Good)
	d.world.Publish("good:2", workloadtest.Good)
	d.world.Publish("exits:1", workloadtest.Exits)
	d.world.Publish("broken:1", workloadtest.Broken)
	images := []string{"good:1", "good:1", "good:2", "exits:1", "broken:1", "sometimes:1", "invalid"}
	names := []string{"a", "b", "c", "d"}
	wishes := map[string]wish{}
	d.start(-1)
	for op := range 14 {
		before, steady := d.digests(), d.steady()
		disturbed := ""
		switch random.IntN(9) {
		case 0, 1, 2, 3:
			name := names[random.IntN(len(names))]
			delete(wishes, name)
			if random.IntN(4) > 0 {
				w := wish{Image: images[random.IntN(len(images))]}
				if random.IntN(2) == 0 {
					w.Secret = fmt.Sprint(random.IntN(3))
				}
				wishes[name] = w
			}
			if random.IntN(2) == 0 {
				d.halt()
				d.start(1 + random.IntN(20))
			}
			d.want(fmt.Sprint(op), wishes)
		case 4:
			d.world.Publish("sometimes:1", workloadtest.Good)
		case 5:
			disturbed = names[random.IntN(len(names))]
			d.world.StopByHand(disturbed)
		case 6:
			d.world.SetDown(true)
			time.Sleep(time.Duration(random.IntN(90)) * time.Second)
			d.world.SetDown(false)
		case 7:
			d.halt()
			d.world.PowerCut()
			disturbed = "all"
		case 8:
			d.halt()
		}
		time.Sleep(time.Duration(random.IntN(40_000)) * time.Millisecond)
		synctest.Wait()
		after := d.digests()
		for name, containers := range steady {
			if disturbed != "all" && disturbed != name && before[name] == after[name] &&
				!slices.Equal(containers, d.world.Containers(name)) {
				t.Fatalf("operation %d restarted %s, which nobody asked to change", op, name)
			}
		}
		d.revive()
	}
	d.world.Publish("sometimes:1", workloadtest.Good)
	d.want("last", wishes)
	d.eventually(time.Hour, func() string { return d.wrong(wishes) })
}

// steady returns the containers of the workloads that are as desired.
func (d *device) steady() map[string][]string {
	out := map[string][]string{}
	for name := range d.digests() {
		if d.runs(name) == "" {
			out[name] = d.world.Containers(name)
		}
	}
	return out
}

// wrong says what is not as it should be when all is quiet.
func (d *device) wrong(wishes map[string]wish) string {
	pods, enabled, secrets := d.world.Left()
	if !slices.Contains(secrets, "flotta") || !slices.Contains(secrets, "other-0123456789ab") {
		return "a stranger's secret is gone"
	}
	for _, name := range pods {
		if _, desired := wishes[name]; !desired {
			return name + " is not desired and runs"
		}
	}
	if !slices.Equal(pods, enabled) {
		return fmt.Sprintf("pods %v, enabled %v", pods, enabled)
	}
	if d.status("none").Name != "" || len(d.reconciler.Status().Workloads) != len(wishes) {
		return "the status has other workloads than the desired state"
	}
	for _, name := range slices.Sorted(maps.Keys(wishes)) {
		switch wishes[name].Image {
		case "exits:1", "broken:1", "invalid":
			// What runs under the name of an invalid workload stays, be it the
			// start of a first attempt that was called off.
			stays := wishes[name].Image == "invalid" && d.applied(name) == ""
			if d.world.Digest(name) != d.applied(name) && !stays {
				return fmt.Sprintf("%s runs %q, proven is %q", name, d.world.Digest(name), d.applied(name))
			}
			if d.status(name).Reason == "" {
				return name + " has no reason"
			}
		default:
			if wrong := d.runs(name); wrong != "" {
				return wrong
			}
		}
	}
	return ""
}
