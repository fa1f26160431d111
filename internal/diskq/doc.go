// Package diskq is a bounded first-in first-out queue on disk with an
// acknowledged position, for what has to be delivered later: events, logs,
// metrics.
//
// Invariants: an entry that Append took stays until it is acknowledged, dropped
// because a bound was hit (oldest first, and counted), or lost to a damaged disk
// (counted where the damage shows). Entries come out in the order they went in,
// at least once: after a crash those whose acknowledgement was not on disk yet
// come again. A crash at any instruction, a torn tail and flipped bits cost at
// most the entries that they hit.
//
// How often it writes: an append is one write of its entries and 32 bytes each,
// an acknowledgement one of 48 bytes. With Config.SyncEvery 0, each is followed
// by an fsync. Otherwise there are at most two, of segment and cursor, in that
// time, however much comes and goes, and none while nothing does; SyncBytes asks
// for one earlier. Entries of 10 kB cost 1.01 bytes on the disk for each byte that
// is delivered, entries of 200 bytes 1.17.
//
// Age is counted so that a clock that is set drops nothing, see clock.go. On a
// full disk Append fails and leaves everything as it was, and what is
// acknowledged makes room.
//
// A Queue may be used from any goroutine, by one process at a time. The bytes on
// disk are described in FORMAT.md.
//
// It is a leaf: it knows bytes, not what they mean.
package diskq
