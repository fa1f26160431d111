// Package logs brings what containers write to syslog receivers, once the
// network allows.
//
// It owns the spools of the targets and the record of how far each log was read.
// Lines go one way: package follow reads them, the spooler puts them into the
// spool (internal/diskq) of the target that the workload names, and a sender for
// each target takes them from there to package syslog.
//
// Invariants:
//   - The place up to which a log was read is on disk only after the lines in
//     front of it are. Being killed at any instruction loses nothing; it repeats
//     what was read since the places were saved last, at most every
//     Config.SyncEvery while lines come. A power cut does the same.
//   - An entry of a spool is acknowledged after the receiver's kernel had it and
//     the connection lived on for Config.Settle, see package syslog. Lines of
//     one container and stream arrive in their order, at least once. What comes
//     twice after a connection broke is at most the batch that was on its way:
//     256 lines at first, twice as many after each full batch that arrived, up
//     to 16,384 or 4 MiB, and half as many after each that did not.
//   - Memory is bounded: of each target no more lines wait for the spool than
//     its buffer_size allows. Then reading waits, and Podman keeps what comes.
//   - The disk is bounded: a spool drops its oldest lines when it has
//     Config.SpoolBytes, and counts them.
//   - One target that is slow or away holds up no other one.
//
// Decided here:
//   - A workload that names no target is not read. One that names a target which
//     the device does not have is not read either, and a problem says so; its
//     place is kept, so that its lines come when the target does. A target that
//     cannot be reached as it is configured takes lines into its spool.
//   - A place passes no line whose target has no open spool: a line that was read
//     before the readers hear of that is refused, and read again.
//   - A container whose driver keeps no lines that could be read is a problem. The
//     journal is followed only for those that are in it.
//   - A container whose log is collected for the first time is read from its
//     beginning.
//   - When a workload goes, what it has written is read to its end and delivered.
//   - The spool of a target that goes from the configuration stays for a week,
//     for the case that it comes back.
//   - buffer_size, in KiB, is the bound that it was before there were spools: of
//     the lines in memory. 0 is 12.
//
// What is written to disk: the lines, once; with each SyncEvery in which lines
// come, an fsync of each spool that took some and the document of the places, a
// few KiB; with each batch that was sent 48 bytes. Nothing when there is nothing
// to read.
//
// It must not know how a workload is run, nor how its configuration came.
package logs
