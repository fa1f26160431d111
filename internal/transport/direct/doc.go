// Package direct carries messages over HTTPS straight to the Edge API, on hosts
// without a yggd that has gRPC workers.
//
// It speaks what yggd speaks: it asks at data/in and control/in of the device
// and posts to data/out. Beyond yggd it sends If-None-Match, so that an unchanged
// configuration costs a few hundred bytes, and reads the status of an answer.
//
// # Invariants
//
//   - Messages reach the handler strictly one at a time, in the order of arrival.
//     A configuration that the handler refuses is asked for again after a while,
//     whatever its ETag.
//   - What was asked for with one credential is not handed on once another one is
//     in its place: the answer is about the life before.
//   - A credential that is exchanged on the disk is used from the next request on,
//     on new connections. One that cannot be read leaves the last one in use.
//   - Nothing but the end of its context ends Run. Without the network it asks at
//     growing intervals, up to Config.MaxPause, and again at the normal ones as
//     soon as one answer came.
//   - Answers are read up to a limit and never trusted to be what was asked for.
package direct
