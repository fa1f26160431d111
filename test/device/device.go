package device

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"sync"
)

// Device is a device. Its methods may be called from any goroutine, but
// PowerCut, Shutdown, AwaitReboot, PowerOn, Detach and Close not at the same time
// as others.
type Device struct {
	name      string
	dir       string
	hierarchy string
	cgroups   []string
	memory    string   // the one of them that bounds memory; "": none does
	limits    []string // in the order of their images
	network   network
	record    record
	reaper    *reaper
	console   io.Writer
	identity  string
	provision string // "files", "packages" or "nothing" of what the package brings
	ostree    bool   // it is laid out so
	nameless  bool   // it has no machine id
	uid       int

	mu     sync.Mutex
	nspawn *exec.Cmd
	leader int           // PID of the device's systemd, as the host sees it
	gone   chan struct{} // closed when nspawn has ended
}

// Boot makes a device and boots it. It returns when the device's systemd is
// done, and the service manager of User listens for Podman calls.
func Boot(ctx context.Context, cfg Config) (*Device, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	host, err := DetectHost()
	if err != nil {
		return nil, err
	}
	if err := Sweep(); err != nil {
		return nil, err
	}
	d, err := assemble(cfg, host)
	if err != nil {
		return nil, fmt.Errorf("boot device: %w", err)
	}
	if err := d.prepare(ctx, cfg, host); err != nil {
		return nil, errors.Join(fmt.Errorf("prepare device %s: %w", d.name, err), d.Close())
	}
	if err := d.PowerOn(ctx); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return d, nil
}

// assemble claims what the device needs on the host and starts its reaper,
// before anything is there that could be left behind.
func assemble(cfg Config, host Host) (*Device, error) {
	d := &Device{name: cfg.Name, dir: cfg.Dir, console: cfg.Console, identity: cfg.ID, provision: "files", nameless: cfg.NoMachineID, ostree: cfg.Ostree}
	switch {
	case len(cfg.Packages) > 0:
		d.provision = "packages"
	case cfg.Bare:
		d.provision = "nothing"
	}
	if d.identity == "" {
		d.identity = NewID()
	}
	var err error
	if d.hierarchy, err = host.hierarchy(cfg.Cgroup); err != nil {
		return nil, err
	}
	if d.dir == "" {
		d.dir = filepath.Join(diskFolder(), "flotta-device-"+d.identity)
	}
	d.record, err = claim(func(r record) ([]string, error) {
		d.network = newNetwork(r)
		if d.name == "" {
			d.name = "edge-" + d.identity[:8]
		}
		if d.cgroups, err = host.cgroups(d.hierarchy, r.id()); err != nil {
			return nil, err
		}
		if cfg.Memory > 0 {
			if d.memory, err = host.memoryGroup(d.hierarchy, r.id()); err != nil {
				return nil, err
			}
			if !slices.Contains(d.cgroups, d.memory) {
				d.cgroups = append(d.cgroups, d.memory)
			}
		}
		return []string{
			"PATH=" + searchPath,
			"DIR=" + d.dir,
			"KEEP_DIR=" + fmt.Sprint(cfg.Dir != ""),
			"NETNS=" + d.network.namespace,
			"LINK=" + d.network.link,
			"TABLE=" + d.network.table,
			"CGROUPS=" + strings.Join(d.cgroups, " "),
		}, nil
	})
	if err != nil {
		return nil, err
	}
	for path := range cfg.Limits {
		d.limits = append(d.limits, filepath.Clean(path))
	}
	sort.Strings(d.limits)
	if d.reaper, err = startReaper(d.record); err != nil {
		return nil, err
	}
	return d, nil
}

const searchPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// NewID returns a machine id that no other device has.
func NewID() string {
	id := make([]byte, 16)
	_, _ = rand.Read(id) // never fails
	return hex.EncodeToString(id)
}

// diskFolder is the folder for temporary files, or the one that is always on
// disk where the first is in memory: images and journals of devices are large.
func diskFolder() string {
	if dir := os.TempDir(); !inMemory(dir) {
		return dir
	}
	return "/var/tmp"
}

// Name is the device's host name.
func (d *Device) Name() string { return d.name }

// ID is the device's machine id.
func (d *Device) ID() string { return d.identity }

// HostAddr is the address of the host as the device sees it. What is to be
// reached from the device listens there.
func (d *Device) HostAddr() string { return d.network.host.String() }

// Addr is the device's own address.
func (d *Device) Addr() string { return d.network.device.String() }

// Dir is where the device's state is.
func (d *Device) Dir() string { return d.dir }

// UID is the user id of User on the device; 0 while there is no such user.
func (d *Device) UID() int { return d.uid }

// Leader is the PID of the device's systemd as the host sees it; 0 when the
// device is off. `nsenter --target PID --all` is a way in.
func (d *Device) Leader() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.leader
}

// Close removes the device and all that it left on the host. It may be called
// more than once.
func (d *Device) Close() error {
	err := d.PowerCut()
	if d.reaper == nil {
		return err
	}
	reaper := d.reaper
	d.reaper = nil
	return errors.Join(err, reaper.reap())
}

// Detach leaves the device as it is, running, when this program ends. From then
// on only Remove takes it away, by the id that Detach returns.
func (d *Device) Detach() (id string, err error) {
	if d.reaper == nil {
		return "", fmt.Errorf("detach device %s: it is closed", d.name)
	}
	if err := d.reaper.dismiss(); err != nil {
		return "", fmt.Errorf("detach device %s: %w", d.name, err)
	}
	d.reaper = nil
	d.mu.Lock()
	defer d.mu.Unlock()
	d.nspawn, d.leader = nil, 0
	return filepath.Base(d.record.path), nil
}
