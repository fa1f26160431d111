// Package sync measures data synchronisation beside rclone, s5cmd, mc and the
// way flotta v0.2 went about it: the same files, the same server, one after the
// other in the same run.
//
// The measurements have the build tag bench; `make bench-sync` runs them with
// the programs they need. Every contender is a process of its own, so that its
// processor time and its memory can be told. Nothing here fails because a
// machine is slow, but for aims that count requests.
package sync
