// Package osupdate makes a host run the operating system that the configuration
// names: a commit of ostree through rpm-ostree, or an image through bootc.
//
// Invariants: what is to be done is on disk before it is done, so a kill or a
// power cut between any two instructions leaves the old operating system or the
// new one, and the next start knows which, by the id that the kernel gives each
// boot and by what the tool says is booted; no clock decides anything. A goal is
// looked up before the host is touched. Only the url of the remote that the host
// comes from is written, and only that; only what was staged here, in this boot,
// is removed. A goal that was booted and is not running any more, for whatever
// reason, is not tried again until the configuration names another one, and so
// is one that somebody has replaced: nobody is fought. A reboot is asked for
// only where the configuration says so, and at most MaxReboots times in vain.
// What was done before a reboot that does not come is undone.
//
// The phases:
//
//	idle        nothing, or the goal failed
//	looked-up   the goal can be fetched
//	staging     the tool may be at it; what it stages from here on is ours
//	staged      the next reboot is into the goal, whoever asks for it
//	draining    what is to be done before the reboot is being done
//	rebooting   the reboot was asked for
//	confirming  the goal is booted, and not known to work
//	done        it does
//
// After a boot: the goal runs (confirming); what ran before runs again and the
// goal's deployment is still on the disk, or greenboot has left a note (failed);
// the goal never became a deployment (once more); something else runs (failed:
// somebody has replaced it).
//
// A device that was not healthy before an update need not be healthy after it:
// the operating system is not to blame, and may be the cure.
//
// On a host without such a tool nothing is done; where the configuration wants
// something there is a problem that says so.
//
// What is verified how. With the build tag integration, the ostree that the
// distribution ships looks commits up, in folders and at a web server, and reads
// the files of remotes that were edited here; without it, a stand-in that checks
// its arguments. The command lines of rpm-ostree, bootc and skopeo are run for
// real, but against stand-ins, which check every argument, answer in the JSON
// that the tools document, and stage, lose, refuse and die in ways that were
// reported of them; a machine that boots is simulated on top, with its power cut,
// or the agent killed, at every step. The scripts of greenboot are run by the
// shells that it uses. In test/e2e, a booted device with a stand-in for rpm-ostree
// is rebooted by its systemd, power cut included. No real rpm-ostree, bootc or
// greenboot has run with this package.
//
// It does not know what a workload is, how a machine is rebooted, or what it is
// to be healthy.
package osupdate
