// Package series holds what was measured: samples with their labels, and the
// encoding in which a scrape waits on the disk.
//
// An entry is what one target answered at one moment, or a part of it when that
// is much. It stands for itself: no other entry is needed to read it, so any of
// them may be dropped. See codec.go for its bytes.
//
// It is the leaf of package metrics. It must not know where samples come from
// or where they go.
package series
