// Package netns dials from inside the network namespace of a process, so that
// what listens in a pod is reached without a published port.
//
// It owns the way into a namespace and back. It must not know whose namespace
// that is.
//
// Invariants:
//   - Only the making of the socket happens over there, on a thread of its own
//     and without waiting for anything. A socket stays in the namespace that it
//     was made in, so connecting and talking is done at home.
//   - A thread that cannot come back is ended and serves no other goroutine.
//   - A process is known by its number and the time that it began, so a number
//     that was given to another process leads nowhere.
//   - Addresses are IP literals: nothing is looked up, neither here nor there.
//
// It needs CAP_SYS_ADMIN over the user namespace that owns the network
// namespace, which root has on the host.
package netns
