package identity

import (
	"bytes"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/project-flotta/flotta-agent/internal/pki"
)

const certificateBlock = "CERTIFICATE"

// key is a private key.
type key = crypto.Signer

// pair is a certificate and its key.
type pair struct {
	leaf *x509.Certificate
	text []byte // PEM: certificates, then the key
}

// names reports whether p is the certificate of the device id. The server
// compares names in the same way.
func (p *pair) names(id string) bool { return strings.EqualFold(p.leaf.Subject.CommonName, id) }

// newPair joins what a certificate file and a key file hold; both may be the
// same combined text. It accepts exactly what crypto/tls, and with it yggd,
// loads from the two.
func newPair(certText, keyText []byte) (*pair, error) {
	loaded, err := tls.X509KeyPair(certText, keyText)
	if err != nil {
		return nil, err
	}
	leaf, err := x509.ParseCertificate(loaded.Certificate[0])
	if err != nil {
		return nil, err
	}
	var text bytes.Buffer
	for _, der := range loaded.Certificate {
		_ = pem.Encode(&text, &pem.Block{Type: certificateBlock, Bytes: der})
	}
	block := findKey(keyText)
	if block == nil {
		return nil, errors.New("no private key")
	}
	_ = pem.Encode(&text, block)
	return &pair{leaf: leaf, text: text.Bytes()}, nil
}

// findKey returns the block that crypto/tls takes the key from.
func findKey(text []byte) *pem.Block {
	for {
		var block *pem.Block
		block, text = pem.Decode(text)
		if block == nil {
			return nil
		}
		if block.Type == "PRIVATE KEY" || strings.HasSuffix(block.Type, " PRIVATE KEY") {
			return block
		}
	}
}

// accept checks a certificate that was issued for key and returns it with the
// key. Only the certificate itself is kept: servers of flotta v0.2 judge every
// certificate that a device presents as if it were the device's.
func (d *Device) accept(certPEM []byte, key key, roots *x509.CertPool) (*pair, error) {
	leaf, err := pki.ParseCertificate(certPEM)
	if err != nil {
		return nil, err
	}
	keyPEM, err := pki.EncodeKey(key)
	if err != nil {
		return nil, err
	}
	next, err := newPair(pem.EncodeToMemory(&pem.Block{Type: certificateBlock, Bytes: leaf.Raw}), keyPEM)
	if err != nil {
		return nil, err
	}
	if !next.names(d.cfg.Settings.DeviceID) {
		return nil, fmt.Errorf("it is for %q, not for %q", leaf.Subject.CommonName, d.cfg.Settings.DeviceID)
	}
	if leaf.IsCA {
		return nil, errors.New("it is the certificate of an authority")
	}
	return next, d.checkIssuer(leaf, roots)
}

// authorities reads the certificates that the server's own is verified with;
// nil when there are no such files.
func (d *Device) authorities() (*x509.CertPool, error) {
	if len(d.cfg.Settings.CAFiles) == 0 {
		return nil, nil //nolint:nilnil // documented
	}
	roots := x509.NewCertPool()
	for _, path := range d.cfg.Settings.CAFiles {
		text, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("read authorities: %w", err)
		}
		roots.AppendCertsFromPEM(text)
	}
	return roots, nil
}

// checkIssuer verifies leaf against roots, unless they are nil.
func (d *Device) checkIssuer(leaf *x509.Certificate, roots *x509.CertPool) error {
	if roots == nil {
		return nil
	}
	options := x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, CurrentTime: time.Now()}
	_, err := leaf.Verify(options)
	var invalid x509.CertificateInvalidError
	if !errors.As(err, &invalid) || invalid.Reason != x509.Expired {
		return err
	}
	// It is the server's clock that counts, and many devices have a bad one.
	options.CurrentTime = leaf.NotAfter
	if _, late := leaf.Verify(options); late != nil {
		return err
	}
	d.cfg.Log.Warn("issued certificate is not valid now: is the clock right?",
		slog.Time("not_before", leaf.NotBefore), slog.Time("not_after", leaf.NotAfter))
	return nil
}
