// Package refbackend is a service that a fleet's configuration can come from: a
// small, complete implementation of the Edge Configuration API, to be copied and
// changed. Beside the standard library it needs the message types of pkg/protocol
// only. Command serve, in the folder of that name, makes a program of it.
//
// Devices are folders:
//
//	<namespace>/<id>/enrolment.json      what the device said of itself when it asked
//	<namespace>/<id>/approved            exists: the device may register and is managed
//	<namespace>/<id>/registration.json   exists: the device has its certificate
//	<namespace>/<id>/configuration.json  what it is to do; edit it, it is read every time
//	<namespace>/<id>/playbooks.json      what it is to run, when there is such a file
//	<namespace>/<id>/heartbeat.json      what it reported last
//	<namespace>/<id>/removed             exists: the device is no longer managed
//
// Approving is `touch approved`; see Store.Approve for approving anew. Removing
// is `touch removed`.
//
// What to keep when you copy it:
//
//   - a device is told to remove all that it runs by one answer: the status
//     "unregistered". It is given for devices with a tombstone, the file removed,
//     and never because nothing was found: a volume that is not mounted, or a
//     table that is empty after a restore, must not end a fleet;
//   - the client must be the Edge API. Every device has a certificate of the same
//     authority, so that a certificate is signed proves nothing: its name does;
//   - names become paths, so they are checked first;
//   - files are replaced, not overwritten, so that nobody reads half of one.
package refbackend
