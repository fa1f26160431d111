// Package podman is a typed client of Podman's libpod REST socket: the few calls
// that an agent needs, over net/http.
//
// It owns the wire form of those calls and one error type for what Podman
// refuses. It knows no policy: no retries, no idea of what a workload is. It
// speaks API version 4.0.0, which Podman 4.2 and everything after it serves.
//
// Invariants: what Podman sends is read up to a bound and never further; a call
// without a deadline of its own gets one; methods may be called from any
// goroutine.
package podman
