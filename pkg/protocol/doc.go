// Package protocol holds the messages that a device and its control plane
// exchange: the envelope of the Edge API and every document that travels in it.
//
// It owns the JSON shape and nothing else: no validation, no defaults, no I/O.
// The shapes are those of flotta v0.2 and are frozen; additions are optional
// fields only. Keys mix snake_case, camelCase and hyphens because the wire
// does. Arrays that flotta always sends, even when empty, carry no omitempty.
package protocol
