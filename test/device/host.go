package device

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Cgroup is a version of control groups.
type Cgroup string

// What a device can see below /sys/fs/cgroup.
const (
	// CgroupV2 is one tree, as on every current system. On a host with v1
	// controllers it has none of them, so that pods can't have limits in it.
	CgroupV2 Cgroup = "v2"
	// CgroupV1 is one tree a controller; only hosts that have v1 have it. There
	// containers of root run, with limits, while limits of rootless pods are
	// ignored, and units of a user may linger in their stop: their systemd is
	// not told of empty groups.
	CgroupV1 Cgroup = "v1"
)

// Host is what the machine under the devices is like.
type Host struct {
	// PureCgroupV2 says that /sys/fs/cgroup is one v2 tree, as on Fedora and
	// Debian since 11. Otherwise there are v1 controllers.
	PureCgroupV2 bool
	// RaisesLimits says that hard resource limits may be raised. Where not,
	// Podman's defaults are beyond what is allowed and have to be lowered.
	RaisesLimits bool
	// StorageConfigured says that the host's Podman comes with a storage
	// configuration. Where not, it would copy whole images for each container.
	StorageConfigured bool
}

// DetectHost looks at the machine. It fails where no device can boot.
func DetectHost() (Host, error) {
	if os.Geteuid() != 0 {
		return Host{}, errors.New("detect host: devices need root")
	}
	for _, tool := range []string{
		"systemd-nspawn", "podman", "ip", "nft", "nsenter", "setpriv", "losetup", "mkfs.ext4", "journalctl",
	} {
		if _, err := exec.LookPath(tool); err != nil {
			return Host{}, fmt.Errorf("detect host: %w: run test/setup/install.sh", err)
		}
	}
	var root, usr unix.Stat_t
	if err := errors.Join(unix.Stat("/", &root), unix.Stat("/usr", &usr)); err != nil {
		return Host{}, fmt.Errorf("detect host: %w", err)
	}
	if root.Dev != usr.Dev {
		// The lower layer of a device is the root file system alone.
		return Host{}, errors.New("detect host: /usr is a file system of its own")
	}
	var cgroups unix.Statfs_t
	if err := unix.Statfs("/sys/fs/cgroup", &cgroups); err != nil {
		return Host{}, fmt.Errorf("detect host: look at cgroups: %w", err)
	}
	raises, err := hasCapability(unix.CAP_SYS_RESOURCE)
	if err != nil {
		return Host{}, fmt.Errorf("detect host: %w", err)
	}
	h := Host{PureCgroupV2: cgroups.Type == unix.CGROUP2_SUPER_MAGIC, RaisesLimits: raises}
	for _, path := range []string{"/etc/containers/storage.conf", "/usr/share/containers/storage.conf"} {
		if _, err := os.Stat(path); err == nil {
			h.StorageConfigured = true
		}
	}
	return h, nil
}

func hasCapability(number int) (bool, error) {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return false, fmt.Errorf("look at capabilities: %w", err)
	}
	for line := range strings.Lines(string(status)) {
		if hex, ok := strings.CutPrefix(line, "CapEff:"); ok {
			var set uint64
			if _, err := fmt.Sscanf(strings.TrimSpace(hex), "%x", &set); err != nil {
				return false, fmt.Errorf("look at capabilities: %w", err)
			}
			return set&(1<<number) != 0, nil
		}
	}
	return false, errors.New("look at capabilities: the kernel names none")
}

// hierarchy is what boot.sh calls the arrangement of control groups.
func (h Host) hierarchy(want Cgroup) (string, error) {
	switch {
	case h.PureCgroupV2 && want == CgroupV1:
		return "", errors.New("this host has no cgroup v1")
	case want == CgroupV1:
		return "v1", nil
	case h.PureCgroupV2:
		return "v2", nil
	default:
		return "v2-beside-v1", nil
	}
}

// cgroups returns the folders of the device's own control groups: one in the v2
// tree, or one a v1 controller. The first is the one that systemd works in.
func (h Host) cgroups(hierarchy, id string) ([]string, error) {
	switch hierarchy {
	case "v2":
		return []string{filepath.Join("/sys/fs/cgroup", id)}, nil
	case "v2-beside-v1":
		return []string{filepath.Join("/sys/fs/cgroup/unified", id)}, nil
	}
	// Below the groups that this process is in, so that whoever accounts for it
	// accounts for the device as well.
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return nil, fmt.Errorf("look at cgroups: %w", err)
	}
	var groups []string
	for line := range strings.Lines(string(own)) {
		fields := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(fields) != 3 || fields[1] == "" {
			continue
		}
		group := filepath.Join("/sys/fs/cgroup", strings.TrimPrefix(fields[1], "name="), fields[2], id)
		if fields[1] == "name=systemd" {
			groups = append([]string{group}, groups...)
		} else {
			groups = append(groups, group)
		}
	}
	return groups, nil
}
