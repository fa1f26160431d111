// Package pki is the certificate profile of flotta: the authority of the Edge
// API, what it issues, and how a presented certificate is judged.
//
// It owns the names in certificates (common name, organisation, unit), their
// key usages and lifetimes, and the decision whether one certificate, taken by
// itself, was issued by the authority. It knows nothing of files, connections,
// requests or devices beyond their identifier and namespace.
//
// Invariants:
//   - every serial number is 128 random bits;
//   - a device certificate is issued only to the holder of the private key: the
//     signature of the request is verified, and nothing of the request but its
//     public key is taken over;
//   - no certificate outlives the authority that signed it;
//   - Verify looks at one certificate and never at what was sent along with it.
//
// It is a leaf: it imports the standard library only. Values are immutable
// after construction and safe for concurrent use. No function blocks.
package pki
