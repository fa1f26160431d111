//go:build integration

package device_test

import (
	"errors"
	"io/fs"
	"strings"
	"testing"
	"time"

	"github.com/project-flotta/flotta-agent/systemd"
	"github.com/project-flotta/flotta-agent/test/device"
	"github.com/project-flotta/flotta-agent/test/image"
)

// TestUserWhoComesLater is about a device that runs when the package is
// installed: the user of the workloads and its service manager start without a
// boot, and Podman has to stay in its unit all the same.
func TestUserWhoComesLater(t *testing.T) {
	t.Parallel()
	d := device.New(t, device.Config{Bare: true})
	must(t, "ship files", fs.WalkDir(systemd.Files, ".", func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || systemd.InstallPath(path) == "" {
			return err
		}
		raw, err := systemd.Files.ReadFile(path)
		if err != nil {
			return err
		}
		return d.WriteFile(systemd.InstallPath(path), raw, 0o644)
	}))
	// What the package's scriptlets do.
	run(t, d, "sh", "-euc", `
		systemd-sysusers flotta-agent.conf
		for file in subuid subgid; do echo flotta:600000:65536 >>/etc/$file; done
		systemctl --global preset flotta-workloads.target
		systemctl daemon-reload
		systemd-tmpfiles --create flotta-agent.conf
		loginctl enable-linger flotta`)
	must(t, "find user", d.FindUser(t.Context()))
	must(t, "add image", d.AddImage(t.Context(), device.User, image.Spec{Ref: testImage}))
	stage(t, d, testImage, "serve")
	// On a busy machine systemd can miss Podman's word that the pod has started. The
	// start fails then, and systemd begins anew.
	_, _ = d.RunAs(t.Context(), device.User, "systemctl", "--user", "start", unit)
	eventually(t, "the container answers the host, and its main process is in the unit", 40*time.Second, func() bool {
		pid := show(t, d, "MainPID")
		if pid == "0" || show(t, d, "ActiveState") != "active" || version(d) != "v1" {
			return false
		}
		r, err := d.Run(t.Context(), "cat", "/proc/"+pid+"/cgroup")
		return err == nil && strings.HasSuffix(strings.TrimSpace(r.Stdout), "/flotta.slice/"+unit)
	})
}

func TestAwaitReboot(t *testing.T) {
	t.Parallel()
	d := device.New(t, device.Config{})
	id := func() string { return run(t, d, "cat", "/proc/sys/kernel/random/boot_id") }
	before := id()
	run(t, d, "sh", "-c", "echo x >/etc/kept; echo x >/run/lost")
	run(t, d, "systemctl", "reboot", "--no-block")
	must(t, "await reboot", d.AwaitReboot(t.Context()))
	if err := d.AwaitReboot(t.Context()); !errors.Is(err, device.ErrOff) {
		t.Errorf("of a device that is off: %v", err)
	}
	must(t, "power on", d.PowerOn(t.Context()))
	if id() == before {
		t.Error("the device thinks that it is the same boot")
	}
	if got := run(t, d, "sh", "-c", "ls /etc/kept /run/lost 2>/dev/null || :"); got != "/etc/kept" {
		t.Errorf("of two files there is %q", got)
	}
	run(t, d, "systemctl", "poweroff", "--no-block")
	if err := d.AwaitReboot(t.Context()); err == nil || !strings.Contains(err.Error(), "status 0 instead") {
		t.Errorf("of a device that powers off: %v", err)
	}
}
