package workload_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/project-flotta/flotta-agent/internal/workload"
	"github.com/project-flotta/flotta-agent/internal/workload/workloadtest"
)

const serial = "/dev/ttyUSB0"

// usesSerial is a pod with a device.
func usesSerial(image string) wish {
	return wish{Image: image, Pod: "volumes: [{name: line, hostPath: {path: " + serial + ", type: CharDevice}}]"}
}

func TestDevice(t *testing.T) {
	t.Parallel()
	missing := &workload.DeviceError{Missing: true, Text: "device " + serial + " is not there"}
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(t)
		d.world.Publish("good:1", workloadtest.Good)
		d.world.Device(serial, missing)
		d.start(-1)
		d.want("1", map[string]wish{"a": usesSerial("good:1"), "b": {Image: "good:1"}})
		d.eventually(time.Minute, func() string {
			return d.runs("b") + d.reasoned("a", workload.ReasonDevice, serial+" is not there; the workload starts as soon as it is")
		})
		if !d.sawEvent(workload.EventHeldUp) {
			t.Error("no event of the missing device")
		}
		time.Sleep(time.Hour)
		if n := d.world.Starts("a"); n != 0 {
			t.Fatalf("started %d times without its device", n)
		}
		d.world.Device(serial, nil)
		d.eventually(15*time.Second, func() string { return d.runs("a") })

		// It is unplugged while the pod runs: the pod is left alone, and told of.
		running := d.world.Containers("a")
		d.world.Device(serial, missing)
		d.eventually(15*time.Second, func() string {
			if s := d.status("a"); s.Reason != "" || !slices.Contains(s.Notes, missing.Text) {
				return fmt.Sprintf("status %+v", s)
			}
			return ""
		})
		if !slices.Equal(running, d.world.Containers("a")) {
			t.Error("a missing device restarted what runs")
		}

		// It comes back from a power cut without it, and the device is plugged in later.
		d.halt()
		d.world.PowerCut()
		started := d.world.Starts("a")
		d.start(-1)
		d.eventually(time.Minute, func() string { return d.reasoned("a", workload.ReasonDevice, serial) })
		time.Sleep(time.Hour)
		if n := d.world.Starts("a"); n != started {
			t.Fatalf("started %d times without its device", n-started)
		}
		d.world.Device(serial, nil)
		d.eventually(15*time.Second, func() string { return d.runs("a") })
		if notes := d.status("a").Notes; strings.Contains(strings.Join(notes, " "), serial) {
			t.Errorf("still noted: %v", notes)
		}
	})
}

func TestDeviceDenied(t *testing.T) {
	t.Parallel()
	denied := &workload.DeviceError{Text: "user flotta may not open device " + serial}
	synctest.Test(t, func(t *testing.T) {
		d := newSteady(t)
		d.world.Publish("good:2", workloadtest.Good)
		before := d.world.Containers("a")
		d.world.Device(serial, denied)
		d.want("2", map[string]wish{"a": usesSerial("good:2")})
		d.eventually(time.Minute, func() string { return d.reasoned("a", workload.ReasonDenied, denied.Text) })
		time.Sleep(time.Hour)
		if !slices.Equal(before, d.world.Containers("a")) {
			t.Error("what runs was restarted for an update that cannot work")
		}
		d.world.Device(serial, nil)
		d.eventually(15*time.Second, func() string { return d.runs("a") })

		// What was proven is started at boot all the same, as systemd does it.
		d.halt()
		d.world.Device(serial, denied)
		d.world.PowerCut()
		d.start(-1)
		d.eventually(time.Minute, func() string { return d.runs("a") })
		d.eventually(time.Minute, func() string {
			if s := d.status("a"); !slices.Contains(s.Notes, denied.Text) {
				return fmt.Sprintf("status %+v", s)
			}
			return ""
		})
	})
}
