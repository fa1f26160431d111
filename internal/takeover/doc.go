// Package takeover hands a host over from flotta v0.2, the worker of yggd that this
// agent replaces: what that one left running is run by this agent from then on.
//
// It owns the document takeover.json, of kind "takeover" and mode 0600, which says
// what was found and what is still to be done; and, until it is handed over, what
// is certain to be flotta v0.2's:
//
//   - a file of a worker of yggd whose program is called device-worker;
//   - a pod without a label of this agent's, one of whose containers has the folder
//     <data>/volumes/<name of the pod> as /export;
//   - a unit named after such a workload that Podman generated, or that plays
//     <data>/workloads/<workload>/workload.yaml;
//   - the files workload.yaml and auth.json there;
//   - a secret without labels that its saved configuration names, as long as all
//     containers there are are this agent's.
//
// Invariants:
//
//   - Everything else is left as it is, and most of what is certain as well: its
//     saved configuration, which is what a way back begins with, is only read.
//   - What was found is on disk before anything is changed, and every step can be
//     done again: after a kill or a power cut anywhere, the next start goes on.
//   - Its worker is ended, and seen to have ended, before anything else is done, so
//     that the two never work on one device.
//   - A volume keeps its files: it stays where it is, or is renamed with a link in its
//     old place. Where that cannot be done, because /etc and /var are two file systems or
//     two mounts of one, their folder is mounted at the agent's, by a unit of its own,
//     and without that mount the agent does not start.
//   - Its pod of a workload runs until the agent starts its own in its place, with
//     everything prepared: see Retire and Remove. A pod of a workload that is not
//     configured any more is removed. One of a workload that this agent cannot run is
//     kept.
//   - Pods of both never run at once: they have one name.
//   - Nothing in a folder that the user of the pods may write to is followed when it is
//     a link, and no file is read beyond a bound.
//
// The saved configuration is put into force only in the first take-over, and only when
// the device was told nothing: it goes the way of any message.
//
// Concurrency: Begin comes first and alone. Run runs once; all other methods may be
// called at any time.
//
// It does not know how workloads are run, nor how anything is transferred.
package takeover
