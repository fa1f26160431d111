package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
)

// PEM block types.
const (
	blockCertificate = "CERTIFICATE"
	blockECKey       = "EC PRIVATE KEY"
	blockRSAKey      = "RSA PRIVATE KEY"
	blockPKCS8Key    = "PRIVATE KEY"
	blockRequest     = "CERTIFICATE REQUEST"
)

// maxPEMBytes bounds every PEM text that is read: the largest thing accepted, a
// certificate with an RSA key of 8192 bits and many names, is far below it.
const maxPEMBytes = 64 << 10

// NewKey creates an EC P-256 private key.
func NewKey() (*ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("generate key: %w", err)
	}
	return key, nil
}

// EncodeKey returns key as PEM: EC keys as "EC PRIVATE KEY", which flotta v0.2
// reads, RSA keys as "RSA PRIVATE KEY".
func EncodeKey(key crypto.Signer) ([]byte, error) {
	switch k := key.(type) {
	case *ecdsa.PrivateKey:
		der, err := x509.MarshalECPrivateKey(k)
		if err != nil {
			return nil, fmt.Errorf("encode key: %w", err)
		}
		return pem.EncodeToMemory(&pem.Block{Type: blockECKey, Bytes: der}), nil
	case *rsa.PrivateKey:
		return pem.EncodeToMemory(&pem.Block{Type: blockRSAKey, Bytes: x509.MarshalPKCS1PrivateKey(k)}), nil
	}
	return nil, fmt.Errorf("encode key: unsupported type %T", key)
}

// ParseKey reads the first private key of a PEM text: EC, PKCS 8 or RSA PKCS 1,
// of an EC or RSA key.
func ParseKey(text []byte) (crypto.Signer, error) {
	der, kind, err := findBlock(text, blockECKey, blockRSAKey, blockPKCS8Key)
	if err != nil {
		return nil, fmt.Errorf("parse key: %w", err)
	}
	var key any
	switch kind {
	case blockECKey:
		key, err = x509.ParseECPrivateKey(der)
	case blockRSAKey:
		key, err = x509.ParsePKCS1PrivateKey(der)
	default:
		key, err = x509.ParsePKCS8PrivateKey(der)
	}
	if err != nil {
		return nil, fmt.Errorf("parse key: %w", err)
	}
	switch k := key.(type) {
	case *ecdsa.PrivateKey:
		return k, nil
	case *rsa.PrivateKey:
		return k, nil
	}
	return nil, fmt.Errorf("parse key: unsupported type %T", key)
}

// ParseCertificate reads the first certificate of a PEM text.
func ParseCertificate(text []byte) (*x509.Certificate, error) {
	der, _, err := findBlock(text, blockCertificate)
	if err != nil {
		return nil, fmt.Errorf("parse certificate: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("parse certificate: %w", err)
	}
	return cert, nil
}

// ParseKeyPair reads a certificate and its private key. The two texts may be
// the same one holding both. It is an error when they do not belong together.
func ParseKeyPair(certPEM, keyPEM []byte) (*x509.Certificate, crypto.Signer, error) {
	cert, err := ParseCertificate(certPEM)
	if err != nil {
		return nil, nil, err
	}
	key, err := ParseKey(keyPEM)
	if err != nil {
		return nil, nil, err
	}
	if !samePublicKey(cert.PublicKey, key.Public()) {
		return nil, nil, errors.New("parse key pair: key does not belong to the certificate")
	}
	return cert, key, nil
}

func encodeCertificate(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: blockCertificate, Bytes: der})
}

// findBlock returns the first block of one of the kinds.
func findBlock(text []byte, kinds ...string) (der []byte, kind string, err error) {
	if len(text) > maxPEMBytes {
		return nil, "", fmt.Errorf("PEM text of %d bytes, at most %d are read", len(text), maxPEMBytes)
	}
	for rest := text; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return nil, "", fmt.Errorf("no PEM block %q", kinds[0])
		}
		for _, k := range kinds {
			if block.Type == k {
				return block.Bytes, k, nil
			}
		}
	}
}
