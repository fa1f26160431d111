// Package collect decides what is measured on the device, and when: which
// containers of which workloads, the node exporter, and the agent itself.
//
// It owns one loop for each target. It must not know what becomes of the
// samples: Put takes them.
//
// Invariants:
//   - Targets follow the newest snapshot and the containers that run. A target
//     that is gone ends all its series; an agent that stops ends none, because
//     it goes on with them when it is started again.
//   - A target is read at the same instants of its interval before and after a
//     restart, and targets are spread over the interval. One scrape of a target
//     never overlaps another one; one that takes too long leaves the next ones
//     out.
//   - A device that was told nothing, or that is no longer managed, measures
//     nothing.
//
// The containers of a pod share one network, so an address that the
// configuration gives to several of them is read once, not once for each. Its
// samples carry the name of the container that is known to listen there: the one
// whose own entry says so, else the one that declares the port, else the only
// one. What cannot be told carries none.
package collect
