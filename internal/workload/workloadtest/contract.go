package workloadtest

import (
	"context"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/project-flotta/flotta-agent/internal/secret"
	"github.com/project-flotta/flotta-agent/internal/workload"
)

// Subject is a runtime that is held to the contract.
type Subject struct {
	Runtime workload.PodRuntime
	Units   workload.UnitControl
	// Place writes the manifest that the unit of a workload plays: a pod of the
	// workload's name with our labels, the digest, and one container named main
	// that runs the image for ever.
	Place func(name, digest, image string)
	Image string // there, and runs
	None  string // not there
	// Stranger makes a secret as somebody else would.
	Stranger func(name string)
}

// Contract tests what the reconciler relies on. It uses the workload names
// contract-a and contract-b.
func Contract(t *testing.T, s Subject) {
	t.Helper()
	c := &contract{Subject: s, T: t}
	c.nothing()
	c.secrets()
	c.images()
	c.settings()
	c.lifeCycle()
	c.unplayable()
	c.watch()
}

type contract struct {
	Subject
	*testing.T
}

const (
	nameA = "contract-a"
	nameB = "contract-b"
)

func (c *contract) must(err error) {
	c.Helper()
	if err != nil {
		c.Fatal(err)
	}
}

func (c *contract) unit(name string) workload.Unit {
	c.Helper()
	u, err := c.Units.Unit(c.Context(), name)
	c.must(err)
	return u
}

func (c *contract) pod(name string) (workload.Pod, bool) {
	c.Helper()
	p, there, err := c.Runtime.Pod(c.Context(), name)
	c.must(err)
	return p, there
}

// nothing: what is not there is no error.
func (c *contract) nothing() {
	c.Helper()
	ctx := c.Context()
	c.must(c.Units.Disable(ctx, nameA))
	c.must(c.Units.Stop(ctx, nameA))
	c.must(c.Runtime.RemovePod(ctx, nameA))
	if u := c.unit(nameA); u.Enabled || u.State != workload.UnitInactive || u.Waiting {
		c.Errorf("unit never heard of: %+v", u)
	}
	if p, there := c.pod(nameA); there {
		c.Errorf("pod never made: %+v", p)
	}
}

// settings: what a unit was given is there to be seen until it is taken away.
func (c *contract) settings() {
	c.Helper()
	ctx := c.Context()
	for _, want := range []workload.UnitSettings{
		{Completes: true, StopTimeout: 20 * time.Second, Mounts: []string{"/", "/a b"}},
		{StopTimeout: 40 * time.Second},
		{},
	} {
		for range 2 {
			c.must(c.Units.Configure(ctx, nameA, want))
		}
		units, err := c.Units.Units(ctx)
		c.must(err)
		if one := c.unit(nameA); !one.Settings.Equal(want) || !units[nameA].Settings.Equal(want) || one.State != workload.UnitInactive {
			c.Errorf("settings %+v: unit %+v, in the list %+v", want, one, units[nameA])
		}
	}
	c.gone(nameA)
}

func (c *contract) secrets() {
	c.Helper()
	ctx := c.Context()
	const name = "flotta-contract-0123456789ab"
	for range 2 {
		c.must(c.Runtime.CreateSecret(ctx, name, secret.New(`{"a":"Yg=="}`)))
	}
	names, err := c.Runtime.Secrets(ctx)
	c.must(err)
	if !slices.Contains(names, name) {
		c.Errorf("secrets %v lack %s", names, name)
	}
	const theirs = "flotta-theirs-0123456789ab" // in spite of its name
	c.Stranger(theirs)
	names, err = c.Runtime.Secrets(ctx)
	c.must(err)
	if slices.Contains(names, theirs) {
		c.Errorf("secrets %v hold one that is not ours", names)
	}
	for range 2 {
		c.must(c.Runtime.RemoveSecret(ctx, name))
	}
	names, err = c.Runtime.Secrets(ctx)
	c.must(err)
	if slices.Contains(names, name) {
		c.Errorf("secrets %v hold one that was removed", names)
	}
}

func (c *contract) images() {
	c.Helper()
	ctx := c.Context()
	image, there, err := c.Runtime.Image(ctx, c.Image)
	if err != nil || !there || image.ID == "" || !slices.Contains(image.Names, c.Image) {
		c.Errorf("Image(%s) = %+v, %t, %v", c.Image, image, there, err)
	}
	if _, there, err := c.Runtime.Image(ctx, c.None); err != nil || there {
		c.Errorf("Image(%s) = %t, %v", c.None, there, err)
	}
	listed := c.listed(image.ID)
	if listed.Containers != 0 || listed.Size <= 0 || !slices.Contains(listed.Names, c.Image) {
		c.Errorf("image in the list: %+v", listed)
	}
	c.must(c.Runtime.RemoveImage(ctx, "0000000000000000000000000000000000000000000000000000000000000000"))
	if err := c.Runtime.PullImage(ctx, c.None, secret.Value{}, func(string) {}); err == nil {
		c.Errorf("pulled %s", c.None)
	}
	disk, err := c.Runtime.ImageDisk(ctx)
	if err != nil || disk.Dir == "" || disk.Total == 0 || disk.Free > disk.Total {
		c.Errorf("disk of the images: %+v, %v", disk, err)
	}
	if version, err := c.Runtime.Version(ctx); err != nil || version == "" {
		c.Errorf("version %q, %v", version, err)
	}
}

// listed returns an image as the list has it.
func (c *contract) listed(id string) workload.Image {
	c.Helper()
	list, err := c.Runtime.Images(c.Context())
	c.must(err)
	i := slices.IndexFunc(list, func(i workload.Image) bool { return i.ID == id })
	if i < 0 {
		c.Fatalf("images %+v lack %s", list, id)
	}
	return list[i]
}

// imageInUse checks that an image that a container was made from says so, and
// stays.
func (c *contract) imageInUse(p workload.Pod) {
	c.Helper()
	main := p.Containers[0]
	image, there, err := c.Runtime.Image(c.Context(), c.Image)
	c.must(err)
	if !there || main.ImageID != image.ID || main.Image != c.Image {
		c.Errorf("container %+v of image %+v", main, image)
	}
	if listed := c.listed(image.ID); listed.Containers == 0 {
		c.Errorf("image in use: %+v", listed)
	}
	if err := c.Runtime.RemoveImage(c.Context(), image.ID); err == nil {
		c.Error("removed an image in use")
	}
	if after, there, err := c.Runtime.Image(c.Context(), c.Image); err != nil || !there || after.ID != image.ID {
		c.Errorf("after trying to remove it: %+v, %t, %v", after, there, err)
	}
}

func (c *contract) lifeCycle() {
	c.Helper()
	ctx := c.Context()
	c.Place(nameA, "digest-1", c.Image)
	c.must(c.Units.Enable(ctx, nameA))
	if u := c.unit(nameA); !u.Enabled || u.State != workload.UnitInactive {
		c.Errorf("enabled, not started: %+v", u)
	}
	c.must(c.Units.Restart(ctx, nameA)) // which starts what does not run
	first := c.running(nameA, "digest-1")
	c.must(c.Units.Start(ctx, nameA))
	if again := c.running(nameA, "digest-1"); !slices.Equal(first, again) {
		c.Errorf("starting what runs changed its containers: %v, %v", first, again)
	}
	c.Place(nameA, "digest-2", c.Image)
	c.must(c.Units.Restart(ctx, nameA))
	if again := c.running(nameA, "digest-2"); slices.Equal(first, again) {
		c.Errorf("restarting kept the containers %v", first)
	}
	c.must(c.Units.Disable(ctx, nameA))
	if u := c.unit(nameA); u.Enabled || u.State != workload.UnitActive {
		c.Errorf("disabled, not stopped: %+v", u)
	}
	c.must(c.Units.Stop(ctx, nameA))
	c.must(c.Runtime.RemovePod(ctx, nameA))
	c.gone(nameA)
}

// running checks that the workload runs, and returns its containers.
func (c *contract) running(name, digest string) []string {
	c.Helper()
	units, err := c.Units.Units(c.Context())
	c.must(err)
	if u := units[name]; !u.Enabled || u.State != workload.UnitActive || u.Waiting {
		c.Errorf("unit of what runs: %+v", u)
	}
	pods, err := c.Runtime.Pods(c.Context())
	c.must(err)
	i := slices.IndexFunc(pods, func(p workload.Pod) bool { return p.Workload == name })
	if i < 0 {
		c.Fatalf("pods %+v lack %s", pods, name)
	}
	p, there := c.pod(name)
	if !there || p.ID != pods[i].ID || p.Digest != digest || p.Status != workload.PodRunning || len(p.Containers) != 1 {
		c.Fatalf("pod %+v", p)
	}
	main := p.Containers[0]
	if main.Name != name+"-main" || main.Status != workload.ContainerRunning || main.StartedAt.IsZero() || main.Restarts != 0 {
		c.Errorf("container %+v", main)
	}
	c.imageInUse(p)
	return []string{main.ID}
}

// gone checks that nothing is left.
func (c *contract) gone(name string) {
	c.Helper()
	units, err := c.Units.Units(c.Context())
	c.must(err)
	if u, listed := units[name]; listed && (u.Enabled || u.State != workload.UnitInactive) {
		c.Errorf("unit of what is gone: %+v", u)
	}
	if p, there := c.pod(name); there {
		c.Errorf("pod of what is gone: %+v", p)
	}
}

func (c *contract) unplayable() {
	c.Helper()
	ctx := c.Context()
	c.Place(nameB, "digest-1", c.None)
	c.must(c.Units.Enable(ctx, nameB))
	if err := c.Units.Start(ctx, nameB); err == nil {
		c.Error("started an image that is not there")
	}
	if u := c.unit(nameB); u.State == workload.UnitActive || (u.State == workload.UnitInactive && !u.Waiting) {
		c.Errorf("unit that failed: %+v", u)
	}
	c.must(c.Units.Disable(ctx, nameB))
	c.must(c.Units.Stop(ctx, nameB))
	c.must(c.Runtime.RemovePod(ctx, nameB))
	c.gone(nameB)
}

// watch: the streams wake when they open and when something happens, and end
// with their context.
func (c *contract) watch() {
	c.Helper()
	for what, watch := range map[string]func(context.Context, func()) error{"pods": c.Runtime.Watch, "units": c.Units.Watch} {
		ctx, cancel := context.WithCancel(c.Context())
		var woken atomic.Int64
		ended := make(chan error, 1)
		go func() { ended <- watch(ctx, func() { woken.Add(1) }) }()
		c.until(what+" are watched", func() bool { return woken.Load() > 0 })
		before := woken.Load()
		c.Place(nameA, "digest-3", c.Image)
		c.must(c.Units.Start(c.Context(), nameA))
		c.until(what+" woke", func() bool { return woken.Load() > before })
		cancel()
		if err := <-ended; err != nil {
			c.Errorf("watching %s ended with %v", what, err)
		}
		c.must(c.Units.Stop(c.Context(), nameA))
	}
}

func (c *contract) until(what string, check func() bool) {
	c.Helper()
	for deadline := time.Now().Add(30 * time.Second); !check(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			c.Fatalf("not in time: %s", what)
		}
	}
}

// Manifest is a manifest that Place may write: a format of the name, the name,
// the digest and the image.
const Manifest = `apiVersion: v1
kind: Pod
metadata:
  name: %s
  labels:
    io.project-flotta.workload: %s
    io.project-flotta.digest: %s
spec:
  containers:
    - name: main
      image: %s
      imagePullPolicy: IfNotPresent
      args: [sleep]
`
