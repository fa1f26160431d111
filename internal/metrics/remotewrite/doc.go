// Package remotewrite speaks Prometheus remote write 1.0: it makes requests of
// samples, sends them, and says what an answer means for them.
//
// Invariants: a request holds each series once, its samples in the order they
// were given. An answer is never taken for a delivery because it was not
// understood. No error holds the user, the password or the query of the address.
// What a receiver sends back is read to a bound. Redirects are not followed:
// whoever holds a hotel's network must not be handed metrics.
//
// It must not know configuration or spool, and does not retry: what to do after
// an answer is its caller's business.
package remotewrite
