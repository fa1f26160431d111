// Package operator is the part of the control plane that decides: which devices
// are let in, which workloads are meant for which device, which bucket a device
// uses, and which playbooks it runs. It never talks to a device.
//
// There is one controller for a kind, and it alone writes that kind from here:
//
//   - requests grants an EdgeDeviceSignedRequest, or says why not;
//   - devices keeps an EdgeDevice: its finalizer, the workloads that are meant for
//     it, its bucket, and whether it is online;
//   - workloads sums an EdgeWorkload up over its devices;
//   - configs makes PlaybookExecutions of an EdgeConfig, and sums it up over them.
//
// Each is level-triggered: it compares what is with what should be, however it
// came about, so that an operator which was killed anywhere goes on where it was.
//
// # Whose field is what
//
// Labels and finalizers are set by server-side apply under the name FieldOwner,
// and only those of ours are ever removed. Of the status of an EdgeDevice the
// operator writes which workloads are listed, the bucket, and the conditions
// Approved, Online and BucketReady; the rest is the Edge API's. Every write of a
// status carries the version of the object that it was computed from, so that
// neither overwrites what the other one wrote meanwhile.
package operator
