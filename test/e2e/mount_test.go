//go:build device

package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/project-flotta/flotta-agent/test/site"
)

// disk is where a disk belongs that the device's owner plugs in. A device of the
// harness has no disks of its own: one in memory stands for it.
const disk = "/srv/disk"

func (r *rig) plugIn() {
	r.Helper()
	r.run("mount", "-t", "tmpfs", "-o", "mode=1777,size=1m", "disk", disk)
}

func TestWorkloadWaitsForItsMount(t *testing.T) {
	t.Parallel()
	r := newRig(t, site.EdgeConfig{Settings: quickResync()})
	r.run("mkdir", "-p", disk)
	r.device("", "  mounts: [{device: /dev/disk/by-label/data, folder: "+disk+", type: ext4}]\n")
	r.save("w.yaml", r.onDisk("recorder", "one"))
	r.save("other.yaml", r.workload("bystander", "args: [sleep]", ""))
	r.running("bystander", "app")
	r.waits("recorder", "MountMissing", disk)
	r.idle("recorder", 3*time.Second)
	bystander := r.running("bystander", "app")

	began := time.Now()
	r.plugIn()
	r.running("recorder", "app")
	t.Logf("it runs %s after its disk appeared", time.Since(began).Round(100*time.Millisecond))
	r.onDiskIs("one")
	r.phase("recorder", "Running")
	if now := r.running("bystander", "app"); now != bystander {
		t.Error("a workload without a mount was restarted")
	}

	// The disk is not there when the device comes back: neither systemd nor the
	// agent starts the workload, for it would write where the disk is not.
	must(t, r.edge.PowerCut())
	must(t, r.edge.PowerOn(r.ctx))
	r.running("bystander", "app")
	r.waits("recorder", "MountMissing", disk)
	r.idle("recorder", 8*time.Second)
	if state, _ := r.edge.UserUnit(r.ctx, "is-active", "flotta-workload@recorder.service"); state != "inactive" {
		t.Errorf("its unit is %s without the disk", state)
	}
	if out := r.run("ls", disk); out != "" {
		t.Errorf("something was written where the disk is not: %s", out)
	}
	r.plugIn()
	r.running("recorder", "app")
	r.onDiskIs("one")

	// A change waits as well, and one that needs no disk does not.
	r.remove("w.yaml")
	r.gone("recorder")
	r.run("umount", disk)
	r.save("w.yaml", r.onDisk("recorder", "two"))
	r.waits("recorder", "MountMissing", disk)
	r.device("", "")
	r.running("recorder", "app")
}

// onDisk is a workload that writes its round to the disk.
func (r *rig) onDisk(name, round string) string {
	return r.workload(name, "args: [write, /disk/round, "+round+"]\nvolumeMounts: [{name: disk, mountPath: /disk}]", "") +
		indent("volumes: [{name: disk, hostPath: {path: "+disk+", type: Directory}}]\n", 6)
}

func (r *rig) onDiskIs(round string) {
	r.Helper()
	r.until("the disk holds what was written", func() error {
		result, err := r.edge.Run(r.ctx, "cat", disk+"/round")
		if err == nil && strings.TrimSpace(result.Stdout) != round {
			err = fmt.Errorf("it holds %q, want %q", result.Stdout, round)
		}
		return err
	})
}

// TestMountsOfTheConfiguration: what cannot be mounted is told, and never becomes
// anything of the system's. What can be is tested where there are real disks.
func TestMountsOfTheConfiguration(t *testing.T) {
	t.Parallel()
	r := newRig(t, site.EdgeConfig{Settings: quickResync()})
	units := func() string {
		return r.run("sh", "-c", "grep -l flotta-agent /etc/systemd/system/*.mount 2>/dev/null || true")
	}
	for round, mount := range []struct{ fields, problem string }{
		{"device: /dev/disk/by-label/data, folder: " + disk + ", type: ext4", "mount " + disk + ": the device /dev/disk/by-label/data is not there"},
		{"device: /dev/null, folder: /etc, type: ext4", "mount /etc: "},
		{"device: /dev/null, folder: " + disk + ", type: ext4", "mount " + disk + ": "},
		{`device: /dev/null, folder: /srv/x, type: ext4, options: "rw,suid"`, "mount /srv/x: "},
		{`device: /dev/null, folder: "/srv/x\nExecStart=/bin/sh", type: ext4`, "mount /srv/x"},
	} {
		r.device("", "  mounts: [{"+mount.fields+"}]\n")
		r.until(fmt.Sprintf("the device tells of mount %d", round), func() error {
			if result := r.status(); !strings.Contains(result.Stdout, mount.problem) {
				return fmt.Errorf("%s", result.Stdout)
			}
			return nil
		})
		if out := units(); out != "" {
			t.Errorf("mount %d: units %s", round, out)
		}
	}
	r.device("", "")
	r.until("nothing is wrong any more", func() error {
		if result := r.status(); strings.Contains(result.Stdout, "mount /") {
			return fmt.Errorf("%s", result.Stdout)
		}
		return nil
	})
}
