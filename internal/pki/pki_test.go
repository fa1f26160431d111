package pki_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/project-flotta/flotta-agent/internal/pki"
)

func newAuthority(t testing.TB, now time.Time) *pki.Authority {
	t.Helper()
	a, err := pki.NewAuthority(now)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func newRequest(t testing.TB, key crypto.Signer, id string) *pki.Request {
	t.Helper()
	text, err := pki.CertificateRequest(key, id)
	if err != nil {
		t.Fatal(err)
	}
	r, err := pki.ParseRequest(text)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func parse(t testing.TB, text []byte) *x509.Certificate {
	t.Helper()
	cert, err := pki.ParseCertificate(text)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func newDevice(t testing.TB, a *pki.Authority, now time.Time) *x509.Certificate {
	t.Helper()
	text, err := a.IssueDevice(newRequest(t, newKey(t), "dev1"), pki.DeviceProfile{ID: "dev1", Namespace: "ns1"}, now)
	if err != nil {
		t.Fatal(err)
	}
	return parse(t, text)
}

func TestAuthorityRoundTrip(t *testing.T) {
	t.Parallel()
	now := time.Now()
	a := newAuthority(t, now)
	key, err := a.KeyPEM()
	if err != nil {
		t.Fatal(err)
	}
	b, err := pki.ParseAuthority(a.CertificatePEM(), key)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Verify(newDevice(t, a, now), x509.ExtKeyUsageClientAuth, now); err != nil {
		t.Errorf("authority read back does not verify what it issued: %v", err)
	}
	cert := parse(t, a.CertificatePEM())
	if !cert.IsCA || cert.KeyUsage != x509.KeyUsageDigitalSignature|x509.KeyUsageCertSign || cert.Subject.String() != "O=flotta-operator" {
		t.Errorf("profile of the authority: CA %v, usage %b, subject %s", cert.IsCA, cert.KeyUsage, cert.Subject)
	}
	if got := cert.NotAfter.Sub(now); got < pki.AuthorityLifetime-time.Minute {
		t.Errorf("authority valid for %s", got)
	}
}

// A supplied authority may have any of the three encodings and both types of
// keys, and signs for devices with any supported key.
func TestSuppliedAuthorities(t *testing.T) {
	t.Parallel()
	now := time.Now()
	ecKey := newKey(t)
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8 := func(key any) []byte {
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	}
	encoded := func(key crypto.Signer) []byte {
		text, err := pki.EncodeKey(key)
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	for name, tt := range map[string]struct {
		key  crypto.Signer
		text []byte
	}{
		"EC PRIVATE KEY":  {ecKey, encoded(ecKey)},
		"RSA PRIVATE KEY": {rsaKey, encoded(rsaKey)},
		"PKCS 8 EC":       {ecKey, pkcs8(ecKey)},
		"PKCS 8 RSA":      {rsaKey, pkcs8(rsaKey)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a, err := pki.ParseAuthority(selfSigned(t, tt.key, true, now), tt.text)
			if err != nil {
				t.Fatal(err)
			}
			for _, device := range []crypto.Signer{newKey(t), rsaKey} {
				text, err := a.IssueDevice(newRequest(t, device, "d"), pki.DeviceProfile{ID: "d", Namespace: "n"}, now)
				if err != nil {
					t.Fatalf("issue for %T: %v", device, err)
				}
				if err := a.Verify(parse(t, text), x509.ExtKeyUsageClientAuth, now); err != nil {
					t.Errorf("verify for %T: %v", device, err)
				}
			}
		})
	}
}

func selfSigned(t testing.TB, key crypto.Signer, ca bool, now time.Time) []byte {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(now.Unix()), Subject: pkix.Name{Organization: []string{"flotta-operator"}, CommonName: "dev1", OrganizationalUnit: []string{"ns1"}},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(24 * 365 * time.Hour),
		IsCA: ca, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func TestParseAuthorityRefuses(t *testing.T) {
	t.Parallel()
	now := time.Now()
	key := newKey(t)
	keyPEM, err := pki.EncodeKey(key)
	if err != nil {
		t.Fatal(err)
	}
	other, err := pki.EncodeKey(newKey(t))
	if err != nil {
		t.Fatal(err)
	}
	good := selfSigned(t, key, true, now)
	for name, tt := range map[string]struct{ cert, key []byte }{
		"no authority":   {selfSigned(t, key, false, now), keyPEM},
		"another key":    {good, other},
		"no certificate": {keyPEM, keyPEM},
		"no key":         {good, good},
		"empty":          {nil, nil},
		"huge":           {bytes.Repeat([]byte("x"), 1<<20), keyPEM},
	} {
		if _, err := pki.ParseAuthority(tt.cert, tt.key); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestDeviceProfile(t *testing.T) {
	t.Parallel()
	now := time.Now().Truncate(time.Second)
	a := newAuthority(t, now)
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject:     pkix.Name{CommonName: "somebody-else", Country: []string{"XX"}, SerialNumber: "7"},
		DNSNames:    []string{"project-flotta.io"},
		IPAddresses: []net.IP{net.IPv4(1, 2, 3, 4)},
	}, newKey(t))
	if err != nil {
		t.Fatal(err)
	}
	r, err := pki.ParseRequest(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
	if err != nil {
		t.Fatal(err)
	}
	text, err := a.IssueDevice(r, pki.DeviceProfile{ID: "dev1", Namespace: "ns1"}, now)
	if err != nil {
		t.Fatal(err)
	}
	cert := parse(t, text)
	want := pkix.Name{CommonName: "dev1", Organization: []string{"flotta-operator"}, OrganizationalUnit: []string{"ns1"}}
	if cert.Subject.String() != want.String() {
		t.Errorf("subject %s, want %s", cert.Subject, want)
	}
	if len(cert.DNSNames)+len(cert.IPAddresses)+len(cert.URIs)+len(cert.EmailAddresses) > 0 {
		t.Error("alternative names of the request were taken over")
	}
	if !cert.NotBefore.Equal(now.Add(-24*time.Hour)) || !cert.NotAfter.Equal(now.Add(30*24*time.Hour)) {
		t.Errorf("valid from %s to %s, now is %s", cert.NotBefore, cert.NotAfter, now)
	}
	if cert.KeyUsage != x509.KeyUsageDigitalSignature || cert.IsCA {
		t.Errorf("usage %b, CA %v", cert.KeyUsage, cert.IsCA)
	}
	if diff := cmp.Diff([]x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}, cert.ExtKeyUsage); diff != "" {
		t.Error(diff)
	}
	if !bytes.Equal(cert.AuthorityKeyId, parse(t, a.CertificatePEM()).SubjectKeyId) || len(cert.SubjectKeyId) != 20 {
		t.Error("key identifiers do not form a chain")
	}
}

func TestIssueDeviceRefuses(t *testing.T) {
	t.Parallel()
	now := time.Now()
	a := newAuthority(t, now)
	r := newRequest(t, newKey(t), "d")
	for name, p := range map[string]pki.DeviceProfile{
		"register":     {ID: "register", Namespace: "n"},
		"no id":        {Namespace: "n"},
		"no namespace": {ID: "d"},
		"long id":      {ID: strings.Repeat("x", 65), Namespace: "n"},
	} {
		if _, err := a.IssueDevice(r, p, now); err == nil {
			t.Errorf("%s: issued", name)
		}
	}
	if _, err := a.IssueDevice(nil, pki.DeviceProfile{ID: "d", Namespace: "n"}, now); err == nil {
		t.Error("no request: issued")
	}
	if _, err := a.IssueDevice(r, pki.DeviceProfile{ID: "d", Namespace: "n"}, now.Add(11*365*24*time.Hour)); !errors.Is(err, pki.ErrExpired) {
		t.Errorf("expired authority: %v", err)
	}
}

func TestNothingOutlivesTheAuthority(t *testing.T) {
	t.Parallel()
	start := time.Now()
	a := newAuthority(t, start)
	late := start.Add(pki.AuthorityLifetime - 24*time.Hour)
	if cert := newDevice(t, a, late); cert.NotAfter.After(a.NotAfter()) {
		t.Errorf("device certificate ends %s, authority %s", cert.NotAfter, a.NotAfter())
	}
}

func TestServerCertificate(t *testing.T) {
	t.Parallel()
	now := time.Now()
	a := newAuthority(t, now)
	pair, err := a.IssueServer(pki.ServerProfile{DNSNames: []string{"edge.example"}, IPs: []net.IP{net.IPv4(127, 0, 0, 1)}}, now)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tls.X509KeyPair(pair.CertPEM, pair.KeyPEM); err != nil {
		t.Fatal(err)
	}
	cert := parse(t, pair.CertPEM)
	for _, host := range []string{"edge.example", "127.0.0.1"} {
		if err := cert.VerifyHostname(host); err != nil {
			t.Error(err)
		}
	}
	if err := a.Verify(cert, x509.ExtKeyUsageServerAuth, now); err != nil {
		t.Error(err)
	}
	// It asks a remote backend with the same certificate.
	if err := a.Verify(cert, x509.ExtKeyUsageClientAuth, now); err != nil {
		t.Error(err)
	}
	if _, err := a.IssueServer(pki.ServerProfile{}, now); err == nil {
		t.Error("issued without a name")
	}
}

func TestVerifyLooksAtTheLeafAlone(t *testing.T) {
	t.Parallel()
	now := time.Now()
	a := newAuthority(t, now)
	leaf := newDevice(t, a, now)
	forged := parse(t, selfSigned(t, newKey(t), false, now))
	foreign := newDevice(t, newAuthority(t, now), now)
	stripped := *leaf
	stripped.Signature = bytes.Clone(leaf.Signature)
	stripped.Signature[len(stripped.Signature)-1] ^= 1
	for name, tt := range map[string]struct {
		cert *x509.Certificate
		at   time.Time
		want error
	}{
		"good":                       {leaf, now, nil},
		"last moment":                {leaf, leaf.NotAfter, nil},
		"expired":                    {leaf, leaf.NotAfter.Add(time.Second), pki.ErrExpired},
		"long expired":               {leaf, leaf.NotAfter.Add(3 * 365 * 24 * time.Hour), pki.ErrExpired},
		"not yet":                    {leaf, leaf.NotBefore.Add(-time.Second), pki.ErrUntrusted},
		"self-signed":                {forged, now, pki.ErrUntrusted},
		"self-signed, expired":       {forged, now.Add(2 * 365 * 24 * time.Hour), pki.ErrUntrusted},
		"another authority":          {foreign, now, pki.ErrUntrusted},
		"another, expired":           {foreign, foreign.NotAfter.Add(time.Hour), pki.ErrUntrusted},
		"the authority as a leaf":    {parse(t, a.CertificatePEM()), now, pki.ErrUntrusted},
		"signature changed":          {&stripped, now, pki.ErrUntrusted},
		"signature changed, expired": {&stripped, leaf.NotAfter.Add(time.Hour), pki.ErrUntrusted},
		"none":                       {nil, now, pki.ErrUntrusted},
	} {
		err := a.Verify(tt.cert, x509.ExtKeyUsageClientAuth, tt.at)
		if !errors.Is(err, tt.want) || tt.want == nil && err != nil {
			t.Errorf("%s: %v, want %v", name, err, tt.want)
		}
		if errors.Is(err, pki.ErrExpired) && errors.Is(err, pki.ErrUntrusted) {
			t.Errorf("%s: both expired and untrusted", name)
		}
	}
}

// Defect 7.1.7 of flotta v0.2: serial numbers were the time in seconds.
func TestSerialsAreUnique(t *testing.T) {
	t.Parallel()
	now := time.Now()
	a := newAuthority(t, now)
	seen := map[string]bool{parse(t, a.CertificatePEM()).SerialNumber.String(): true}
	r := newRequest(t, newKey(t), "d")
	issue := func(text []byte, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		serial := parse(t, text).SerialNumber
		if seen[serial.String()] {
			t.Fatalf("serial %s twice", serial)
		}
		if serial.BitLen() < 64 {
			t.Errorf("serial %s of %d bits", serial, serial.BitLen())
		}
		seen[serial.String()] = true
	}
	for range 50 {
		issue(a.IssueDevice(r, pki.DeviceProfile{ID: "d", Namespace: "n"}, now))
	}
	server, err := a.IssueServer(pki.ServerProfile{DNSNames: []string{"x"}}, now)
	issue(server.CertPEM, err)
	register, err := a.IssueRegister(0, now)
	issue(register.CertPEM, err)
}

// Defect 7.1.7 of flotta v0.2: the request was not checked for its signature.
func TestRequestNeedsProofOfPossession(t *testing.T) {
	t.Parallel()
	text, err := pki.CertificateRequest(newKey(t), "d")
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	block.Bytes[len(block.Bytes)-1] ^= 1
	if _, err := pki.ParseRequest(pem.EncodeToMemory(block)); err == nil {
		t.Error("a request with a wrong signature was accepted")
	}
	stolen, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	mine := newKey(t)
	der, err := x509.CreateCertificateRequest(rand.Reader, stolen, mine)
	if err != nil {
		t.Fatal(err)
	}
	r, err := pki.ParseRequest(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
	if err != nil {
		t.Fatal(err)
	}
	if r.Fingerprint() == newRequest(t, newKey(t), "d").Fingerprint() || len(r.Fingerprint()) != 64 {
		t.Errorf("fingerprint %q", r.Fingerprint())
	}
}

func TestParseRequestRefusesKeys(t *testing.T) {
	t.Parallel()
	_, edKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, key := range map[string]crypto.Signer{"Ed25519": edKey, "P-384": p384} {
		text, err := pki.CertificateRequest(key, "d")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := pki.ParseRequest(text); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestParseKeyPair(t *testing.T) {
	t.Parallel()
	now := time.Now()
	a := newAuthority(t, now)
	pair, err := a.IssueRegister(0, now)
	if err != nil {
		t.Fatal(err)
	}
	both := append(bytes.Clone(pair.CertPEM), pair.KeyPEM...)
	cert, key, err := pki.ParseKeyPair(both, both)
	if err != nil {
		t.Fatal(err)
	}
	if cert.Subject.CommonName != pki.RegisterName || len(cert.Subject.OrganizationalUnit) != 0 || key == nil {
		t.Errorf("register certificate is for %s", cert.Subject)
	}
	other, err := a.IssueRegister(0, now)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := pki.ParseKeyPair(pair.CertPEM, other.KeyPEM); err == nil {
		t.Error("a certificate with the key of another was accepted")
	}
}

func FuzzParseRequest(f *testing.F) {
	key, err := pki.NewKey()
	if err != nil {
		f.Fatal(err)
	}
	good, err := pki.CertificateRequest(key, "dev1")
	if err != nil {
		f.Fatal(err)
	}
	a := newAuthority(f, time.Now())
	f.Add(good)
	f.Add(append([]byte("text before\n"), good...))
	f.Add(a.CertificatePEM())
	f.Add([]byte("-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n"))
	f.Add(bytes.ReplaceAll(good, []byte("\n"), []byte("\r\n")))
	f.Fuzz(func(t *testing.T, text []byte) {
		r, err := pki.ParseRequest(text)
		if err != nil {
			return
		}
		out, err := a.IssueDevice(r, pki.DeviceProfile{ID: "dev1", Namespace: "n"}, time.Now())
		if err != nil {
			t.Fatalf("accepted request cannot be signed: %v", err)
		}
		if err := a.Verify(parse(t, out), x509.ExtKeyUsageClientAuth, time.Now()); err != nil {
			t.Fatal(err)
		}
	})
}

func FuzzParsePEM(f *testing.F) {
	a := newAuthority(f, time.Now())
	key, err := a.KeyPEM()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(a.CertificatePEM())
	f.Add(key)
	f.Add(append(a.CertificatePEM(), key...))
	f.Add([]byte("-----BEGIN PRIVATE KEY-----\n\n-----END PRIVATE KEY-----\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		cert, errCert := pki.ParseCertificate(text)
		if (cert == nil) == (errCert == nil) {
			t.Fatal("certificate and error disagree")
		}
		signer, errKey := pki.ParseKey(text)
		if (signer == nil) == (errKey == nil) {
			t.Fatal("key and error disagree")
		}
		if errKey == nil {
			if _, err := pki.EncodeKey(signer); err != nil {
				t.Fatalf("accepted key cannot be written: %v", err)
			}
		}
		if _, err := pki.ParseAuthority(text, text); err == nil && (errCert != nil || errKey != nil) {
			t.Fatal("an authority without certificate or key")
		}
	})
}

func TestServerProfileFits(t *testing.T) {
	t.Parallel()
	now := time.Now()
	a, err := pki.NewAuthority(now)
	if err != nil {
		t.Fatal(err)
	}
	p := pki.ServerProfile{DNSNames: []string{"edge.example.com"}, IPs: []net.IP{net.IPv4(127, 0, 0, 1)}}
	pair, err := a.IssueServer(p, now)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := pki.ParseCertificate(pair.CertPEM)
	if err != nil {
		t.Fatal(err)
	}
	if !p.Fits(cert) {
		t.Error("a certificate does not fit what it was issued for")
	}
	for name, other := range map[string]pki.ServerProfile{
		"name":    {DNSNames: []string{"other.example.com"}, IPs: p.IPs},
		"address": {DNSNames: p.DNSNames, IPs: []net.IP{net.IPv4(127, 0, 0, 2)}},
		"more":    {DNSNames: p.DNSNames, IPs: append([]net.IP{net.IPv6loopback}, p.IPs...)},
	} {
		if other.Fits(cert) {
			t.Errorf("%s: it fits what it was not issued for", name)
		}
	}
	cert.ExtKeyUsage = cert.ExtKeyUsage[:1]
	if p.Fits(cert) {
		t.Error("it fits without one of its uses")
	}
}
