// Package scrape reads what one target exposes, as a Prometheus server does: it
// asks for the page, parses it, chooses, puts labels on and says which series
// have ended.
//
// It owns the two text formats, OpenMetrics 1.0 and the older one of
// Prometheus. It must not know which targets there are, when they are read, or
// what becomes of the samples; the way to a target is handed in.
//
// Invariants:
//   - A page counts whole or not at all: what is cut off, too large or wrong in
//     one line gives no samples, but an error that names the line, and up is 0.
//   - Memory is bounded by Limits, whatever a target answers.
//   - A series that was given and is gone, or whose target fails or goes away,
//     ends with one marker, unless the target gave it a time of its own.
//
// Names outside of the characters that metrics always had are refused: they are
// not asked for, and many receivers do not take them.
//
// The parser is our own because the one of Prometheus comes with a second
// library of protocol buffers and a graph of modules that moves the versions of
// ours. A test compares the two.
package scrape
