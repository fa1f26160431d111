// Package systemd is a client of one systemd manager over D-Bus: the system's,
// or that of a user whose units root looks after.
//
// It owns the connection, which it opens when it is needed and opens again
// after it broke, and the waiting for jobs. It knows no policy: no retries, and
// no idea of what a unit runs.
//
// It talks to the manager's private socket rather than to a message bus: that
// is there before any bus is and needs none, and a user's bus refuses root while
// the user's manager does not.
package systemd
