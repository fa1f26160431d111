package containers

import "time"

// Container is one container of a workload's pod. The infra container is none.
type Container struct {
	ID          string // as Podman's, 64 hex digits
	Name        string // Podman's, unique on the device: of the pod and the container
	Workload    string
	Container   string // the name in the manifest
	Init        bool
	Running     bool
	Created     time.Time
	Started     time.Time // the last start; zero before the first
	LogDriver   string    // journald, k8s-file, none …
	LogPath     string    // file of the driver k8s-file
	HostNetwork bool
	// InfraPID is a process inside the pod's namespaces, for as long as the pod
	// runs; 0 when it does not.
	InfraPID int
}
