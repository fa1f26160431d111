package device

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/project-flotta/flotta-agent/systemd"
)

// disks are the device's folders that lie on the host's disk itself and not on
// the overlay: containers want a real file system below them.
func disks() map[string]string {
	return map[string]string{"/var/lib/containers": "containers", "/var/home": "home", "/var/local": "local"}
}

// deviceNodes are what rootless Podman opens: FUSE for its storage and a tunnel
// for its network.
func deviceNodes() []string { return []string{"/dev/fuse", "/dev/net/tun"} }

// nodePath is where the device's own node of that path is on this machine.
func (d *Device) nodePath(node string) string {
	return filepath.Join(d.dir, "nodes", filepath.Base(node))
}

// makeNodes makes device nodes that every user may open, as udev makes them. The
// host's own may be closed to all but root when nothing of the kind runs there.
// One that the host lacks stays away.
func (d *Device) makeNodes() error {
	for _, node := range deviceNodes() {
		var host unix.Stat_t
		if err := unix.Stat(node, &host); errors.Is(err, unix.ENOENT) {
			continue
		} else if err != nil {
			return fmt.Errorf("look at %s: %w", node, err)
		}
		own := d.nodePath(node)
		if err := os.MkdirAll(filepath.Dir(own), 0o755); err != nil {
			return err
		}
		if err := unix.Mknod(own, unix.S_IFCHR, int(host.Rdev)); err != nil { //nolint:gosec // as the system call has it
			return fmt.Errorf("make %s: %w", own, err)
		}
		if err := os.Chmod(own, 0o666); err != nil {
			return err
		}
	}
	return nil
}

// prepare makes the state folder, unless there is one to boot from again, and
// the network.
func (d *Device) prepare(ctx context.Context, cfg Config, host Host) error {
	again := false
	if raw, err := os.ReadFile(filepath.Join(d.dir, "upper/etc/machine-id")); err == nil {
		if again = true; !d.nameless {
			d.identity = strings.TrimSpace(string(raw))
		}
	}
	for _, group := range d.cgroups {
		if err := makeCgroup(group); err != nil {
			return err
		}
	}
	if d.memory != "" {
		if err := limitMemory(d.memory, cfg.Memory); err != nil {
			return err
		}
	}
	if err := d.network.up(ctx); err != nil {
		return err
	}
	if !again {
		if err := d.fill(ctx, cfg, host); err != nil {
			return err
		}
	}
	// The address can be another one than last time.
	return d.place("/etc/hosts", File{Content: d.hostsFile(cfg)})
}

// fill makes the state folder of a new device.
func (d *Device) fill(ctx context.Context, cfg Config, host Host) error {
	for _, sub := range []string{"", "upper", "work", "root", "limits", "packages", "containers", "home", "local"} {
		// Users of the device walk through some of these.
		if err := os.MkdirAll(filepath.Join(d.dir, sub), 0o755); err != nil {
			return err
		}
	}
	if err := errors.Join(d.hide(), d.makeNodes()); err != nil {
		return err
	}
	files := map[string]File{
		"/etc/machine-id": {Content: []byte(d.identity + "\n"), Mode: 0o444},
		"/etc/hostname":   {Content: []byte(d.name + "\n")},
		"/etc/fstab":      {},
		// No name server: a lookup fails at once instead of after a time-out.
		"/etc/resolv.conf": {},
		// Nothing is to be rebuilt because this root is new.
		"/etc/.updated": {}, "/var/.updated": {},
		// The journal has to survive the power cut.
		"/var/log/journal/.keep": {},
	}
	if d.nameless {
		files["/etc/machine-id"] = File{}
		// Where systemd would look for another one.
		files["/var/lib/dbus/machine-id"] = File{Link: "/etc/machine-id"}
		if err := os.WriteFile(filepath.Join(d.dir, "no-machine-id"), nil, 0o444); err != nil {
			return err
		}
	}
	maps.Copy(files, d.workarounds(host))
	if !cfg.Bare && len(cfg.Packages) == 0 {
		if err := addShipped(files); err != nil {
			return err
		}
	}
	maps.Copy(files, cfg.Files)
	for _, path := range slices.Sorted(maps.Keys(files)) {
		if err := d.place(path, files[path]); err != nil {
			return fmt.Errorf("place %s: %w", path, err)
		}
	}
	for i, path := range cfg.Packages {
		if err := copyFile(filepath.Join(d.dir, "packages", strconv.Itoa(i)+".rpm"), path, 0o600); err != nil {
			return fmt.Errorf("take package: %w", err)
		}
	}
	for i, path := range d.limits {
		if err := makeLimit(ctx, d.limitImage(i), cfg.Limits[path]); err != nil {
			return fmt.Errorf("make file system for %s: %w", path, err)
		}
	}
	return nil
}

// workarounds are the files that a device needs because of what its host lacks.
func (d *Device) workarounds(host Host) map[string]File {
	files := map[string]File{}
	switch d.hierarchy {
	case "v1":
		files["/etc/systemd/system/device-cgroups.service"] = File{Content: cgroupUnit}
		files["/etc/systemd/system/device-released.service"] = File{Content: releasedUnit}
		files["/usr/local/libexec/device-released"] = File{Content: released}
	case "v2-beside-v1":
		// Podman without containers/common#2162 takes the v1 lines in
		// /proc/self/cgroup for its own too, looks whether the user owns the
		// folder that they seem to name, and otherwise leaves the unit that it was
		// started in, which then ends. User may come long after the boot, so the
		// moment is when its service manager starts.
		files["/etc/systemd/system/user@.service.d/device.conf"] = File{Content: []byte("[Service]\n" +
			"ExecStartPre=+/bin/sh -c '[ \"$(id -un %i)\" != " + User + " ] || chown %i /sys/fs/cgroup'\n")}
	}
	settings := "[network]\nnetwork_backend = \"netavark\"\n"
	if d.hierarchy == "v1" {
		// The device's systemd has its own hierarchy only. Podman would take the
		// roots of all others for the groups of each container that it asks
		// systemd for, and kill everybody's processes there with the first that
		// ends.
		settings += "[engine]\ncgroup_manager = \"cgroupfs\"\n"
	}
	// A user's quota of kernel keys is one over all devices.
	settings += "[containers]\nkeyring = false\n"
	if !host.RaisesLimits {
		// Soft and hard limits are equal, because Podman 4.3 swaps the two.
		settings += "default_ulimits = [\"nofile=4096:4096\", \"nproc=4096:4096\"]\n"
	}
	files["/etc/containers/containers.conf.d/50-device.conf"] = File{Content: []byte(settings)}
	if !host.StorageConfigured {
		files["/etc/containers/storage.conf"] = File{Content: []byte("[storage]\ndriver = \"overlay\"\n" +
			"runroot = \"/run/containers/storage\"\ngraphroot = \"/var/lib/containers/storage\"\n")}
	}
	return files
}

// hide keeps out of the device what is the host's own business: the units that
// it starts, its data and its users' files.
func (d *Device) hide() error {
	hidden := []string{"/var/log", "/var/cache", "/var/tmp", "/var/lib/systemd", "/var/lib/containers", "/var/home", "/var/local"}
	for _, pattern := range []string{"/etc/systemd/*/*.wants", "/etc/systemd/*/*.requires", "/etc/rc?.d", "/etc/cron.*"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			return err
		}
		hidden = append(hidden, found...)
	}
	entries, err := os.ReadDir("/")
	if err != nil {
		return err
	}
	system := map[string]bool{
		"bin": true, "boot": true, "dev": true, "etc": true, "opt": true, "proc": true,
		"run": true, "sbin": true, "sys": true, "tmp": true, "usr": true, "var": true,
	}
	for _, e := range entries {
		if e.IsDir() && !system[e.Name()] && !strings.HasPrefix(e.Name(), "lib") {
			hidden = append(hidden, "/"+e.Name())
		}
	}
	for _, path := range hidden {
		folder, err := d.upperFolder(path)
		if err != nil {
			return fmt.Errorf("hide %s: %w", path, err)
		}
		if err := unix.Setxattr(folder, "trusted.overlay.opaque", []byte("y"), 0); err != nil {
			return fmt.Errorf("hide %s: %w", path, err)
		}
		// Where the message bus is an ordinary unit that somebody enabled, the
		// device needs it like its host.
		buses, err := filepath.Glob(path + "/dbus*")
		if err != nil {
			return err
		}
		for _, bus := range buses {
			if to, err := os.Readlink(bus); err == nil {
				if err := os.Symlink(to, filepath.Join(folder, filepath.Base(bus))); err != nil {
					return fmt.Errorf("hide %s: %w", path, err)
				}
			}
		}
	}
	return nil
}

func (d *Device) hostsFile(cfg Config) []byte {
	text := fmt.Appendf(nil, "127.0.0.1 localhost %s\n::1 localhost\n", d.name)
	if len(cfg.Hosts) > 0 {
		text = fmt.Appendf(text, "%s %s\n", d.HostAddr(), strings.Join(cfg.Hosts, " "))
	}
	for _, name := range slices.Sorted(maps.Keys(cfg.Names)) {
		text = fmt.Appendf(text, "%s %s\n", cfg.Names[name], name)
	}
	return text
}

// addShipped adds the files that the package installs.
func addShipped(files map[string]File) error {
	return fs.WalkDir(systemd.Files, ".", func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		raw, err := systemd.Files.ReadFile(path)
		if target := systemd.InstallPath(path); err == nil && target != "" {
			files[target] = File{Content: raw}
		}
		return err
	})
}

// place writes a file into a device that is off.
func (d *Device) place(path string, f File) error {
	folder, err := d.upperFolder(filepath.Dir(path))
	if err != nil {
		return err
	}
	if f.Mode == 0 {
		f.Mode = 0o644
	}
	target := filepath.Join(folder, filepath.Base(path))
	// What is there can be a symlink to anywhere.
	if err := os.Remove(target); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if f.Link != "" {
		return os.Symlink(f.Link, target)
	}
	if f.Source == "" {
		err = os.WriteFile(target, f.Content, f.Mode)
	} else {
		err = copyFile(target, f.Source, f.Mode)
	}
	return errors.Join(err, os.Chmod(target, f.Mode))
}

// upperFolder makes a folder in the layer above the host's root, with the mode,
// the owner and the times of the host's own, and returns its path. A path that
// lies on one of the device's disks is made there.
func (d *Device) upperFolder(path string) (string, error) {
	path = filepath.Clean(path)
	for mount, sub := range disks() {
		if rest, ok := strings.CutPrefix(path+"/", mount+"/"); ok {
			folder := filepath.Join(d.dir, sub, rest)
			return folder, os.MkdirAll(folder, 0o755)
		}
	}
	if path == "/" {
		return filepath.Join(d.dir, "upper"), nil
	}
	// A symlink such as /lib must not become a folder.
	if target, err := filepath.EvalSymlinks(path); err == nil && target != path {
		return d.upperFolder(target)
	}
	parent, err := d.upperFolder(filepath.Dir(path))
	if err != nil {
		return "", err
	}
	folder := filepath.Join(parent, filepath.Base(path))
	if err := os.Mkdir(folder, 0o755); err != nil {
		if errors.Is(err, fs.ErrExist) {
			return folder, nil
		}
		return "", err
	}
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return folder, nil
	}
	if err != nil {
		return "", err
	}
	owner, _ := info.Sys().(*syscall.Stat_t)
	return folder, errors.Join(
		os.Chown(folder, int(owner.Uid), int(owner.Gid)),
		os.Chmod(folder, info.Mode()),
		os.Chtimes(folder, info.ModTime(), info.ModTime()),
	)
}

func copyFile(target, source string, mode fs.FileMode) (err error) {
	in, err := os.Open(source)
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }()
	out, err := os.OpenFile(target, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, mode)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

func (d *Device) limitImage(i int) string {
	return filepath.Join(d.dir, "limits", strconv.Itoa(i)+".img")
}

func makeLimit(ctx context.Context, image string, size int64) error {
	if err := errors.Join(os.WriteFile(image, nil, 0o600), os.Truncate(image, size)); err != nil {
		return err
	}
	// No blocks are reserved for root: full is full for everybody.
	out, err := exec.CommandContext(ctx, "mkfs.ext4", "-q", "-m", "0", image).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

func inMemory(dir string) bool {
	var fs unix.Statfs_t
	return unix.Statfs(dir, &fs) == nil && fs.Type == unix.TMPFS_MAGIC
}
