package workload

import (
	"context"
	"time"

	"github.com/project-flotta/flotta-agent/internal/secret"
)

// Words of Podman for the state of a pod and of a container, as far as
// decisions depend on them.
const (
	PodRunning       = "Running"
	PodDegraded      = "Degraded"
	PodError         = "Error"
	ContainerRunning = "running"
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
	Restarts  int // by Podman since the container was made
}

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
	Enabled bool // started at boot
	State   UnitState
	Waiting bool // it ended, and systemd will start it again after a pause
	Result  string
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
	// Logs returns the last lines that a container wrote.
	Logs(ctx context.Context, containerID string, lines int) ([]string, error)

	ImageExists(ctx context.Context, reference string) (bool, error)
	// PullImage pulls with the credentials of a docker config JSON, which may
	// be empty. Progress may be called until PullImage returns.
	PullImage(ctx context.Context, reference string, auth secret.Value, progress func(line string)) error

	// Secrets returns the names of all secrets, ours and others.
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
