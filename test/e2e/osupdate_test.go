//go:build device

package e2e

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/project-flotta/flotta-agent/test/site"
)

// rpmOstreeUnit is what ostree-finalize-staged.service is on a real host, and its
// boot.
const rpmOstreeUnit = `[Unit]
DefaultDependencies=no
After=local-fs.target
Before=basic.target shutdown.target
Conflicts=shutdown.target
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/bin/rpm-ostree boot
ExecStop=/usr/bin/rpm-ostree finalize
[Install]
WantedBy=basic.target
`

// ostreeHost makes the rig's device one of rpm-ostree, with two commits in its
// repository, of which the first is booted.
func (r *rig) ostreeHost() (first, second string) {
	r.Helper()
	tool, err := os.ReadFile("testdata/rpm-ostree")
	must(r.T, err)
	must(r.T, r.edge.WriteFile("/usr/bin/rpm-ostree", tool, 0o755))
	must(r.T, r.edge.WriteFile("/etc/systemd/system/ostree-stand-in.service", []byte(rpmOstreeUnit), 0o644))
	must(r.T, r.edge.WriteFile("/etc/ostree/remotes.d/edge.conf", []byte("[remote \"edge\"]\nurl=file:///var/local/os/repo\ngpg-verify=false\n"), 0o644))
	commits := strings.Fields(r.run("sh", "-euc", `
		mkdir -p /var/local/os/tree
		cd /var/local/os
		ostree --repo=repo init --mode=archive
		for edition in 1 2; do
			echo $edition >tree/edition
			ostree --repo=repo commit --branch=iot --tree=dir=tree
		done
		ostree --repo=repo rev-parse iot^ >deployments
		systemctl enable --now ostree-stand-in.service`))
	if len(commits) != 2 {
		r.Fatalf("commits: %q", commits)
	}
	return commits[0], commits[1]
}

// wantOS names the operating system that the rig's device is to run.
func (r *rig) wantOS(commit string, automatically bool) {
	r.Helper()
	r.device("", fmt.Sprintf("  osInformation: {commitID: %s, automaticallyUpgrade: %v}\n", commit, automatically))
}

// reportsOS waits until the control plane was told what is booted, and what came
// of the last update.
func (r *rig) reportsOS(commit, last string) {
	r.Helper()
	r.until("operating system "+commit+" is reported, and "+last, func() error {
		d, err := r.site.Device(r.edge.ID())
		if err != nil {
			return err
		}
		u := d.Status.UpgradeInformation
		if u == nil || u.CurrentCommitID != commit || u.LastUpgradeStatus != last || (u.LastUpgradeTime == "") != (last == "") {
			return fmt.Errorf("it says %+v", u)
		}
		return nil
	})
}

// told waits for an event.
func (r *rig) told(event string) {
	r.Helper()
	r.until("event "+event, func() error {
		if events := r.site.Events(r.edge.ID()); !strings.Contains(events, event) {
			return fmt.Errorf("events: %s", events)
		}
		return nil
	})
}

// TestOSUpdate takes a device to another operating system: staged, lost in a
// power cut, staged again, and booted by the machine's own reboot, for which the
// workload ends in order.
func TestOSUpdate(t *testing.T) {
	t.Parallel()
	r := newRig(t, site.EdgeConfig{Settings: site.DefaultSettings + "[os]\nmin-free = \"1MiB\"\n"})
	first, second := r.ostreeHost()
	r.save("w.yaml", r.workload("writer", serveOn18080+"\nenv: [{name: LINGER, value: 3s}]", "data: {egress: [{source: ., target: writer}]}\n"))
	container := r.running("writer", "app")
	r.phase("writer", "Running")

	const staged = "/run/os/staged"
	isStaged := func() error {
		commit, err := r.edge.ReadFile(staged)
		if err == nil && strings.TrimSpace(string(commit)) != second {
			err = fmt.Errorf("%s is staged", commit)
		}
		return err
	}
	r.wantOS(second, false)
	r.until("it is staged", isStaged)
	r.told("OSUpdateStaged")
	r.reportsOS(first, "")
	if now := r.running("writer", "app"); now != container {
		t.Errorf("container %s is %s now", container, now)
	}

	must(t, r.edge.PowerCut())
	must(t, r.edge.PowerOn(r.ctx))
	r.told("OSUpdateInterrupted")
	r.until("it is staged again", isStaged)
	// Podman's word that a pod has started can be lost on a busy machine; systemd then begins anew.
	r.until("the workload has started", func() error {
		if state, err := r.edge.UserUnit(r.ctx, "is-active", "flotta-workload@writer.service"); state != "active" {
			return fmt.Errorf("its unit is %s: %w", state, err)
		}
		return nil
	})

	r.wantOS(second, true)
	ctx, cancel := context.WithTimeout(r.ctx, patience)
	defer cancel()
	must(t, r.edge.AwaitReboot(ctx))
	// Before the machine went down, what the workload wrote last was sent, and the reboot told.
	if _, err := os.Stat(filepath.Join(r.site.BucketDir(), "writer/lingered")); err != nil {
		t.Errorf("what the workload wrote at its end: %v", err)
	}
	if events := r.site.Events(r.edge.ID()); !strings.Contains(events, "OSUpdateRebooting") {
		t.Errorf("nothing was told of the reboot: %s", events)
	}
	must(t, r.edge.PowerOn(r.ctx))
	boot := r.run("cat", "/proc/sys/kernel/random/boot_id")
	r.told("OSUpdateBooted")
	r.running("writer", "app")
	r.reportsOS(second, "succeeded")
	r.phase("writer", "Running")
	if now := r.run("cat", "/proc/sys/kernel/random/boot_id"); now != boot {
		t.Error("it was rebooted once more")
	}
	if said, err := r.edge.ReadFile("/var/local/os/refused"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("rpm-ostree was called as it never was before: %s %v", said, err)
	}
}
