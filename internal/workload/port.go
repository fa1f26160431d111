package workload

import (
	"context"
	"net/netip"
	"slices"
	"time"

	"github.com/project-flotta/flotta-agent/internal/secret"
	"github.com/project-flotta/flotta-agent/internal/workload/manifest"
)

// Words of Podman for the state of a pod and of a container, as far as
// decisions depend on them.
const (
	PodRunning       = "Running"
	PodDegraded      = "Degraded"
	PodError         = "Error"
	ContainerRunning = "running"
	ContainerPaused  = "paused"
	ContainerExited  = "exited"
	ContainerStopped = "stopped" // exited, and not yet cleaned up
)

// Pod is one of our pods.
type Pod struct {
	ID         string
	Workload   string // which is also its name
	Digest     string // of the manifest it was made from; empty when it says none
	Status     string // Podman's word
	Containers []Container
}

// Container is a container of a pod, the pod's own infrastructure aside.
type Container struct {
	ID        string
	Name      string // <pod>-<container of the manifest>
	Status    string // Podman's word
	ExitCode  int32  // of the last exit
	StartedAt time.Time
	Restarts  int    // by Podman since the container was made
	Health    string // Podman's word; empty: nothing checks it
	Image     string // reference that it was made from
	ImageID   string
}

// Words of Podman for the health of a container.
const (
	HealthStarting  = "starting"
	HealthHealthy   = "healthy"
	HealthUnhealthy = "unhealthy"
)

// Image is an image in local storage.
type Image struct {
	ID         string
	Names      []string // references with tags
	Digests    []string // name@sha256:…
	Size       int64    // bytes, with the layers that it shares
	Containers int      // made from it, somebody else's included
}

// Disk is a file system.
type Disk struct {
	Dir         string // a folder on it
	Total, Free uint64 // bytes; free is what an ordinary user may still take
}

// NoSpaceError is that of a pull that found a disk full.
type NoSpaceError struct {
	Dir string // on the disk that is full
	Err error
}

// Error names the disk.
func (e *NoSpaceError) Error() string {
	return "the disk of " + e.Dir + " is full: " + e.Err.Error()
}

// Unwrap returns what Podman said.
func (e *NoSpaceError) Unwrap() error { return e.Err }

// UnitState is systemd's word for the state of a unit.
type UnitState string

// The states that decisions depend on; all others mean that systemd is at work.
const (
	UnitActive   UnitState = "active"
	UnitInactive UnitState = "inactive"
	UnitFailed   UnitState = "failed"
)

// Unit is the unit of one workload.
type Unit struct {
	Enabled  bool // started at boot
	State    UnitState
	Waiting  bool // it ended, and systemd will start it again after a pause
	Result   string
	Settings UnitSettings // as they are in force
}

// UnitSettings is what the unit of one workload has beyond what all have.
type UnitSettings struct {
	// Completes says that the pod may come to its end, and then stays there to
	// be looked at; systemd does not start it again.
	Completes bool `json:"completes,omitempty"`
	// StopTimeout is how long the containers have to end before they are
	// killed; zero: Podman's default.
	StopTimeout time.Duration `json:"stopTimeout,omitempty"`
	// Mounts are the folders that have to be mount points when the unit starts,
	// sorted: a unit of which one is missing is not started, at boot included.
	Mounts []string `json:"mounts,omitempty"`
	// Devices are the device nodes that have to be there when the unit starts,
	// sorted, in the same way.
	Devices []string `json:"devices,omitempty"`
	// AutoUpdate says that Podman replaces images by newer ones, and needs a
	// start to fail when their containers do not stay up: only then does it put
	// the image before back.
	AutoUpdate bool `json:"autoUpdate,omitempty"`
}

// Equal reports whether both say the same.
func (s UnitSettings) Equal(other UnitSettings) bool {
	return s.Completes == other.Completes && s.AutoUpdate == other.AutoUpdate && s.StopTimeout == other.StopTimeout && slices.Equal(s.Mounts, other.Mounts) &&
		slices.Equal(s.Devices, other.Devices)
}

// Socket is a socket of the host that takes connections or datagrams.
type Socket struct {
	Protocol string     // tcp or udp
	Address  netip.Addr // unspecified: every address
	Port     uint16
	PID      int    // zero: not known
	Command  string // of that process, for a person
	Workload string // of ours that it belongs to; empty: none
}

// DeviceUse is what a pod wants to do with a device of the host.
type DeviceUse struct {
	Path   string
	Kind   DeviceKind
	Groups bool // it has the groups of the user who runs it
}

// DeviceKind is a kind of device; empty: any.
type DeviceKind string

// The kinds of devices.
const (
	DeviceChar  DeviceKind = "char"
	DeviceBlock DeviceKind = "block"
)

// DeviceError says why a pod cannot use a device, for a person.
type DeviceError struct {
	Missing bool // it is not there; else it is, and may not be opened
	Text    string
}

// Error returns the text.
func (e *DeviceError) Error() string { return e.Text }

// HostTable is what the host has that a workload may need. All methods may be
// called from any goroutine.
type HostTable interface {
	// Mounted reports whether something is mounted at the folder.
	Mounted(dir string) (bool, error)
	// Sockets returns the sockets that listen.
	Sockets() ([]Socket, error)
	// FirstPort returns the lowest port that others than root may listen at.
	FirstPort() (uint16, error)
	// Device returns nil when the user of the pods can use a device so, and a
	// *DeviceError otherwise.
	Device(use DeviceUse) error
	// Watch calls changed when a mount, or a device that was asked for, appeared or
	// vanished. It returns nil when ctx ended.
	Watch(ctx context.Context, changed func()) error
}

// Predecessor is what ran workloads on this host before the agent, and left some of
// them running. All methods may be called from any goroutine, for any workload.
type Predecessor interface {
	// Ports returns the host ports that its pod of the workload listens at; they are
	// free once that is removed.
	Ports(ctx context.Context, workload string) ([]manifest.HostPort, error)
	// Retire keeps what it left of the workload from being started at boot, and stops
	// nothing.
	Retire(ctx context.Context, workload string) error
	// Remove ends and removes it.
	Remove(ctx context.Context, workload string) error
}

// PodRuntime is what runs pods. All methods may be called from any goroutine,
// and honour their context.
type PodRuntime interface {
	// Pods returns every pod that carries our label and is named by it.
	Pods(ctx context.Context) ([]Pod, error)
	// Pod returns the pod of one workload; false: there is none.
	Pod(ctx context.Context, workload string) (Pod, bool, error)
	// RemovePod removes the pod of a workload, if there is one, with its
	// containers.
	RemovePod(ctx context.Context, workload string) error
	// RemoveRemains removes what starts that failed have left of a workload beside
	// its pod, and nothing that runs.
	RemoveRemains(ctx context.Context, workload string) error
	// UnpausePod lets the containers of a workload's pod run again, if there is
	// one.
	UnpausePod(ctx context.Context, workload string) error
	// Logs returns the last lines that a container wrote.
	Logs(ctx context.Context, containerID string, lines int) ([]string, error)

	// Version returns Podman's version, such as 4.3.1.
	Version(ctx context.Context) (string, error)

	// Image returns the image of that reference; false: it is not in local
	// storage.
	Image(ctx context.Context, reference string) (Image, bool, error)
	// Images returns all images in local storage, ours and others.
	Images(ctx context.Context) ([]Image, error)
	// RemoveImage removes an image with all its names, if it is there. It is an
	// error while a container was made from it.
	RemoveImage(ctx context.Context, id string) error
	// ImageDisk returns the file system that the images are on.
	ImageDisk(ctx context.Context) (Disk, error)
	// PullImage pulls with the credentials of a docker config JSON, which may
	// be empty. As long as it gets on it calls progress every few seconds, from
	// one goroutine at a time, until it returns. The error is a *NoSpaceError
	// when a disk was full.
	PullImage(ctx context.Context, reference string, auth secret.Value, progress func(line string)) error

	// Secrets returns the names of the secrets that carry our mark.
	Secrets(ctx context.Context) ([]string, error)
	// CreateSecret makes a secret; one of that name being there is no error.
	CreateSecret(ctx context.Context, name string, data secret.Value) error
	// RemoveSecret removes a secret, if there is one.
	RemoveSecret(ctx context.Context, name string) error

	// Watch calls changed after it began to watch and then whenever something
	// may have happened to one of our pods. It returns nil when ctx ended.
	Watch(ctx context.Context, changed func()) error
}

// UnitControl is what keeps pods running: one unit a workload, named by it. All
// methods may be called from any goroutine, and honour their context.
type UnitControl interface {
	// Units returns every unit that is enabled, active or failed, by workload.
	Units(ctx context.Context) (map[string]Unit, error)
	// Unit returns the unit of one workload; one never heard of is inactive.
	Unit(ctx context.Context, workload string) (Unit, error)
	// Enable makes the unit start at boot, and Disable no longer; neither
	// starts or stops it, and both may be repeated.
	Enable(ctx context.Context, workload string) error
	Disable(ctx context.Context, workload string) error
	// Configure gives the unit these settings from its next start on; it may be
	// repeated, and costs nothing when they are in force. Zero settings leave no
	// trace.
	Configure(ctx context.Context, workload string, settings UnitSettings) error
	// Start, Restart and Stop wait until systemd is done. Start does nothing to
	// an active unit, and Stop nothing to an inactive one. All three end a
	// pause before a restart.
	Start(ctx context.Context, workload string) error
	Restart(ctx context.Context, workload string) error
	Stop(ctx context.Context, workload string) error
	// Output returns the last lines that the unit itself wrote since that time,
	// such as Podman's complaint about a manifest.
	Output(ctx context.Context, workload string, since time.Time, lines int) ([]string, error)
	// Watch is as that of PodRuntime, for units.
	Watch(ctx context.Context, changed func()) error
}
