// Package fleet is a load generator: simulated devices, each with a certificate
// and a connection of its own as yggd has, against a running Edge API.
//
// It shares the machine with what it measures, so it does no work for a request
// that can be done before: requests are built once for each device, as the bytes
// that go over the wire, and of an answer only the status is read. It speaks
// HTTP/2, which is what yggd negotiates, or HTTP/1.1.
//
// The measurements have the build tag bench; `make bench-edge-api` runs them.
// They fail on facts, such as an unexpected answer or a write to the API server
// that should not be, and never on a time.
package fleet
