// Package file is the backend of the Edge API that needs nothing but a folder:
//
//	manifests/                what the user writes: any *.yaml, *.yml, *.json below
//	requests/<id>.yaml        EdgeDeviceSignedRequests, one for each device that asked
//	devices/<ns>/<id>.yaml    EdgeDevices, with their status and that of their playbooks
//	events/<ns>/<id>.jsonl    what devices reported, the newest last
//	status/problems.yaml      what is wrong with the files, now
//	status/good/              copies of the last good versions of manifests
//	pki/                      the authority and the server's certificate
//
// Everything but manifests/ is written here, by atomic replacement, and may be
// edited by the user all the same: approving a request is writing "approved:
// true" into it, and removing the file of a device ends its management.
//
// Invariants:
//   - what a file said last while it could be read stays in force until it can be
//     read again or is removed, over restarts too; a broken document affects what
//     it describes and nothing else;
//   - a file that vanishes counts for a moment longer, and an empty one is not
//     read, because editors replace files by emptying or removing them first;
//   - nothing is told to a device that was derived from a file which could not be
//     read: a device is unmanaged only when its file is known to be gone;
//   - a file is written only when its content changes, and never over an edit of
//     the user: the file is read, changed and replaced under one lock, which the
//     administrator's commands take as well;
//   - what a device was promised (its registration, its events) is on disk before
//     the promise.
//
// The index in memory holds immutable objects under one mutex; whoever reads
// takes the objects of one moment. Files are read by the goroutine of Run and
// under the lock for writing. Lock order: disk before memory.
//
// The package knows nothing of HTTP and certificates beyond storing the server's
// own, see Keys.
package file
