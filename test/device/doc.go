// Package device boots edge devices on the test machine: systemd as PID 1, a
// network of their own, rootless Podman, and the files that the package ships.
//
// A device is a copy-on-write image of the host's own root, booted by
// systemd-nspawn. Its state (/etc, /var/lib/containers, /var/home, /var/local,
// the journal) is in folders on disk, so that it survives a power cut, which is
// a SIGKILL to all of it at once. Packets of the device reach the host's end of
// its cable, and nothing else.
//
// The package owns everything that a device leaves on the host, and removes it
// also when the test program is killed: a small shell process outside of it, the
// reaper, waits for the end of a pipe and then cleans up. A record in
// /run/flotta-device says what there is, so that Sweep can clean up even where
// the reaper was killed too. What the machine is like (cgroups, capabilities,
// Podman's defaults) is looked at, never assumed.
//
// It needs root, and knows nothing of the agent.
package device
