package workload_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/project-flotta/flotta-agent/internal/workload"
	"github.com/project-flotta/flotta-agent/internal/workload/manifest"
	"github.com/project-flotta/flotta-agent/internal/workload/workloadtest"
)

// former runs the workload a at the port 8080 until it is removed.
type former struct {
	world *workloadtest.World

	mu      sync.Mutex
	fail    error
	there   bool
	started int // starts of a when it was removed
	did     []string
}

func (f *former) Ports(_ context.Context, name string) ([]manifest.HostPort, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if name != "a" || !f.there {
		return nil, nil
	}
	return []manifest.HostPort{{Protocol: "tcp", Port: 8080}}, nil
}

func (f *former) Retire(_ context.Context, name string) error { return f.do("retire "+name, nil) }

func (f *former) Remove(_ context.Context, name string) error {
	return f.do("remove "+name, func() {
		if name == "a" && f.there {
			f.there, f.started = false, f.world.Starts("a")
			f.world.Listen()
		}
	})
}

func (f *former) do(what string, act func()) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.did = append(f.did, what)
	if f.fail == nil && act != nil {
		act()
	}
	return f.fail
}

func (f *former) set(fail error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fail = fail
}

func (f *former) done() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Compact(slices.Clone(f.did))
}

// TestHandOver: what ran before is ended when everything else is done, and its port is
// nobody else's.
func TestHandOver(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(t)
		f := &former{world: d.world, there: true}
		d.former = f
		d.world.Listen(workload.Socket{Protocol: "tcp", Port: 8080, Command: "rootlessport", PID: 1})
		const port = "ports: [{containerPort: 80, hostPort: 8080}]"
		d.start(-1)
		d.want("1", map[string]wish{"a": {Image: "good:1", Main: port}})
		d.eventually(time.Minute, func() string { return d.reasoned("a", workload.ReasonImage, "good:1") })
		if did := f.done(); len(did) > 0 {
			t.Errorf("without an image: %v", did)
		}
		d.world.Publish("good:1", workloadtest.Good)
		d.eventually(10*time.Minute, func() string { return d.runs("a") })
		if diff := cmp.Diff([]string{"retire a", "remove a"}, f.done()); diff != "" || f.started != 0 {
			t.Errorf("hand-over, after %d starts (-want +got):\n%s", f.started, diff)
		}
	})
}

// TestHandOverFails: as long as what ran before cannot be ended, nothing is started beside
// it, and the port of another workload's predecessor is taken.
func TestHandOverFails(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(t)
		f := &former{world: d.world, there: true, fail: errors.New("systemd is away")}
		d.former = f
		d.world.Publish("good:1", workloadtest.Good)
		d.world.Listen(workload.Socket{Protocol: "tcp", Port: 8080, Command: "rootlessport", PID: 1})
		const port = "ports: [{containerPort: 80, hostPort: 8080}]"
		d.start(-1)
		d.want("1", map[string]wish{"a": {Image: "good:1", Main: port}, "b": {Image: "good:1", Main: port}})
		d.eventually(time.Minute, func() string { return d.reasoned("a", workload.ReasonUnit, "systemd is away") })
		if n := d.world.Starts("a"); n != 0 {
			t.Errorf("%d starts beside what runs", n)
		}
		d.want("2", map[string]wish{"b": {Image: "good:1", Main: port}})
		d.eventually(time.Minute, func() string { return d.reasoned("b", workload.ReasonPort, "rootlessport") })
		f.set(nil)
		d.want("3", map[string]wish{"a": {Image: "good:1", Main: port}})
		d.eventually(10*time.Minute, func() string { return d.runs("a") })
	})
}
