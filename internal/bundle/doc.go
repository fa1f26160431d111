// Package bundle packs what somebody elsewhere needs to understand a device into
// one archive, without a secret in it.
//
// It owns the archive (tar, gzip), its bound, its manifest and the redaction. It
// does not know where anything comes from: it is handed items, which it collects
// one by one, and the secrets that must not leave the device.
//
// Secrets go in three ways, each of which is meant to do alone:
//
//   - by place: in JSON, YAML and settings, the values of keys that are known to
//     hold one, of variables of containers, and of anything that is named like a
//     password are never taken over (Document, Settings);
//   - by look: private keys in PEM, credentials in URLs and in headers;
//   - by value: every secret that the device knows is searched for in all bytes,
//     also in base64 at any offset, percent-encoded, escaped as in JSON, and in
//     hexadecimal.
//
// Invariants: an item in which a secret is still found after that is left out as
// a whole, and the manifest says so; so is one that panics or takes too long. No
// archive is larger than its bound. Nothing is kept on the disk besides the
// archive, which only its owner may read.
package bundle
