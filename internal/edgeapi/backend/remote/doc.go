// Package remote is the backend of the Edge API that asks a service of the
// user's: it is the client of the Edge Configuration API, which
// docs/edge-configuration-api.yaml describes.
//
// It owns how that service is reached (TLS, time-outs, retries, the circuit that
// leaves a dead service alone) and what its answers mean for a device. It knows
// nothing of the HTTP that devices speak, nor of certificates beyond its own.
//
// Invariants:
//   - only one answer ends the management of a device: 200 with the status
//     "unregistered". Whatever else comes, or does not come, is an error, and an
//     error never touches what a device runs;
//   - an answer that cannot be understood in full is an error: an empty object is
//     no empty configuration;
//   - an answer costs a bounded amount of memory and time, whatever it is;
//   - a call is repeated only if that can do no harm: reads and PUTs, which say
//     the same twice, and the enrolment when it never left this process;
//   - nothing is kept on disk, and what is kept in memory is bounded and may be
//     forgotten: caches of configurations, and the keys of registrations of the
//     last hour.
//
// # Who may register
//
// The service says of a device that it is "registered" (it has a certificate),
// "unknown" (it may register now) or "unregistered" (it is not managed). With the
// register certificate, which every new device holds, nobody can take over a
// device that is registered: that needs the device's own certificate. A device
// that did not hear the answer to its registration repeats it with the same key,
// so the key that was certified last is remembered for an hour, in this process
// only. After a restart, or at another replica, such a device is refused until
// the service says "unknown" of it again.
//
// The service keeps no keys, so Authorise cannot tell a device from an earlier
// one of the same name, whose certificate is good until it expires.
//
// All methods of Backend are safe for concurrent use.
package remote
