// Package workload makes the device run the workloads of the desired state.
//
// It owns the folder of each workload (the manifest that its unit plays, the one
// before, and the record of what was applied), the units' being enabled, the
// Podman secrets in its own name form, and the pods that carry its label.
// Nothing else is ever changed. It knows neither Podman's nor systemd's API: it
// says what it needs of them in PodRuntime and UnitControl.
//
// Reconciling is level-triggered. One goroutine compares what is desired with
// what is seen and decides; what takes time runs beside it, one attempt a
// workload. An attempt may be killed at any instruction, and the next
// observation decides anew:
//
//   - what runs is read off the pod's digest label, never off a memory of ours;
//   - applied.json is written after the manifest was seen to run, so a manifest
//     that differs from it is unproven, and previous.yaml is the proven one;
//   - a device that leaves is left alone until it has left, and is then cleared
//     of all that is ours but the volumes;
//   - what is left alone is never restarted: a pod whose digest is the desired
//     one keeps its containers.
//
// Folder of a workload, below StateDir/workloads:
//
//	manifest.yaml   what the unit plays
//	next.yaml       being staged; meaningless after a crash
//	previous.yaml   the last manifest that was proven before manifest.yaml
//	applied.json    which manifest was proven last (durable document)
package workload
