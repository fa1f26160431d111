// Package apply makes the mounts of the configuration be what is mounted: block
// devices at folders, through mount units of the system's systemd, so that they
// survive reboots and come before the workloads.
//
// It owns the unit files whose first line says so, and what they mount; nothing
// else is known of earlier times, so that a start from any state goes on where
// that state is.
//
// Invariants:
//
//   - A unit is written only for a device that was seen to be a block device, and
//     enabled only after it was seen to be mounted. A unit on the disk is changed
//     or removed only while nothing is mounted by it, or in what makes no
//     difference to the mount. So what is mounted by a unit of ours is what its
//     file says, whenever the agent or the device was killed.
//   - Nothing is unmounted by force or lazily, nor as long as somebody is seen to
//     use it: a process, a container, a mount below it, a unit that systemd would
//     stop together with it. It stays as it is, and that is said.
//   - What somebody else mounts, by hand, by a unit or in /etc/fstab, is never
//     touched. What Config.Former names, and is mounted just as it is configured, is
//     given a unit and stays mounted as it is, without nosuid and nodev, until the
//     next boot.
//   - A message cannot write anything into a unit but the four values, none of
//     which means anything to systemd but itself; and nothing is mounted outside
//     of the allowed folders, at, above or below what is the system's, or behind
//     a link that somebody but root could change. All mounts are nosuid and nodev.
//   - A device that is not there, or a mount that fails, holds up a boot for
//     DeviceTimeout at most and is never fatal to it. No file system is checked
//     (fsck): systemd answers an error of it with emergency mode.
//
// Concurrency: Run and Clear take turns; the rest may be called at any time.
//
// It does not know what a workload is but for the unit that it runs below.
package apply
