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
//   - The way out of being managed is one way: Leave, Withdraw, Forget. Each is
//     on disk before it is published, and no configuration is accepted between
//     the first and the last, so that what is being cleared away never comes
//     back.
//   - A damaged file is set aside and the device is as if it had been told
//     nothing, which changes nothing on it.
//
// The file is a document of internal/durable of kind "desired-state", mode
// 0600, because it holds secrets: the accepted message as it came, so that a
// newer agent finds what an older one did not understand.
//
// It does not know who reads it, and nothing about transports.
package desired
