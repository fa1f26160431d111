// Package datasync moves files between the /export folders of workloads and one
// bucket, in both directions, every few seconds.
//
// It owns the volume folders while it touches them, the temporary files it makes
// there, and an index on disk that says what was already transferred. Each
// workload and direction is worked on by a goroutine of its own, so that none
// holds up another; all of them share one bound on concurrent transfers, see
// lanes.go. A cycle is scan, pure plan, transfer, record; large transfers outlive
// the cycle that launched them, and nothing launches a path twice.
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
//   - An egress cycle that finds nothing to do makes no request, and looks at no
//     file.
//
// The kernel notifies of changes below what egress sends, see watch.go, and a
// cycle looks only at what these mark. All of it is walked over when a group
// starts, every Config.Walk, when somebody asks for a cycle, when notifications
// were lost, and, in every cycle, where the kernel has no more watches to give.
// What only a walk finds: what is written by way of a memory mapping that stays,
// and, a minute later, a change under the other name of a file that has several.
// Every Config.Audit the bucket is listed, and what vanished or changed there is
// sent again: of what a workload sends, the file on the device is the truth, and
// what somebody else puts in the place of its object is replaced.
//
// A file that was written a moment ago, or that somebody has open for writing,
// waits, but no longer than a minute: a log that is always written arrives.
//
// Conflicts: a downloaded file that the workload changed stays as it is until
// the object changes. Then the object wins, and what the workload wrote is kept
// beside it under the name with ".flotta-local" added; of several such versions
// the newest is kept. A downloaded file that the workload removed is downloaded
// again. A change of nothing but the permission bits is not sent.
//
// At the very moment of the change the two files are exchanged, and what comes out
// is kept too when it is not what was expected, or when somebody is writing to it.
//
// Small downloads are put on disk and into their places in batches. One of 8 MiB
// or more that is cut is continued: its first bytes stay under a temporary name,
// and the index has their length and digest, for whoever writes into the volume
// may write there as well.
//
// A workload that is retired sends what is in its volume until all of it has
// arrived, see Deliver, and downloads nothing more. When its volume is gone, the
// index forgets it.
//
// A device that is no longer managed sends what its workloads wrote last, see
// Flush, and downloads nothing more; then it forgets what it transferred.
//
// The index is described in index.go. It can be lost: egress then lists the
// bucket once and compares digests, ingress compares digests, and neither
// transfers what is already there. What other programs sent is known by its ETag,
// see etag.go.
//
// It may not know the life cycle of workloads, nor how its configuration came to
// the device. Only the package s3 below it knows the store's protocol.
package datasync
