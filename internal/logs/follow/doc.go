// Package follow reads what containers write, from where it was read last: from
// the journal for Podman's driver journald, and from its file for k8s-file.
//
// It hands each line on together with the Mark that stands behind it. Whoever
// takes the lines keeps the newest Mark of each source when the lines are safe,
// and hands it back at the next start; nothing is lost then, and what comes twice
// is what was taken since.
//
// Invariants:
//   - Lines of one container and stream come in the order in which they were
//     written. A line comes once as long as the Mark behind it is kept.
//   - A longer line than MaxLine comes in pieces that say so, each of less than
//     twice that; no more of it is in memory.
//   - What is not as it should be (a journal that was vacuumed, a file that was
//     rotated while nobody read, bytes that are no log) is told, and reading
//     goes on with what there is.
//   - A file is read only if it is a regular one of the user whose containers these
//     are: that user says where it is.
//
// It reads through programs and files that are Podman's and systemd's, never
// through Podman's API, whose following is not exact: up to 4.4 it shows nothing
// new of a journal when it is asked for what is older, and it cannot be asked
// for what came behind a given line.
//
// It must not know where lines go, nor which are wanted.
package follow
