// Package devnode says whether the user of the workloads may open a device node
// of the host, and what a person has to do when not.
//
// It opens no device: opening a serial line moves its signals, and opening a
// watchdog starts it. It reads what the kernel would decide by instead: owner,
// group, mode and access control list of the node on the one side, and on the
// other the user with the groups that its service manager has, which are those
// of the moment at which that manager was started. Security modules and control
// groups are not looked at.
//
// A Table remembers what it was asked for and watches that alone. It may be used
// from any goroutine.
//
// It does not know what a workload is.
package devnode
