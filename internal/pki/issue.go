package pki

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"slices"
	"time"
)

// maxCommonName is the upper bound that X.520 sets for a common name.
const maxCommonName = 64

// KeyPair is a certificate and its private key, both as PEM.
type KeyPair struct {
	CertPEM []byte
	KeyPEM  []byte
}

// ServerProfile is what the certificate of a server vouches for. At least one
// name or address is required.
type ServerProfile struct {
	DNSNames []string
	IPs      []net.IP
	Lifetime time.Duration // ServerLifetime when zero
}

// Fits reports whether a certificate of an authority here says what the profile
// does: the same names and addresses, and both uses. When it ends is not looked at.
func (p ServerProfile) Fits(cert *x509.Certificate) bool {
	return slices.Contains(cert.ExtKeyUsage, x509.ExtKeyUsageServerAuth) && slices.Contains(cert.ExtKeyUsage, x509.ExtKeyUsageClientAuth) &&
		slices.Equal(cert.DNSNames, p.DNSNames) && slices.EqualFunc(cert.IPAddresses, p.IPs, net.IP.Equal)
}

// IssueServer creates a key and a server certificate for it.
func (a *Authority) IssueServer(p ServerProfile, now time.Time) (KeyPair, error) {
	if len(p.DNSNames) == 0 && len(p.IPs) == 0 {
		return KeyPair{}, errors.New("issue server certificate: no name and no address")
	}
	return a.issueWithKey(now, orDefault(p.Lifetime, ServerLifetime), func(t *x509.Certificate) {
		if len(p.DNSNames) > 0 && len(p.DNSNames[0]) <= maxCommonName {
			t.Subject.CommonName = p.DNSNames[0]
		}
		t.DNSNames = p.DNSNames
		t.IPAddresses = p.IPs
		// The server is a client too when it asks a remote backend.
		t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	})
}

// IssueRegister creates a key and a register certificate for it: the credential
// that devices are delivered with, good for asking to be managed and for
// nothing else. A lifetime of zero means RegisterLifetime.
func (a *Authority) IssueRegister(lifetime time.Duration, now time.Time) (KeyPair, error) {
	return a.issueWithKey(now, orDefault(lifetime, RegisterLifetime), func(t *x509.Certificate) {
		t.Subject.CommonName = RegisterName
		// Verifiers of flotta v0.2 insist on server authentication.
		t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}
	})
}

func (a *Authority) issueWithKey(now time.Time, lifetime time.Duration, profile func(*x509.Certificate)) (KeyPair, error) {
	key, err := NewKey()
	if err != nil {
		return KeyPair{}, err
	}
	template, err := newTemplate(key.Public(), now, now.Add(lifetime))
	if err != nil {
		return KeyPair{}, err
	}
	profile(template)
	certPEM, err := a.sign(template, key.Public(), now)
	if err != nil {
		return KeyPair{}, err
	}
	keyPEM, err := EncodeKey(key)
	if err != nil {
		return KeyPair{}, err
	}
	return KeyPair{CertPEM: certPEM, KeyPEM: keyPEM}, nil
}

// DeviceProfile is who a device certificate is issued to.
type DeviceProfile struct {
	ID        string // becomes the CN
	Namespace string // becomes the OU
	Lifetime  time.Duration
}

// IssueDevice signs a device certificate for the public key of a request and
// returns it as PEM. The names, alternative names and extensions of the request
// are ignored. A lifetime of zero means DefaultDeviceLifetime.
func (a *Authority) IssueDevice(request *Request, p DeviceProfile, now time.Time) ([]byte, error) {
	switch {
	case request == nil:
		return nil, errors.New("issue device certificate: no request")
	case p.ID == "" || len(p.ID) > maxCommonName:
		return nil, fmt.Errorf("issue device certificate: device identifier of %d bytes, want 1 to %d", len(p.ID), maxCommonName)
	case p.ID == RegisterName:
		return nil, fmt.Errorf("issue device certificate: %q is reserved", RegisterName)
	case p.Namespace == "":
		return nil, errors.New("issue device certificate: no namespace")
	}
	pub := request.csr.PublicKey
	template, err := newTemplate(pub, now, now.Add(orDefault(p.Lifetime, DefaultDeviceLifetime)))
	if err != nil {
		return nil, err
	}
	template.Subject.CommonName = p.ID
	template.Subject.OrganizationalUnit = []string{p.Namespace}
	// Verifiers of flotta v0.2 insist on server authentication.
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}
	return a.sign(template, pub, now)
}

func orDefault(d, fallback time.Duration) time.Duration {
	if d == 0 {
		return fallback
	}
	return d
}
