// Package heartbeat reports the state of the device: it pulls what the
// components publish, sends it at the period of the newest snapshot and soon
// after something changed, and keeps events until they are acknowledged.
//
// Invariants:
//   - An event that Event took is on disk and is delivered at least once, in
//     order: it leaves the queue only after an answer 2xx.
//   - Beats never run in step across a fleet: every wait is jittered, and after
//     a failure it grows.
//   - Hardware is sent whole or not at all. flotta v0.2 replaces all that it has
//     by what a beat carries, so a report of only what changed would clear the
//     rest. Scope "delta" therefore means: whole when any part changed since the
//     last beat that arrived, and absent otherwise.
//   - A device that is no longer managed reports nothing.
//   - The version of the snapshot is echoed. A snapshot that differs in nothing
//     but its version causes no beat: flotta v0.2 renames the configuration
//     after each beat that brings news, and the two would chase each other.
//
// It imports no reconciler: the composition root hands it a function that
// collects what they say.
package heartbeat
