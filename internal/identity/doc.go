// Package identity owns who the device is: its key, its certificate, and how it
// comes to have them. It enrols, waits to be approved, registers, and puts the
// new credential in the place of the register credential that the device was
// delivered with; renews it; and gives it back in the end. It knows the two files and the directives of that, and no
// more: no workloads, no transport.
//
// # Registration and lost answers
//
// A register certificate is good for the first registration only. The new key
// is on disk before the request for its certificate is sent, and the same key
// is used until a certificate for it is in place, so that a device whose answer
// was lost can ask again: the Edge API accepts a repeated first registration of
// the same key.
//
// # The credential on disk
//
// Transports are configured with two paths, one for the certificate and one for
// the key. Two files cannot be replaced as one, so both paths are made symlinks
// to one file in the folder of the key:
//
//	flotta-credentials.pem           certificate, then key; mode 0600
//	flotta-credentials-pending.pem   a key that has no certificate yet
//	flotta-credentials-register.pem  the register credential, kept so that the
//	                                 device can enrol again
//
// The change to symlinks is three renames. Before the first one the old
// certificate and key are copied into the combined file, so at every moment
// both paths lead to a certificate and a key that belong together. From then on
// a new credential is one rename. When both paths are configured to be the same
// file, it is one rename from the start.
//
// The certificate comes first in the file because yggd looks for its name in
// the first block. A program that reads the two paths one after the other while
// the rename happens can still see one half of each credential; yggd then keeps
// what it had, and is woken again afterwards.
//
// # Waking yggd
//
// yggd watches the files that it found behind its paths when it started, and
// reads the paths again when one of these files is closed after writing. A
// rename is not seen by it, and takes a watched file away. So every file that
// may be watched is opened for writing before the change and closed after it,
// with nothing written. The files of its certificate authorities are never
// replaced here, which makes them the ones that still work at the second change
// under the same yggd; without any, yggd has to be started again after it, which
// is left to Config.Unnoticed.
//
// # Renewal
//
// From two thirds of its life time on, plus a share of a tenth that its own
// digest decides, a certificate is renewed: a new key, on disk before it is
// certified, and a request with the certificate in place, which may have
// expired. The same is done at once when the control plane refuses the
// certificate. Failures are repeated with growing pauses, which shrink as the
// end comes near. The wall clock only says when to begin; it may be wrong by any
// amount, and what bounds the number of attempts is the monotonic clock.
//
// # The way back
//
// Surrender puts the register credential in the place of the device's, by the
// same steps. The device then enrols as one that was never seen. Held keeps the
// device from asking for anything until the rest of its former life is cleared
// away: a device that was approved anew meanwhile would otherwise spend the
// approval on a certificate that is about to be given back.
package identity
