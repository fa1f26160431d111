package pki

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"
	"time"
)

const (
	// Organization is the O of every certificate of flotta.
	Organization = "flotta-operator"
	// RegisterName is the CN of the register certificate, and therefore no
	// possible name of a device.
	RegisterName = "register"
)

// Lifetimes of what an Authority issues.
const (
	AuthorityLifetime     = 10 * 365 * 24 * time.Hour
	ServerLifetime        = 365 * 24 * time.Hour
	RegisterLifetime      = 365 * 24 * time.Hour
	DefaultDeviceLifetime = 30 * 24 * time.Hour

	// backdate is how far in the past a certificate starts to be valid: the
	// clock of a device that was just unpacked may be behind.
	backdate = 24 * time.Hour
)

// Authority is a certificate authority: a certificate and its private key.
type Authority struct {
	cert *x509.Certificate
	key  crypto.Signer
	pool *x509.CertPool
}

// NewAuthority creates a self-signed EC P-256 authority that is valid for
// AuthorityLifetime from now.
func NewAuthority(now time.Time) (*Authority, error) {
	key, err := NewKey()
	if err != nil {
		return nil, err
	}
	template, err := newTemplate(key.Public(), now, now.Add(AuthorityLifetime))
	if err != nil {
		return nil, err
	}
	template.KeyUsage = x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}
	template.IsCA = true
	template.BasicConstraintsValid = true
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("sign authority certificate: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("parse authority certificate: %w", err)
	}
	return newAuthority(cert, key), nil
}

// ParseAuthority reads an authority from PEM texts. The key may be an EC, a
// PKCS 8 or an RSA PKCS 1 block. It is an error when the certificate is not one
// of an authority or does not belong to the key; an expired one is accepted
// here and found out by CheckValidity.
func ParseAuthority(certPEM, keyPEM []byte) (*Authority, error) {
	cert, err := ParseCertificate(certPEM)
	if err != nil {
		return nil, fmt.Errorf("parse authority: %w", err)
	}
	key, err := ParseKey(keyPEM)
	if err != nil {
		return nil, fmt.Errorf("parse authority: %w", err)
	}
	if !cert.BasicConstraintsValid || !cert.IsCA {
		return nil, errors.New("parse authority: certificate is not one of an authority")
	}
	if cert.KeyUsage != 0 && cert.KeyUsage&x509.KeyUsageCertSign == 0 {
		return nil, errors.New("parse authority: certificate may not sign certificates")
	}
	if !samePublicKey(cert.PublicKey, key.Public()) {
		return nil, errors.New("parse authority: key does not belong to the certificate")
	}
	return newAuthority(cert, key), nil
}

func newAuthority(cert *x509.Certificate, key crypto.Signer) *Authority {
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return &Authority{cert: cert, key: key, pool: pool}
}

// CertificatePEM returns the authority's certificate.
func (a *Authority) CertificatePEM() []byte { return encodeCertificate(a.cert.Raw) }

// KeyPEM returns the authority's private key.
func (a *Authority) KeyPEM() ([]byte, error) { return EncodeKey(a.key) }

// NotAfter returns when the authority expires.
func (a *Authority) NotAfter() time.Time { return a.cert.NotAfter }

// CheckValidity returns an error when the authority is not valid at now.
func (a *Authority) CheckValidity(now time.Time) error {
	if now.Before(a.cert.NotBefore) {
		return fmt.Errorf("authority is not valid before %s", a.cert.NotBefore.Format(time.RFC3339))
	}
	if now.After(a.cert.NotAfter) {
		return fmt.Errorf("authority expired at %s: %w", a.cert.NotAfter.Format(time.RFC3339), ErrExpired)
	}
	return nil
}

// sign issues a certificate for pub from template and returns it as PEM.
func (a *Authority) sign(template *x509.Certificate, pub crypto.PublicKey, now time.Time) ([]byte, error) {
	if err := a.CheckValidity(now); err != nil {
		return nil, err
	}
	if template.NotAfter.After(a.cert.NotAfter) {
		template.NotAfter = a.cert.NotAfter
	}
	// The algorithm follows from the authority's key, not from the subject's.
	template.SignatureAlgorithm = x509.UnknownSignatureAlgorithm
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, pub, a.key)
	if err != nil {
		return nil, fmt.Errorf("sign certificate: %w", err)
	}
	return encodeCertificate(der), nil
}

// newTemplate returns what all certificates have in common.
func newTemplate(pub crypto.PublicKey, now, notAfter time.Time) (*x509.Certificate, error) {
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	id, err := keyID(pub)
	if err != nil {
		return nil, err
	}
	return &x509.Certificate{
		SerialNumber: serial,
		SubjectKeyId: id,
		Subject:      pkix.Name{Organization: []string{Organization}},
		NotBefore:    now.Add(-backdate),
		NotAfter:     notAfter,
		KeyUsage:     x509.KeyUsageDigitalSignature,
		// Without it, software that knows only version 1 takes a leaf for an authority.
		BasicConstraintsValid: true,
	}, nil
}

// newSerial returns 128 random bits. The top bit of the first of 17 bytes stays
// clear, so the number is positive and its encoding within the 20 bytes allowed.
func newSerial() (*big.Int, error) {
	for {
		b := make([]byte, 16)
		if _, err := rand.Read(b); err != nil {
			return nil, fmt.Errorf("draw serial number: %w", err)
		}
		if serial := new(big.Int).SetBytes(b); serial.Sign() > 0 {
			return serial, nil
		}
	}
}

// keyID is the subject key identifier of RFC 7093, method 1: the leftmost 160
// bits of the SHA-256 of the public key's bit string.
func keyID(pub crypto.PublicKey) ([]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return nil, fmt.Errorf("encode public key: %w", err)
	}
	var info struct {
		Algorithm pkix.AlgorithmIdentifier
		Key       asn1.BitString
	}
	if _, err := asn1.Unmarshal(der, &info); err != nil {
		return nil, fmt.Errorf("decode public key: %w", err)
	}
	sum := sha256.Sum256(info.Key.Bytes)
	return sum[:20], nil
}

func samePublicKey(a, b crypto.PublicKey) bool {
	x, errX := x509.MarshalPKIXPublicKey(a)
	y, errY := x509.MarshalPKIXPublicKey(b)
	return errX == nil && errY == nil && bytes.Equal(x, y)
}
