package workload

import (
	"errors"

	"github.com/project-flotta/flotta-agent/internal/workload/manifest"
)

// devicePaths returns where the devices of the plan are.
func devicePaths(plan manifest.Plan) []string {
	var out []string
	for _, d := range plan.Devices {
		if len(out) == 0 || out[len(out)-1] != d.Path {
			out = append(out, d.Path)
		}
	}
	return out
}

// deviceUses returns what the pod of the plan does with its devices.
func deviceUses(plan manifest.Plan) []DeviceUse {
	out := make([]DeviceUse, 0, len(plan.Devices))
	for _, d := range plan.Devices {
		kind := DeviceChar
		if d.Block {
			kind = DeviceBlock
		}
		out = append(out, DeviceUse{Path: d.Path, Kind: kind, Groups: plan.KeepsGroups})
	}
	return out
}

// unusable returns a failure when the pod of the plan could not use a device that
// it asks for. If only the node is there, Podman would start it all the same, and
// the program in it would fail without anybody knowing why.
func (r *Reconciler) unusable(plan manifest.Plan) error {
	if r.cfg.Host == nil {
		return nil
	}
	for _, use := range deviceUses(plan) {
		if err := r.cfg.Host.Device(use); err != nil {
			return deviceFailure(err)
		}
	}
	return nil
}

// unplugged returns a failure when a device is missing that a proven manifest
// needs to start. What it may open was another one's business when it was proven:
// systemd starts it at boot without asking either.
func (r *Reconciler) unplugged(paths []string) error {
	if r.cfg.Host == nil {
		return nil
	}
	for _, path := range paths {
		err := r.cfg.Host.Device(DeviceUse{Path: path})
		if problem, known := errors.AsType[*DeviceError](err); known && problem.Missing {
			return deviceFailure(err)
		}
	}
	return nil
}

func deviceFailure(err error) error {
	if problem, known := errors.AsType[*DeviceError](err); known && problem.Missing {
		return failed(ReasonDevice, errors.New(problem.Text+"; the workload starts as soon as it is"))
	}
	return failed(ReasonDenied, err)
}

// deviceNotes says what the pod, which runs, has lost of its devices since it was
// started.
func (r *Reconciler) deviceNotes(t target, s seen) []string {
	if r.cfg.Host == nil || t.kind != wanted || s.pod == nil || s.disk.manifest != t.sum {
		return nil
	}
	var out []string
	for _, use := range deviceUses(t.plan) {
		if err := r.cfg.Host.Device(use); err != nil {
			out = append(out, bounded(err.Error()))
		}
	}
	return out
}
