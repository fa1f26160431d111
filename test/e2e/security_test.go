//go:build device

package e2e

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/project-flotta/flotta-agent/internal/pki"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
	"github.com/project-flotta/flotta-agent/test/site"
)

// peer talks to the Edge API with certificates of its own choice.
type peer struct {
	t    *testing.T
	site *site.Site
	http *http.Client
}

func newPeer(t *testing.T, s *site.Site, pair tls.Certificate) peer {
	t.Helper()
	ca, err := os.ReadFile(s.Bootstrap("ca.pem"))
	must(t, err)
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(ca) {
		t.Fatal("the bootstrap CA is no certificate")
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{
		RootCAs: roots, MinVersion: tls.VersionTLS13,
		// Whatever the server would accept: an attacker sends what it likes.
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil },
	}}
	t.Cleanup(transport.CloseIdleConnections)
	return peer{t, s, &http.Client{Transport: transport, Timeout: 20 * time.Second}}
}

func (p peer) do(method, path string, body any) (int, []byte) {
	p.t.Helper()
	var payload io.Reader
	if body != nil {
		raw, err := json.Marshal(body)
		must(p.t, err)
		payload = bytes.NewReader(raw)
	}
	url := "https://localhost:" + strconv.Itoa(p.site.API.Port) + protocol.BasePath + path
	req, err := http.NewRequestWithContext(p.t.Context(), method, url, payload)
	must(p.t, err)
	req.Header.Set("Content-Type", "application/json")
	resp, err := p.http.Do(req)
	must(p.t, err)
	defer func() { _ = resp.Body.Close() }()
	answer, err := io.ReadAll(resp.Body)
	must(p.t, err)
	return resp.StatusCode, answer
}

func (p peer) post(id, directive string, content any) (int, []byte) {
	p.t.Helper()
	raw, err := json.Marshal(content)
	must(p.t, err)
	return p.do(http.MethodPost, "/data/"+id+"/out", protocol.Message{
		Type: protocol.TypeData, MessageID: "1", Directive: directive, Content: raw,
	})
}

// enrolled registers a device by hand and returns its credential.
func enrolled(t *testing.T, s *site.Site, register peer, id string) tls.Certificate {
	t.Helper()
	ask := func() int {
		status, _ := register.post(id, protocol.DirectiveEnrolment, protocol.EnrolmentInfo{
			Features: &protocol.DeviceFeatures{}, TargetNamespace: &s.Namespace,
		})
		return status
	}
	if status := ask(); status != http.StatusOK {
		t.Fatalf("enrolment of %s: %d", id, status)
	}
	must(t, s.Approve(t.Context(), id))
	until(t, "device "+id+" is let in", func() error {
		if status := ask(); status != http.StatusAlreadyReported {
			return fmt.Errorf("enrolment: %d", status)
		}
		return nil
	})
	key, err := pki.NewKey()
	must(t, err)
	csr, err := pki.CertificateRequest(key, id)
	must(t, err)
	status, answer := register.post(id, protocol.DirectiveRegistration, protocol.RegistrationInfo{CertificateRequest: string(csr)})
	if status != http.StatusOK {
		t.Fatalf("registration of %s: %d %s", id, status, answer)
	}
	var reply struct{ Content protocol.RegistrationResponse }
	must(t, json.Unmarshal(answer, &reply))
	keyPEM, err := pki.EncodeKey(key)
	must(t, err)
	pair, err := tls.X509KeyPair([]byte(reply.Content.Certificate), keyPEM)
	must(t, err)
	return pair
}

// everything is what a device may ask, with the answer that its owner gets.
var everything = []struct {
	name string
	ask  func(p peer, id string) int
}{
	{"data in", func(p peer, id string) int { s, _ := p.do(http.MethodGet, "/data/"+id+"/in", nil); return s }},
	{"control in", func(p peer, id string) int { s, _ := p.do(http.MethodGet, "/control/"+id+"/in", nil); return s }},
	{"control out", func(p peer, id string) int {
		s, _ := p.do(http.MethodPost, "/control/"+id+"/out", protocol.Message{Type: protocol.TypeConnectionStatus})
		return s
	}},
	{"heartbeat", func(p peer, id string) int {
		s, _ := p.post(id, protocol.DirectiveHeartbeat, protocol.Heartbeat{Status: protocol.StatusUp})
		return s
	}},
	{"playbooks", func(p peer, id string) int { s, _ := p.post(id, protocol.DirectiveAnsible, ""); return s }},
}

func TestOnlyTheDeviceItselfIsAnswered(t *testing.T) {
	t.Parallel()
	onlyItselfIsAnswered(t, newSite(t, false))
}

func onlyItselfIsAnswered(t *testing.T, s *site.Site) {
	t.Helper()
	raw, err := os.ReadFile(s.Bootstrap("client.pem"))
	must(t, err)
	registerPair, err := tls.X509KeyPair(raw, raw)
	must(t, err)
	register := newPeer(t, s, registerPair)
	victim := newPeer(t, s, enrolled(t, s, register, "victim"))
	foreignPair := enrolled(t, s, register, "foreign")
	foreign := newPeer(t, s, foreignPair)
	forged := newPeer(t, s, forgedChain(t, s))

	for _, e := range everything {
		if got := e.ask(victim, "victim"); got != http.StatusOK {
			t.Errorf("%s with the own certificate: %d, want 200", e.name, got)
		}
		if got := e.ask(foreign, "victim"); got != http.StatusForbidden {
			t.Errorf("%s with another device's certificate: %d, want 403", e.name, got)
		}
		if got := e.ask(forged, "victim"); got != http.StatusUnauthorized {
			t.Errorf("%s with a forged leaf before the real CA: %d, want 401", e.name, got)
		}
		if got := e.ask(register, "victim"); got != http.StatusUnauthorized && got != http.StatusForbidden {
			t.Errorf("%s with the register certificate: %d, want 401 or 403", e.name, got)
		}
	}
	key, err := pki.NewKey()
	must(t, err)
	csr, err := pki.CertificateRequest(key, "victim")
	must(t, err)
	for name, p := range map[string]peer{"foreign": foreign, "forged": forged, "register": register} {
		status, answer := p.post("victim", protocol.DirectiveRegistration, protocol.RegistrationInfo{CertificateRequest: string(csr)})
		if status == http.StatusOK || bytes.Contains(answer, []byte("CERTIFICATE")) {
			t.Errorf("%s certificate got a certificate for the victim: %d", name, status)
		}
	}
	if got := everything[0].ask(victim, "victim"); got != http.StatusOK {
		t.Errorf("after the attempts the device's own certificate gets %d, want 200", got)
	}
}

// forgedChain is a leaf that anybody can make for the victim, followed by the
// site's real CA, which every device has.
func forgedChain(t *testing.T, s *site.Site) tls.Certificate {
	t.Helper()
	ca, err := os.ReadFile(s.Bootstrap("ca.pem"))
	must(t, err)
	authority, err := pki.ParseCertificate(ca)
	must(t, err)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(7),
		Subject:      pkix.Name{CommonName: "victim", Organization: authority.Subject.Organization, OrganizationalUnit: []string{s.Namespace}},
		NotBefore:    time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	// Self-signed, with the CA's name as the issuer's.
	der, err := x509.CreateCertificate(rand.Reader, leaf, &x509.Certificate{Subject: authority.Subject, RawSubject: authority.RawSubject, SubjectKeyId: authority.SubjectKeyId}, &key.PublicKey, key)
	must(t, err)
	return tls.Certificate{Certificate: [][]byte{der, authority.Raw}, PrivateKey: key}
}

func TestWithoutAClientCertificateThereIsNoConnection(t *testing.T) {
	t.Parallel()
	s := newSite(t, false)
	dialer := tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true}}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	conn, err := dialer.DialContext(ctx, "tcp", "localhost:"+strconv.Itoa(s.API.Port))
	must(t, err)
	defer func() { _ = conn.Close() }()
	// In TLS 1.3 the client learns of the refusal when it reads.
	_, err = conn.Write([]byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"))
	if err == nil {
		_, err = conn.Read(make([]byte, 1))
	}
	if err == nil || errors.Is(err, io.EOF) {
		t.Errorf("reading without a client certificate: %v, want the server's alert", err)
	}
}
