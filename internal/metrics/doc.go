// Package metrics brings samples to a remote-write receiver, through any outage.
//
// Put writes what was scraped to a spool on disk; Run sends from there. What was
// put stays until the receiver has answered, across restarts and power cuts, or
// until the retention of the configuration drops the oldest, which is counted.
// Without a receiver samples are kept the same way: one may be configured later.
//
// Invariants:
//   - Samples arrive at least once, and those of a target in the order they were
//     put. What arrives twice after a crash is at most one request and what was
//     acknowledged in the last minute before a power cut.
//   - A request has at most the samples that the configuration says and about
//     2 MiB before compression, so memory does not grow with what waits.
//   - A receiver that takes nothing loses nothing: every answer that is not
//     clearly a refusal is tried again. A refusal loses what was refused, and at
//     most one request's worth for each step of a growing pause.
//   - The disk sees one write for each scrape, one for each answer, and at most
//     two fsyncs in a minute, see package diskq.
//
// Old data and new. Receivers want the samples of a series in order, so the spool
// is sent in order, and fresh samples wait behind old ones. For that not to take
// hours, a backlog is sent much faster than it grew: a full request each second,
// which with the defaults is 10,000 to 30,000 samples, a hundred times and more
// what 20 targets give in that time. For that not to take the whole line, a
// slow one rests after each request as long as the request took, up to 5 seconds.
// With nothing left to catch up, there is one request in 5 seconds at most.
//
// What a receiver complains about. Prometheus refuses a whole request for one
// sample that is out of order, as after a crash, or that it does not like. So
// what is complained about is sent again in halves, until a scrape is alone: if
// it is out of order the receiver has it and it counts as replayed, otherwise it
// is dropped and counted. No scrape is sent alone more than once for it.
//
// A receiver takes what a device has kept for days only when it is configured
// for that: Prometheus needs storage.tsdb.out_of_order_time_window. What is too
// old for it is counted, and shows as a problem.
//
// The package must not know where samples come from.
package metrics
