//go:build device

package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/project-flotta/flotta-agent/test/device"
	"github.com/project-flotta/flotta-agent/test/site"
)

// serialLine stands for one: whoever may open it reads zeroes.
const serialLine = "/dev/ttyFLOTTA0"

func TestHostDevices(t *testing.T) {
	t.Parallel()
	r := newRig(t, site.EdgeConfig{Settings: quickResync()})
	r.save("device.yaml", fmt.Sprintf(`apiVersion: management.project-flotta.io/v1alpha1
kind: EdgeDevice
metadata: {name: %q}
spec: {heartbeat: {periodSeconds: 2, hardwareProfile: {include: true, scope: delta}}}
`, r.edge.ID()))
	r.podSpec("serial", "", `
containers:
- name: app
  image: IMAGE
  args: [serve, "8080"]
  ports: [{containerPort: 8080, hostPort: 18320}]
  volumeMounts: [{name: line, mountPath: /dev/line}]
volumes:
- {name: line, hostPath: {path: /dev/serial/by-id/usb-flotta, type: CharDevice}}
`)
	r.sub("it is not there", deviceMissing)
	r.sub("the user may not open it", deviceDenied)
	r.sub("its group may, and the user is put into it", deviceGranted)
	r.sub("it is unplugged and plugged in again", deviceUnplugged)
}

// plugLine makes the line, as udev makes one.
func (r *rig) plugLine() {
	r.Helper()
	r.run("mknod", serialLine, "c", "1", "5")
	r.run("chown", "root:dialout", serialLine)
	r.run("chmod", "660", serialLine)
	r.run("mkdir", "-p", "/dev/serial/by-id")
	r.run("ln", "-sf", "../../ttyFLOTTA0", "/dev/serial/by-id/usb-flotta")
}

func deviceMissing(r *rig) {
	r.waits("serial", "DeviceMissing", "/dev/serial/by-id/usb-flotta is not there")
}

func deviceDenied(r *rig) {
	r.plugLine()
	r.waits("serial", "DeviceDenied", "root:dialout", "0660", "usermod -aG dialout "+device.User,
		fmt.Sprintf("systemctl restart user@%d.service", r.edge.UID()))
	if out, err := r.edge.Podman(r.ctx, "ps", "--all", "--noheading"); err != nil || strings.Contains(out, "serial-app") {
		r.Errorf("it was started all the same: %s %v", out, err)
	}
	r.until("the device is reported with its owner", func() error {
		d, err := r.site.Device(r.edge.ID())
		if err != nil || d.Status.Hardware == nil {
			return fmt.Errorf("hardware is not known: %w", err)
		}
		for _, h := range d.Status.Hardware.HostDevices {
			if h.Path == serialLine && h.DeviceType == "char" && h.UID == 0 && h.GID == 20 && h.Major == 1 && h.Minor == 5 {
				return nil
			}
		}
		return fmt.Errorf("it is not among %+v", d.Status.Hardware.HostDevices)
	})
}

func deviceGranted(r *rig) {
	r.run("usermod", "-aG", "dialout", device.User)
	r.waits("serial", "DeviceDenied", "since its service manager was started")
	r.run("systemctl", "restart", fmt.Sprintf("user@%d.service", r.edge.UID()))
	r.running("serial", "app")
	r.tells("18320", "/read", "/dev/line", strings.Repeat("\x00", 64<<10))
}

func deviceUnplugged(r *rig) {
	r.run("rm", serialLine)
	r.noted("serial", "device /dev/serial/by-id/usb-flotta is not there")
	_, err := r.edge.UserUnit(r.ctx, "restart", "flotta-workload@serial.service")
	must(r.T, err)
	r.waits("serial", "DeviceMissing", "starts as soon as it is")
	tries := func() string {
		return r.run("journalctl", "--no-pager", "--quiet", "--output=cat", fmt.Sprintf("_UID=%d", r.edge.UID()), "--grep=play kube|Started.*serial")
	}
	before := tries()
	r.idle("serial", 6*time.Second)
	if after := tries(); after != before {
		r.Errorf("it was tried without its device:\n%s", strings.TrimPrefix(after, before))
	}
	r.plugLine()
	r.running("serial", "app")
	r.tells("18320", "/read", "/dev/line", strings.Repeat("\x00", 64<<10))
	unit, err := r.edge.UserUnit(r.ctx, "show", "--property=NRestarts", "flotta-workload@serial.service")
	if err != nil || !slices.Contains([]string{"NRestarts=0", "NRestarts=1"}, strings.TrimSpace(unit)) {
		r.Errorf("%s %v", unit, err)
	}
}
