package device

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"path/filepath"
	"regexp"
	"strings"
)

// User is the user whose service manager runs the workloads.
const User = "flotta"

// File is a file of a device: Content, a copy of the host's file Source, or a
// symbolic link to Link.
type File struct {
	Content []byte
	Source  string
	Link    string
	Mode    fs.FileMode // 0644 when zero
}

// Config describes a device. The zero value is a device that needs nothing.
type Config struct {
	// ID is the machine id, 32 hexadecimal digits; by default a new one.
	ID string
	// Name is the host name; by default one that no other device has.
	Name string
	// Dir is where the state is kept. A folder that Dir names survives Close,
	// and a device booted from it again is the same device: Files are not
	// applied once more, and Limits have to be the same. By default it is a new
	// folder on disk, which Close removes.
	Dir string
	// Files are put into the device's root before its first boot, by path.
	Files map[string]File
	// Bare leaves out what the package brings: its files, and the user of the
	// workloads. Until FindUser, the device has none.
	Bare bool
	// Packages are RPM packages of the host's file system that are installed
	// before the first boot, without a service manager that runs, as when an
	// image is composed. The device is Bare otherwise.
	Packages []string
	// Ostree lays the root out as a deployment of ostree: everything but /etc and
	// /var is read-only, and /home, /root, /opt, /srv and /usr/local are links to
	// below /var.
	Ostree bool
	// NoMachineID is for a root that cannot be written and has no machine id: the
	// device's systemd makes one up at every boot, and it is not ID.
	NoMachineID bool
	// Limits are folders of the device on small file systems of their own, by
	// path, with their size in bytes; at least 16 MiB.
	Limits map[string]int64
	// Memory is how much of it all of the device's processes have together, with
	// the files that the kernel keeps in memory for them, in bytes; no limit when
	// zero. At least 64 MiB. It is the harness's own: the device does not see it.
	Memory int64
	// Hosts are names that the device resolves to the host's end of its network,
	// in addition to Names.
	Hosts []string
	// Names are further entries of the device's /etc/hosts.
	Names map[string]netip.Addr
	// Cgroup is what the device sees; CgroupV2 when empty.
	Cgroup Cgroup
	// Console receives what the device printed while it booted, when that has
	// come to an end, well or not; may be nil.
	Console io.Writer
}

// minLimit is the smallest file system that leaves room for its own journal.
const minLimit = 16 << 20

// minMemory is what a systemd and a shell can live in.
const minMemory = 64 << 20

var machineID = regexp.MustCompile(`^[0-9a-f]{32}$`)

var hostName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

// Validate names the field that no device can have.
func (c Config) Validate() error {
	var errs []error
	if c.Name != "" && !hostName.MatchString(c.Name) {
		errs = append(errs, fmt.Errorf("name %q is not a host name", c.Name))
	}
	if c.ID != "" && !machineID.MatchString(c.ID) {
		errs = append(errs, fmt.Errorf("id %q is not a machine id", c.ID))
	}
	// The path becomes part of the options of an overlay mount.
	if c.Dir != "" && (!filepath.IsAbs(c.Dir) || strings.ContainsAny(c.Dir, ":,\\\" \n")) {
		errs = append(errs, fmt.Errorf("dir %q is not an absolute path of plain characters", c.Dir))
	}
	if c.Cgroup != "" && c.Cgroup != CgroupV1 && c.Cgroup != CgroupV2 {
		errs = append(errs, fmt.Errorf("cgroup %q is neither %q nor %q", c.Cgroup, CgroupV1, CgroupV2))
	}
	for path, f := range c.Files {
		if !filepath.IsAbs(path) {
			errs = append(errs, fmt.Errorf("file %q has no absolute path", path))
		}
		if f.Source != "" && f.Content != nil {
			errs = append(errs, fmt.Errorf("file %q has both content and source", path))
		}
	}
	for _, path := range c.Packages {
		if !filepath.IsAbs(path) {
			errs = append(errs, fmt.Errorf("package %q has no absolute path", path))
		}
	}
	for path, size := range c.Limits {
		if !filepath.IsAbs(path) || strings.ContainsAny(path, ": \n") {
			errs = append(errs, fmt.Errorf("limit %q is not an absolute path of plain characters", path))
		}
		if size < minLimit {
			errs = append(errs, fmt.Errorf("limit %q has %d bytes, less than %d", path, size, minLimit))
		}
	}
	if c.Memory != 0 && c.Memory < minMemory {
		errs = append(errs, fmt.Errorf("memory of %d bytes is less than %d", c.Memory, minMemory))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("device config: %w", err)
	}
	return nil
}
