package workload_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/project-flotta/flotta-agent/internal/workload"
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
	d.world.Publish("job:1", workloadtest.Ends)
	d.world.Publish("sick:1", workloadtest.Sick)
	names := []string{"a", "b", "c", "d"}
	wishes := map[string]wish{}
	meddled := map[string]bool{} // by hand: they are mended at some time
	d.start(-1)
	for op := range 14 {
		before, steady := d.digests(), d.steady()
		disturbed := ""
		switch random.IntN(13) {
		case 0, 1, 2, 3:
			name := names[random.IntN(len(names))]
			delete(wishes, name)
			if random.IntN(4) > 0 {
				wishes[name] = randomWish(random)
			}
			if random.IntN(2) == 0 {
				d.halt()
				d.start(1 + random.IntN(24))
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
		case 9:
			disturbed = names[random.IntN(len(names))]
			meddled[disturbed] = true
			d.world.Meddle(disturbed, func(c *workload.Container) { c.Status = []string{"paused", "exited"}[random.IntN(2)] })
		case 10:
			d.world.Mount(mount, random.IntN(2) == 0)
		case 11:
			d.mark(names[random.IntN(len(names))], random.IntN(2) == 0)
		case 12:
			disturbed = names[random.IntN(len(names))]
			meddled[disturbed] = true
			d.damage(disturbed, random)
		}
		time.Sleep(time.Duration(random.IntN(40_000)) * time.Millisecond)
		synctest.Wait()
		after := d.digests()
		for name, containers := range steady {
			if disturbed != "all" && disturbed != name && !meddled[name] && before[name] == after[name] &&
				!slices.Equal(containers, d.world.Containers(name)) {
				t.Fatalf("operation %d restarted %s, which nobody asked to change", op, name)
			}
		}
		d.revive()
	}
	d.halt() // it may still be meant to die
	d.start(-1)
	d.world.Publish("sometimes:1", workloadtest.Good)
	d.world.Mount(mount, true)
	for _, name := range names {
		d.mark(name, false)
	}
	d.want("last", wishes)
	d.eventually(3*time.Hour, func() string { return d.wrong(wishes) })
}

func randomWish(random *rand.Rand) wish {
	images := []string{"good:1", "good:1", "good:2", "exits:1", "broken:1", "sometimes:1", "invalid", "job:1", "sick:1"}
	w := wish{Image: images[random.IntN(len(images))]}
	if random.IntN(2) == 0 {
		w.Secret = fmt.Sprint(random.IntN(3))
	}
	if random.IntN(3) == 0 {
		w.Main = fmt.Sprintf("ports: [{containerPort: 80, hostPort: %d}]", 8080+random.IntN(2))
	}
	switch {
	case w.Image == "job:1":
		w.Pod = "restartPolicy: " + []string{"Never", "OnFailure"}[random.IntN(2)]
	case random.IntN(4) == 0:
		w.Pod = "volumes: [{name: disk, hostPath: {path: " + mount + "}}]"
	}
	return w
}

// mark sets or takes away the maintenance marker of a workload.
func (d *device) mark(name string, there bool) {
	d.t.Helper()
	dir := filepath.Join(d.dir, "maintenance")
	err := os.MkdirAll(dir, 0o755)
	if there && err == nil {
		err = os.WriteFile(filepath.Join(dir, name), nil, 0o600)
	} else if err == nil {
		err = os.RemoveAll(filepath.Join(dir, name))
	}
	if err != nil {
		d.t.Fatal(err)
	}
}

// damage changes or removes a file of a workload, or its unit's settings.
func (d *device) damage(name string, random *rand.Rand) {
	files := []string{"manifest.yaml", "previous.yaml", "applied.json", "next.yaml"}
	path := filepath.Join(d.dir, "workloads", name, files[random.IntN(len(files))])
	switch random.IntN(3) {
	case 0:
		_ = os.Remove(path)
	case 1:
		if _, err := os.Stat(path); err == nil {
			_ = os.WriteFile(path, []byte("changed by hand"), 0o600)
		}
	default:
		_ = workloadtest.Units{World: d.world}.Configure(d.t.Context(), name, workload.UnitSettings{StopTimeout: time.Hour})
	}
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
	ended := func(name string) bool { return d.record(name).Completed }
	// What somebody damaged cannot be put right while its successor is invalid.
	unclear := func(name string) bool { return ended(name) || wishes[name].Image == "invalid" }
	if running, enabled := slices.DeleteFunc(pods, unclear), slices.DeleteFunc(enabled, unclear); !slices.Equal(running, enabled) {
		return fmt.Sprintf("pods %v, enabled %v", running, enabled)
	}
	if d.status("none").Name != "" || len(d.reconciler.Status().Workloads) != len(wishes) {
		return "the status has other workloads than the desired state"
	}
	for _, name := range slices.Sorted(maps.Keys(wishes)) {
		if d.status(name).Reason == workload.ReasonPort {
			if !d.portTaken(name, wishes) {
				return name + " waits for a port that nobody has"
			}
			continue
		}
		if ended(name) && d.applied(name) == d.digests()[name] {
			continue
		}
		switch wishes[name].Image {
		case "exits:1", "broken:1", "invalid", "sick:1":
			// What runs under the name of an invalid workload stays, be it the
			// start of a first attempt that was called off.
			stays := wishes[name].Image == "invalid" && d.applied(name) == ""
			if d.world.Digest(name) != d.applied(name) && !stays && !ended(name) {
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

// portTaken reports whether another workload has a port of the wish.
func (d *device) portTaken(name string, wishes map[string]wish) bool {
	for _, port := range []string{"8080", "8081"} {
		if !strings.Contains(wishes[name].Main, port) {
			continue
		}
		for other := range wishes {
			for _, taken := range d.record(other).HostPorts {
				if other != name && strconv.Itoa(int(taken.Port)) == port {
					return true
				}
			}
		}
	}
	return false
}
