package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"fmt"
)

// Sizes of RSA keys that are accepted, in bits. The upper bound keeps the work
// of verifying a signature of a stranger small.
const (
	minRSABits = 2048
	maxRSABits = 8192
)

// Request is a certificate request whose signature was verified: whoever sent
// it holds the private key.
type Request struct{ csr *x509.CertificateRequest }

// CertificateRequest returns a request for id, signed with key, as PEM.
func CertificateRequest(key crypto.Signer, id string) ([]byte, error) {
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject: pkix.Name{CommonName: id},
	}, key)
	if err != nil {
		return nil, fmt.Errorf("create certificate request: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: blockRequest, Bytes: der}), nil
}

// ParseRequest reads a PEM certificate request and verifies its signature. Keys
// must be EC P-256, or RSA of 2048 to 8192 bits.
func ParseRequest(text []byte) (*Request, error) {
	der, _, err := findBlock(text, blockRequest, "NEW CERTIFICATE REQUEST")
	if err != nil {
		return nil, fmt.Errorf("parse certificate request: %w", err)
	}
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return nil, fmt.Errorf("parse certificate request: %w", err)
	}
	switch pub := csr.PublicKey.(type) {
	case *ecdsa.PublicKey:
		if pub.Curve != elliptic.P256() {
			return nil, fmt.Errorf("parse certificate request: curve %s, want P-256", pub.Curve.Params().Name)
		}
	case *rsa.PublicKey:
		if bits := pub.N.BitLen(); bits < minRSABits || bits > maxRSABits {
			return nil, fmt.Errorf("parse certificate request: RSA key of %d bits, want %d to %d", bits, minRSABits, maxRSABits)
		}
	default:
		return nil, fmt.Errorf("parse certificate request: unsupported key type %T", csr.PublicKey)
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, fmt.Errorf("verify certificate request: %w", err)
	}
	return &Request{csr: csr}, nil
}

// CommonName returns the name that the sender gave itself. It proves nothing.
func (r *Request) CommonName() string { return r.csr.Subject.CommonName }

// Fingerprint identifies the public key: the SHA-256 of its encoding
// (SubjectPublicKeyInfo) in lower-case hexadecimal.
func (r *Request) Fingerprint() string { return fingerprint(r.csr.RawSubjectPublicKeyInfo) }

// Fingerprint identifies the public key of a certificate, as Request.Fingerprint
// does for the one of a request.
func Fingerprint(cert *x509.Certificate) string { return fingerprint(cert.RawSubjectPublicKeyInfo) }

func fingerprint(subjectPublicKeyInfo []byte) string {
	sum := sha256.Sum256(subjectPublicKeyInfo)
	return hex.EncodeToString(sum[:])
}
