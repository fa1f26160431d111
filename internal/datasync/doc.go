// Package datasync moves files between the /export folders of workloads and one
// bucket, in both directions, every few seconds.
//
// It owns the volume folders while it touches them, the temporary files it makes
// there, and an index on disk that says what was already transferred. Each
// workload and direction is worked on by a goroutine of its own, so that none
// holds up another; all of them share one bound on concurrent transfers. A
// cycle is scan, pure plan, transfer, record.
//
// Invariants:
//   - Nothing is opened, written or renamed outside of a workload's folder: all
//     access goes through os.Root, and the last component of a path is never
//     followed when it is a symbolic link. Only regular files are read.
//   - The index never claims more than what happened: an entry is written after
//     the transfer was seen to be whole, and for a download after file and
//     folder are on disk. A kill at any instruction costs repeated work, never a
//     wrong entry.
//   - A reader of a downloaded file sees the old content or the new one.
//   - Nothing is deleted in the bucket, and what is deleted in the bucket stays
//     on the device.
//   - An egress cycle that finds nothing to do makes no request.
//
// Conflicts: a downloaded file that the workload changed stays as it is until
// the object changes. Then the object wins, and what the workload wrote is kept
// beside it under the name with ".flotta-local" added; of several such versions
// the newest is kept. A downloaded file that the workload removed is downloaded
// again. A change of nothing but the permission bits is not sent.
//
// A device that is no longer managed sends what its workloads wrote last, see
// Flush, and downloads nothing more; then it forgets what it transferred.
//
// The index is described in index.go. It can be lost: egress then lists the
// bucket once and compares digests, ingress compares digests, and neither
// transfers what is already there.
//
// It may not know the life cycle of workloads, nor how its configuration came to
// the device. Only the package s3 below it knows the store's protocol.
package datasync
