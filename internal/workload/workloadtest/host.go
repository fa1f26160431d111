package workloadtest

import (
	"context"
	"slices"

	"github.com/project-flotta/flotta-agent/internal/workload"
)

// Host is the HostTable of a World.
type Host struct{ *World }

// Mounted reports what Mount said last.
func (h Host) Mounted(dir string) (bool, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.mounted[dir], nil
}

// Sockets returns what Listen said last.
func (h Host) Sockets() ([]workload.Socket, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.sockets), nil
}

// FirstPort returns what it is on most hosts.
func (h Host) FirstPort() (uint16, error) { return 1024, nil }

// Device returns what the world says of it.
func (h Host) Device(use workload.DeviceUse) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if problem := h.devices[use.Path]; problem != nil && (problem.Missing || use.Kind != "") {
		return problem
	}
	return nil
}

// Watch is that of the world.
func (h Host) Watch(ctx context.Context, changed func()) error { return h.World.Watch(ctx, changed) }

// Mount mounts something at dir, or takes it away.
func (w *World) Mount(dir string, there bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.mounted[dir] = there
	w.wake()
}

// Device makes that the trouble with the device; nil: there is none.
func (w *World) Device(path string, trouble *workload.DeviceError) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.devices[path] = trouble
	w.wake()
}

// Listen makes these the sockets of the host.
func (w *World) Listen(sockets ...workload.Socket) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.sockets = sockets
}

// Starts returns how often the workload was started, or tried to.
func (w *World) Starts(name string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.starts[name]
}

var _ workload.HostTable = Host{}
