// Package syslog speaks the syslog protocol: RFC 5424 messages over tcp with
// octet counting (RFC 6587), tls (RFC 5425) and udp (RFC 5426).
//
// It owns the bytes of a message and one connection at a time. It must not know
// where lines come from, how they are kept, or when to try again.
//
// Choices where the standards leave one:
//
//   - The enterprise number in the SD-ID is 32473, the one that RFC 5612 sets
//     aside for examples, because the project has none of its own. Whoever has
//     one sets Format.SDID.
//   - There is no byte order mark in front of the text: receivers hand it on as
//     a part of the line. By the letter that makes the text MSG-ANY, but it is
//     valid UTF-8 always: every byte that is not becomes \xHH, and so do NUL and
//     line feed, at which receivers cut. All other control characters pass.
//   - A line that does not fit into one message becomes several, cut between
//     characters, with a parameter part="2/3" in each. Nothing is left out.
//   - Header fields are printable ASCII; any other byte in them becomes "?",
//     and what is too long is cut.
//
// Syslog has no acknowledgement. What was written into a connection that breaks
// may or may not have arrived, so Conn.Confirm waits until the receiver's kernel
// has acknowledged every byte, and then a moment longer with the connection
// alive: a receiver that dies with lines in its socket's buffer resets the
// connection. What it has read and not yet kept is lost with it; no sender can
// know of that. By udp nothing is known but that the port was not closed.
package syslog
