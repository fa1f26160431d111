package workload_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log/slog"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/project-flotta/flotta-agent/internal/desired"
	"github.com/project-flotta/flotta-agent/internal/durable"
	"github.com/project-flotta/flotta-agent/internal/workload"
	"github.com/project-flotta/flotta-agent/internal/workload/manifest"
	"github.com/project-flotta/flotta-agent/internal/workload/workloadtest"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// device is a world with a desired state and, most of the time, a reconciler.
type device struct {
	t     *testing.T
	dir   string
	world *workloadtest.World
	store *desired.Store
	quiet time.Duration // settle time
	// former is what ran workloads before; nil: nothing did.
	former workload.Predecessor
	// at is called at every point; may be nil.
	at func(point string)

	reconciler *workload.Reconciler
	stop       context.CancelFunc
	done       chan struct{}

	mu     sync.Mutex
	events []string
	points []string // passed since the last start
	left   int      // points until the crash; negative: never
	dead   bool
}

func newDevice(t *testing.T) *device {
	t.Helper()
	dir := t.TempDir()
	store, err := desired.Open(filepath.Join(dir, "desired.json"), "device-1", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	d := &device{t: t, dir: dir, store: store, world: workloadtest.NewWorld(dir), left: -1, quiet: 5 * time.Second}
	d.world.PlaceStranger("flotta")
	d.world.PlaceStranger("other-0123456789ab")
	t.Cleanup(d.halt)
	return d
}

// newSteady returns a device that runs the workload a of the image good:1.
func newSteady(t *testing.T) *device {
	t.Helper()
	d := newDevice(t)
	d.world.Publish("good:1", workloadtest.Good)
	d.start(-1)
	d.want("1", map[string]wish{"a": {Image: "good:1"}})
	d.eventually(time.Minute, func() string { return d.runs("a") })
	return d
}

// start runs a reconciler that dies at its points-th point, or never.
func (d *device) start(points int) {
	d.t.Helper()
	d.mu.Lock()
	d.left, d.dead, d.points = points, false, nil
	d.mu.Unlock()
	r, err := workload.New(workload.Config{
		Desired: d.store, Runtime: d.world, Units: workloadtest.Units{World: d.world},
		Log: slog.New(slog.DiscardHandler), StateDir: d.dir, UID: -1, GID: -1,
		Predecessor: d.former,
		Settle:      d.quiet, Step: d.step, Host: workloadtest.Host{World: d.world}, MaintenanceDirs: []string{filepath.Join(d.dir, "maintenance")},
		Event: func(e protocol.EventInfo) {
			d.mu.Lock()
			defer d.mu.Unlock()
			d.events = append(d.events, e.Reason)
		},
	})
	if err != nil {
		d.t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	d.reconciler, d.stop, d.done = r, stop, make(chan struct{})
	done := d.done
	go func() {
		defer close(done)
		if err := r.Run(ctx); err != nil {
			d.t.Errorf("Run: %v", err)
		}
	}()
}

// step kills the reconciler when its time has come: nothing of it does another
// thing.
func (d *device) step(point string) {
	d.mu.Lock()
	d.points = append(d.points, point)
	if d.left > 0 {
		d.left--
		if d.left == 0 {
			d.dead = true
			d.stop()
		}
	}
	dead := d.dead
	d.mu.Unlock()
	if dead {
		runtime.Goexit()
	}
	if d.at != nil {
		d.at(point)
	}
}

func (d *device) crashed() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.dead
}

// halt ends the reconciler as SIGTERM would.
func (d *device) halt() {
	if d.stop != nil {
		d.stop()
		<-d.done
		d.stop = nil
	}
}

// revive starts a new reconciler if the last one died.
func (d *device) revive() {
	if d.crashed() || d.stop == nil {
		d.halt()
		d.start(-1)
	}
}

// wish is one workload to be desired.
type wish struct {
	Image  string
	Secret string // value of the secret it uses; empty: it uses none
	Pod    string // more fields of the pod, in flow style, such as "restartPolicy: Never"
	Main   string // more fields of its container, likewise
}

// mount is the folder of the mount that every desired state configures; only a
// workload with a hostPath below it needs it.
const mount = "/mnt/disk"

// want makes the wishes the desired state.
func (d *device) want(version string, wishes map[string]wish) {
	d.t.Helper()
	m := protocol.DeviceConfigurationMessage{
		DeviceID: "device-1", Version: version, Configuration: &protocol.DeviceConfiguration{
			Mounts: []protocol.Mount{{Device: "/dev/sda1", Directory: mount, Type: "ext4"}},
		},
	}
	for name, w := range wishes {
		spec := "containers: [{name: main, image: " + w.Image
		if w.Secret != "" {
			spec += ", envFrom: [{secretRef: {name: " + name + "}}]"
			m.Secrets = append(m.Secrets, protocol.Secret{
				Name: name, Data: `{"key":"` + base64.StdEncoding.EncodeToString([]byte(w.Secret)) + `"}`,
			})
		}
		if w.Main != "" {
			spec += ", " + w.Main
		}
		spec = "{" + spec + "}]"
		if w.Pod != "" {
			spec += ", " + w.Pod
		}
		spec += "}"
		if w.Image == "invalid" {
			spec = "containers: []"
		}
		m.Workloads = append(m.Workloads, protocol.Workload{Name: name, Specification: spec})
	}
	slices.SortFunc(m.Workloads, func(x, y protocol.Workload) int {
		if x.Name < y.Name {
			return -1
		}
		return 1
	})
	raw, err := json.Marshal(m)
	if err != nil {
		d.t.Fatal(err)
	}
	if err := d.store.Accept(raw); err != nil {
		d.t.Fatalf("accept: %v", err)
	}
}

// digests returns the digest of every workload that can be rendered.
func (d *device) digests() map[string]string {
	out := map[string]string{}
	state := d.store.Current().State()
	for _, w := range state.Workloads {
		plan, err := manifest.Render(w, state.Secrets, manifest.Options{
			DeviceID: state.DeviceID, VolumesDir: filepath.Join(d.dir, "volumes"), Rootless: true,
		})
		if err == nil {
			out[w.Name] = plan.Digest
		}
	}
	return out
}

// applied returns the digest that was recorded last, or "".
func (d *device) applied(name string) string { return d.record(name).Digest }

// recorded is what a workload's record says, as far as tests care.
type recorded struct {
	Digest    string
	Completed bool
	HostPorts []manifest.HostPort
}

func (d *device) record(name string) recorded {
	var r recorded
	_ = durable.LoadDocument(filepath.Join(d.dir, "workloads", name, "applied.json"), "applied-workload", 1, &r)
	return r
}

// eventually waits until check returns "", in the bubble's time.
func (d *device) eventually(within time.Duration, check func() string) {
	d.t.Helper()
	deadline := time.Now().Add(within)
	var wrong string
	for time.Now().Before(deadline) {
		synctest.Wait()
		if wrong = check(); wrong == "" {
			return
		}
		time.Sleep(time.Second)
	}
	d.t.Fatalf("not within %s: %s\nstatus %+v", within, wrong, d.reconciler.Status())
}

// runs says what is wrong with a workload that should run its desired plan.
func (d *device) runs(name string) string {
	want := d.digests()[name]
	switch {
	case want == "":
		return name + " is not desired"
	case d.world.Digest(name) != want:
		return fmt.Sprintf("%s runs %q, not %q", name, d.world.Digest(name), want)
	case d.applied(name) != want:
		return name + " runs and was not recorded"
	}
	return ""
}

// ownSecrets returns the names of the secrets that Podman has of ours.
func (d *device) ownSecrets() []string {
	names, err := d.world.Secrets(context.Background())
	if err != nil {
		d.t.Fatal(err)
	}
	return names
}

// status returns the published state of one workload.
func (d *device) status(name string) workload.State {
	for _, w := range d.reconciler.Status().Workloads {
		if w.Name == name {
			return w
		}
	}
	return workload.State{}
}

// sawEvent reports whether there was an event of that reason.
func (d *device) sawEvent(reason string) bool { return d.countEvents(reason) > 0 }

func (d *device) countEvents(reason string) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := 0
	for _, e := range d.events {
		if e == reason {
			n++
		}
	}
	return n
}
