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
// A Queue may be used from any goroutine, by one process at a time. The bytes on
// disk are described in FORMAT.md.
//
// It is a leaf: it knows bytes, not what they mean.
package diskq
