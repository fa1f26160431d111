// Package desired owns the desired state of the device: it decodes and
// validates what the control plane sends, keeps it on disk, and publishes
// immutable snapshots.
//
// There is one writer, Store. Readers take Store.Current and wait for that
// snapshot's Superseded; they are never called with a configuration, and
// because they wait on the snapshot they read, no change is ever missed.
//
// Invariants:
//   - What is published is on disk before, except a new name (version) for the
//     same content, which is published only: flotta v0.2 renames the
//     configuration after every heartbeat, and flash wears.
//   - A message that makes no sense as a whole is refused and the last good one
//     stays in force. A part that makes no sense (one workload, the storage) is
//     left out and named; the other parts are in force.
//   - Nothing that was configured is ever in a log line or an error: only names,
//     positions and types are.
//   - The way out of being managed is one way: Leave, Withdraw, Relinquish,
//     Forget. Each is on disk before it is published, and no configuration is
//     accepted between the first and the last, so that what is being cleared
//     away never comes back.
//   - A workload that a configuration lacks and that the one before had is
//     Retired until its volume is disposed of or it is desired again; never
//     both. What is on record of a retirement is void in the next one.
//   - A damaged file is set aside and the device is as if it had been told
//     nothing, which changes nothing on it.
//
// The file is a document of internal/durable of kind "desired-state", mode
// 0600, because it holds secrets: the accepted message as it came, so that a
// newer agent finds what an older one did not understand.
//
// The list of retired workloads is a document of its own beside it, of kind
// "retired-workloads": it outlives being managed, and its ages are rewritten
// every hour, which the configuration of some megabytes must not be. It is
// written before the configuration that retires a workload and tidied up after
// the one that brings it back, so that a crash in between leaves a workload in
// both, which counts as desired.
//
// It does not know who reads it, and nothing about transports.
package desired
