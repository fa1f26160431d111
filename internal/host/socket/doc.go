// Package socket tells which sockets of the host take connections or datagrams,
// and which process holds each of them, from what the kernel shows in /proc.
//
// Invariants: a process that ends while it is looked at, or that may not be
// looked at, costs what would have been known of it and nothing else. What was
// found once is not searched for again: as long as the same process holds the
// same socket, it takes one readlink to know. Everything that other programs
// can write, such as the name of a process, comes out bounded and printable.
//
// It sees the sockets of one network namespace, its own: those of containers
// are no sockets of the host. It does not know whose a unit is; the caller says.
package socket
