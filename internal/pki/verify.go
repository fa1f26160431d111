package pki

import (
	"crypto/x509"
	"errors"
	"fmt"
	"time"
)

var (
	// ErrUntrusted says that the authority did not issue the certificate, or
	// not for this use.
	ErrUntrusted = errors.New("certificate is not trusted")
	// ErrExpired says that a certificate is past its time and otherwise good.
	ErrExpired = errors.New("certificate expired")
)

// Verify judges leaf, and leaf alone: it returns nil when a issued it for usage
// and it is valid at now, an error that wraps ErrExpired when the only thing
// wrong with it is that its time has passed, and one that wraps ErrUntrusted
// otherwise. Certificates of authorities are never accepted as a leaf.
func (a *Authority) Verify(leaf *x509.Certificate, usage x509.ExtKeyUsage, now time.Time) error {
	if leaf == nil {
		return fmt.Errorf("no certificate: %w", ErrUntrusted)
	}
	if leaf.IsCA {
		return fmt.Errorf("certificate of an authority: %w", ErrUntrusted)
	}
	// An expired certificate is judged at the last moment of its validity, to
	// tell it from one that was never good.
	expired := now.After(leaf.NotAfter)
	at := now
	if expired {
		at = leaf.NotAfter
	}
	_, err := leaf.Verify(x509.VerifyOptions{
		Roots:         a.pool,
		Intermediates: x509.NewCertPool(),
		CurrentTime:   at,
		KeyUsages:     []x509.ExtKeyUsage{usage},
	})
	switch {
	case err != nil:
		return fmt.Errorf("%w: %w", ErrUntrusted, err)
	case expired:
		return fmt.Errorf("%w at %s", ErrExpired, leaf.NotAfter.Format(time.RFC3339))
	}
	return nil
}
