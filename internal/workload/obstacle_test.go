package workload_test

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/project-flotta/flotta-agent/internal/workload"
	"github.com/project-flotta/flotta-agent/internal/workload/workloadtest"
)

// reasoned says what is wrong unless the workload has that reason, with a message
// that holds text.
func (d *device) reasoned(name, reason, text string) string {
	if s := d.status(name); s.Reason != reason || !strings.Contains(s.Message, text) {
		return fmt.Sprintf("status %+v", s)
	}
	return ""
}

func TestPortOfAnotherWorkload(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(t)
		d.world.Publish("good:1", workloadtest.Good)
		d.world.Publish("good:2", workloadtest.Good)
		const port = "ports: [{containerPort: 80, hostPort: 8080}]"
		d.start(-1)
		d.want("1", map[string]wish{"a": {Image: "good:1", Main: port}, "b": {Image: "good:1", Main: port}})
		d.eventually(time.Minute, func() string {
			return d.runs("a") + d.reasoned("b", workload.ReasonPort, "8080/tcp is that of workload a")
		})
		if !d.sawEvent(workload.EventHeldUp) {
			t.Error("no event of the conflict")
		}
		a := d.world.Containers("a")

		// An update takes the port of another one: what runs stays.
		d.want("2", map[string]wish{"a": {Image: "good:1", Main: port}, "b": {Image: "good:1"}})
		d.eventually(time.Minute, func() string { return d.runs("b") })
		b := d.world.Containers("b")
		d.want("3", map[string]wish{"a": {Image: "good:1", Main: port}, "b": {Image: "good:2", Main: port}})
		d.eventually(time.Minute, func() string { return d.reasoned("b", workload.ReasonPort, "workload a") })
		time.Sleep(time.Hour)
		synctest.Wait()
		if !slices.Equal(a, d.world.Containers("a")) || !slices.Equal(b, d.world.Containers("b")) {
			t.Error("a conflict restarted something")
		}

		// The port is handed over as soon as its holder gives it up.
		d.want("4", map[string]wish{"a": {Image: "good:1"}, "b": {Image: "good:2", Main: port}})
		d.eventually(time.Minute, func() string { return d.runs("a") + d.runs("b") })
		d.want("5", map[string]wish{"c": {Image: "good:2", Main: port}})
		d.eventually(time.Minute, func() string { return d.runs("c") })
	})
}

func TestNameOfAnotherWorkload(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(t)
		d.world.Publish("good:1", workloadtest.Good)
		d.start(-1)
		// Both want a container that Podman calls a-main.
		d.want("1", map[string]wish{"a": {Image: "good:1"}, "a-main": {Image: "good:1"}})
		d.eventually(time.Minute, func() string {
			return d.runs("a") + d.reasoned("a-main", workload.ReasonName, "a-main is what Podman calls a part of workload a")
		})
		d.want("2", map[string]wish{"a-main": {Image: "good:1"}})
		d.eventually(time.Minute, func() string { return d.runs("a-main") })
	})
}

func TestPortOfAProcess(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newSteady(t)
		before := d.world.Containers("a")

		nginx := workload.Socket{Protocol: "tcp", Address: netip.IPv6Unspecified(), Port: 8080, PID: 7, Command: "nginx"}
		d.world.Listen(nginx, workload.Socket{Protocol: "tcp", Address: netip.IPv6Unspecified(), Port: 8081, Workload: "a"})
		d.want("2", map[string]wish{"a": {Image: "good:1", Main: "ports: [{containerPort: 80, hostPort: 8080}, {containerPort: 81, hostPort: 8081}]"}})
		d.eventually(time.Minute, func() string {
			return d.reasoned("a", workload.ReasonPort, "8080/tcp is taken by process nginx (PID 7)")
		})
		if diff := cmp.Diff(before, d.world.Containers("a")); diff != "" {
			t.Errorf("a taken port restarted what runs (-want +got):\n%s", diff)
		}
		time.Sleep(time.Hour)
		d.world.Listen()
		d.eventually(time.Minute, func() string { return d.runs("a") })
	})
}

func TestPortForRootAlone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(t)
		d.world.Publish("good:1", workloadtest.Good)
		d.start(-1)
		d.want("1", map[string]wish{"a": {Image: "good:1", Main: "ports: [{containerPort: 80, hostPort: 80}]"}})
		d.eventually(time.Minute, func() string { return d.reasoned("a", workload.ReasonPort, "use one from 1024 on") })
		if n := d.world.Starts("a"); n != 0 {
			t.Errorf("started %d times", n)
		}
	})
}

func TestMount(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(t)
		d.world.Publish("good:1", workloadtest.Good)
		d.start(-1)
		needs := wish{Image: "good:1", Pod: "volumes: [{name: disk, hostPath: {path: " + mount + "/data}}]"}
		d.want("1", map[string]wish{"a": needs, "b": {Image: "good:1"}})
		d.eventually(time.Minute, func() string {
			return d.runs("b") + d.reasoned("a", workload.ReasonMount, "nothing is mounted at "+mount)
		})
		time.Sleep(time.Hour)
		if n := d.world.Starts("a"); n != 0 {
			t.Fatalf("started %d times without its mount", n)
		}
		d.world.Mount(mount, true)
		d.eventually(15*time.Second, func() string { return d.runs("a") })

		// It comes back from a power cut without the disk.
		d.halt()
		d.world.Mount(mount, false)
		d.world.PowerCut()
		started := d.world.Starts("a")
		d.start(-1)
		d.eventually(time.Minute, func() string { return d.reasoned("a", workload.ReasonMount, mount) })
		time.Sleep(time.Hour)
		if n := d.world.Starts("a"); n != started {
			t.Fatalf("started %d times without its mount", n-started)
		}
		d.world.Mount(mount, true)
		d.eventually(15*time.Second, func() string { return d.runs("a") })
	})
}

func TestMaintenance(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(t)
		d.world.Publish("good:1", workloadtest.Good)
		d.world.Publish("good:2", workloadtest.Good)
		markers := filepath.Join(d.dir, "maintenance")
		if err := os.Mkdir(markers, 0o755); err != nil {
			t.Fatal(err)
		}
		mark := func(name string) {
			if err := os.WriteFile(filepath.Join(markers, name), nil, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		d.start(-1)
		d.want("1", map[string]wish{"a": {Image: "good:1"}, "b": {Image: "good:1"}})
		d.eventually(time.Minute, func() string { return d.runs("a") + d.runs("b") })
		b := d.world.Containers("b")

		mark("a")
		d.world.StopByHand("a")
		d.want("2", map[string]wish{"a": {Image: "good:2"}, "b": {Image: "good:1"}})
		d.eventually(2*time.Minute, func() string { return d.reasoned("a", workload.ReasonMaintenance, markers+"/a") })
		mark("@all")
		d.want("3", map[string]wish{"a": {Image: "good:2"}})
		time.Sleep(time.Hour)
		synctest.Wait()
		if len(d.world.Containers("a")) > 0 || !slices.Equal(b, d.world.Containers("b")) {
			t.Error("a workload was touched during its maintenance")
		}
		for _, name := range []string{"a", "@all"} {
			if err := os.Remove(filepath.Join(markers, name)); err != nil {
				t.Fatal(err)
			}
		}
		d.eventually(3*time.Minute, func() string {
			if len(d.world.Containers("b")) > 0 {
				return "b is still there"
			}
			return d.runs("a")
		})
	})
}
