// Package doctor looks at the machine, piece by piece, for what keeps a device
// from working, and says what to do about each thing that it finds.
//
// It trusts nothing that the agent says: it works just the same when the agent
// does not run, cannot start, or was never installed completely. Everything it
// looks at goes through a Host, so that each failure can be had in a test.
//
// Invariants: nothing is changed, on this machine or elsewhere; the checks run
// side by side, each for a bounded time, and one that hangs costs only its own
// finding; the order of findings is always the same. No finding holds a secret.
//
// It knows files, sockets and commands, and neither the agent's settings nor the
// desired state: what is to be looked at is handed to it as a Subject.
package doctor
