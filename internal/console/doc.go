// Package console lets the person at the device ask the agent how it is: HTTP
// over a unix socket, and the program's side of it, which shows the answer as a
// table, as JSON, as YAML, as metrics of Prometheus or as a view that stays up to
// date.
//
// It owns the socket, the document that goes over it, and how that is shown. It
// knows no component of the agent: what there is to say is collected by the one
// who puts the agent together. The document holds no secret, because whoever is
// in the group of the socket may read it. Nothing can be changed over it: all that
// can be asked for is that data paths are looked at now instead of soon.
//
// Workloads write parts of the document, down to the names of their files. On its
// way to a terminal all of it is made printable, so that no workload writes to the
// terminal of an administrator.
package console
