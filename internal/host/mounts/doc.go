// Package mounts tells what is mounted where, and when that changes, from what
// the kernel shows of it.
//
// Invariants: what it says is what the kernel says at that moment. A folder that does not exist is a folder where nothing is mounted.
// It never touches a file system to find out about it, and so does not hang when
// one of them does; only the way to a folder is followed, for it may lead
// through symbolic links (/mnt is one on some systems) and the kernel names
// mount points by their real paths.
//
// It mounts nothing, and knows nothing of who needs a mount.
package mounts
