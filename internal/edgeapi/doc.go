// Package edgeapi is the server that devices talk to: HTTPS with client
// certificates, four endpoints, JSON envelopes.
//
// It owns the answer to three questions: who is asking (authentication, by the
// verified leaf certificate and nothing else), may they (authorization, by
// directive), and what goes over the wire (status codes, envelopes, limits,
// time-outs). What devices there are, what they were told and what they
// reported is the Backend's.
//
// Invariants:
//   - identity is read from the leaf certificate after the leaf itself was
//     verified; whatever else a client sends along is ignored;
//   - a device certificate speaks for the one device it names; a register
//     certificate asks to be managed and completes a first registration, and
//     does nothing else; an expired certificate renews itself and nothing else;
//   - the answers of handlers to errors have no body, because yggd takes any
//     body of a GET for a message; only what is wrong with the HTTP request
//     itself (path, method, content type, syntax) is explained in a body;
//   - a request costs a bounded amount of memory and time, and a panic costs one
//     request;
//   - the server keeps no state of devices, so any number of replicas may serve.
//
// What remains of the race for a first registration: enrolment carries no key,
// so an administrator approves a name and not a machine. Whoever holds a register
// certificate and is first to register an approved name gets its certificate.
// The registration works once: it records the key, and afterwards only that key or
// the device's own certificate can repeat it, so the machine that came second is
// refused, and seen in the log, rather than let in.
//
// Every exported method is safe for concurrent use unless it says otherwise.
package edgeapi
