// Package playbook runs the Ansible playbooks that the control plane has for the
// device, one after another.
//
// It is in two processes. A Runner, in the agent, asks for playbooks, decides
// whose turn it is, and reports. Execute is the main process of a unit of the
// system's systemd, flotta-playbook@.service, and runs one playbook: so a run goes
// on when the agent ends or is upgraded, and systemd ends with it all that it has
// started. They share a folder for each attempt, named by its digest:
//
//	playbooks.json        the index: what is remembered of each run (Runner)
//	<digest>.<attempt>/
//	    request.json      what to do; without the playbook, once that is over (Runner)
//	    phase.json        how far it is: TargetVerification, Running (Execute)
//	    result.json       how it ended (Execute)
//	    output            beginning and end of what it printed (Execute)
//	    work/, home/      what Ansible reads, and scratch; only during the run (Execute)
//	    lock              held during the run (Execute)
//
// Invariants: a run is known by a digest of the playbook, its options, its name and
// its id, and one digest is executed once, or, with RetryOnFailure, a few times.
// That it is Running is on disk before Ansible may change anything, and Execute
// refuses what is: whatever is killed and whenever, nothing is executed twice by
// accident. A run that has no result when its unit is gone was interrupted. What
// had not come to Running has changed nothing, and is begun again. At most one
// playbook runs on the device. A run that has begun goes on to its end, though the
// control plane asks for it no more; its result is reported until it was
// delivered, and remembered beyond that, as long as there is room. An answer that
// makes no sense changes nothing.
//
// Nothing of the wire is an option of a program, or a part of a path: names become
// digests, and what is left was checked and stands behind an equals sign.
//
// Known limits: when the index and a request are both damaged, that run is
// forgotten. Of states that last for less than the time between two heartbeats the
// control plane hears nothing.
package playbook
