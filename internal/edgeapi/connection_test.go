package edgeapi

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"testing"
	"time"

	"github.com/project-flotta/flotta-agent/internal/pki"
)

// What a connection remembers ends with the certificate, and with the authority.
func TestConnectionForgetsInTime(t *testing.T) {
	t.Parallel()
	now := time.Now()
	authority, err := pki.NewAuthority(now)
	if err != nil {
		t.Fatal(err)
	}
	key, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	text, err := pki.CertificateRequest(key, "dev1")
	if err != nil {
		t.Fatal(err)
	}
	request, err := pki.ParseRequest(text)
	if err != nil {
		t.Fatal(err)
	}
	certPEM, err := authority.IssueDevice(request, pki.DeviceProfile{ID: "dev1", Namespace: "default", Lifetime: time.Hour}, now)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(certPEM)
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	state := &tls.ConnectionState{PeerCertificates: []*x509.Certificate{leaf}}
	var c connection
	for range 2 {
		if who, err := c.identify(state, authority, now); err != nil || who.id != "dev1" || who.expired {
			t.Fatalf("identity %+v, %v", who, err)
		}
	}
	if c.verified.Load() == nil {
		t.Fatal("nothing is remembered")
	}
	// Nothing else is looked at while it holds.
	if who, err := c.identify(nil, authority, leaf.NotAfter.Add(-time.Second)); err != nil || who.id != "dev1" {
		t.Errorf("a second before the end: %+v, %v", who, err)
	}
	if who, err := c.identify(state, authority, leaf.NotAfter.Add(time.Second)); err != nil || !who.expired {
		t.Errorf("a second after the end: %+v, %v; want it expired", who, err)
	}
	if _, err := c.identify(state, authority, leaf.NotBefore.Add(-time.Hour)); err == nil {
		t.Error("a certificate is good before its time")
	}

	other, err := pki.NewAuthority(now)
	if err != nil {
		t.Fatal(err)
	}
	var stranger connection
	if _, err := stranger.identify(state, other, now); err == nil || stranger.verified.Load() != nil {
		t.Errorf("a certificate of another authority: %v", err)
	}
}
