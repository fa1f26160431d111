package edgeapi_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/project-flotta/flotta-agent/internal/edgeapi"
	"github.com/project-flotta/flotta-agent/internal/edgeapi/backend/file"
	"github.com/project-flotta/flotta-agent/internal/pki"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// rig is a running server on the file backend, with real certificates and TLS.
type rig struct {
	t       testing.TB
	dir     string
	keys    *file.Keys
	server  *edgeapi.Server
	backend *file.Backend
	admin   *file.Admin
	log     *logBuffer
	stop    context.CancelFunc
	done    chan error // what Run of the server returned
}

// logBuffer collects the log.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

type rigOptions struct {
	auto bool
	edit func(*edgeapi.Config)
}

func newRig(t testing.TB, o rigOptions) *rig {
	t.Helper()
	r := &rig{t: t, dir: t.TempDir(), log: &logBuffer{}, done: make(chan error, 1)}
	log := slog.New(slog.NewTextHandler(r.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	ctx, cancel := context.WithCancel(context.Background())
	r.stop = cancel
	// An authority of last year, so that certificates can have expired.
	authority, err := pki.NewAuthority(time.Now().Add(-365 * 24 * time.Hour))
	r.must(err)
	key, err := authority.KeyPEM()
	r.must(err)
	r.write("pki/ca.crt", string(authority.CertificatePEM()))
	r.write("pki/ca.key", string(key))
	r.keys, err = file.OpenKeys(ctx, file.KeysConfig{Dir: r.dir, DNSNames: []string{"localhost"}, IPs: []net.IP{net.IPv4(127, 0, 0, 1)}, Logger: log})
	r.must(err)
	r.backend, err = file.New(file.Config{Dir: r.dir, AutoApprove: o.auto, Rescan: time.Second, Logger: log})
	r.must(err)
	r.must(r.backend.Open(ctx))
	r.admin = file.NewAdmin(r.dir)
	cfg := edgeapi.Config{
		Addr: "127.0.0.1:0", MetricsAddr: "127.0.0.1:0",
		Authority: r.keys.Authority(), Certificate: r.keys.Certificate, Backend: r.backend, Logger: log,
	}
	if o.edit != nil {
		o.edit(&cfg)
	}
	r.server, err = edgeapi.New(cfg)
	r.must(err)
	r.must(r.server.Open(ctx))
	var wg sync.WaitGroup
	wg.Go(func() { r.done <- r.server.Run(ctx) })
	wg.Go(func() {
		if err := r.backend.Run(ctx); err != nil {
			t.Errorf("run backend: %v", err)
		}
	})
	t.Cleanup(func() {
		cancel()
		wg.Wait()
		if err := r.backend.Close(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("log:\n%s", r.log)
		}
	})
	return r
}

func (r *rig) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) registerCert() tls.Certificate {
	r.t.Helper()
	pair, err := r.keys.Register()
	r.must(err)
	cert, err := tls.X509KeyPair(pair.CertPEM, pair.KeyPEM)
	r.must(err)
	return cert
}

// deviceCert issues a device certificate for a new key behind the server's back,
// as of then.
func (r *rig) deviceCert(namespace, id string, then time.Time) tls.Certificate {
	r.t.Helper()
	key, err := pki.NewKey()
	r.must(err)
	return r.deviceCertFor(key, namespace, id, then)
}

func (r *rig) deviceCertFor(key crypto.PrivateKey, namespace, id string, then time.Time) tls.Certificate {
	r.t.Helper()
	text, err := pki.CertificateRequest(key.(crypto.Signer), id)
	r.must(err)
	request, err := pki.ParseRequest(text)
	r.must(err)
	certPEM, err := r.keys.Authority().IssueDevice(request, pki.DeviceProfile{ID: id, Namespace: namespace}, then)
	r.must(err)
	block, _ := pem.Decode(certPEM)
	return tls.Certificate{Certificate: [][]byte{block.Bytes}, PrivateKey: key}
}

// expired is the time at which a certificate must be issued to be expired now.
func expired() time.Time { return time.Now().Add(-40 * 24 * time.Hour) }

func (r *rig) client(cert tls.Certificate) *http.Client {
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(r.keys.Authority().CertificatePEM())
	transport := &http.Transport{TLSClientConfig: &tls.Config{
		RootCAs: pool, ServerName: "localhost",
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &cert, nil },
	}}
	r.t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: 20 * time.Second}
}

func (r *rig) url(path string) string {
	return "https://" + r.server.Addr().String() + protocol.BasePath + path
}

// reply is an answer, read.
type reply struct {
	status int
	body   []byte
	header http.Header
}

func (r *rig) do(c *http.Client, method, path, body string, header ...string) reply {
	r.t.Helper()
	req, err := http.NewRequestWithContext(context.Background(), method, r.url(path), strings.NewReader(body))
	r.must(err)
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := c.Do(req)
	r.must(err)
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	r.must(err)
	return reply{status: resp.StatusCode, body: data, header: resp.Header}
}

// send posts one message to data/out.
func (r *rig) send(c *http.Client, id, directive string, content any) reply {
	r.t.Helper()
	raw, err := json.Marshal(content)
	r.must(err)
	body, err := json.Marshal(protocol.Message{
		Type: protocol.TypeData, MessageID: "message-1", Version: 1, Directive: directive, Content: raw,
	})
	r.must(err)
	return r.do(c, http.MethodPost, "/data/"+id+"/out", string(body))
}

func (r *rig) enrol(c *http.Client, id string) reply {
	r.t.Helper()
	return r.send(c, id, protocol.DirectiveEnrolment, protocol.EnrolmentInfo{Features: &protocol.DeviceFeatures{ModelName: "m"}})
}

// register sends a registration for key.
func (r *rig) register(c *http.Client, id string, key crypto.Signer) reply {
	r.t.Helper()
	text, err := pki.CertificateRequest(key, id)
	r.must(err)
	return r.send(c, id, protocol.DirectiveRegistration, protocol.RegistrationInfo{CertificateRequest: string(text)})
}

// issued reads the certificate out of the answer to a registration.
func (r *rig) issued(got reply, key crypto.Signer) tls.Certificate {
	r.t.Helper()
	if got.status != http.StatusOK {
		r.t.Fatalf("registration: status %d %s", got.status, got.body)
	}
	var m protocol.MessageResponse
	r.must(json.Unmarshal(got.body, &m))
	if m.MessageID != "message-1" || m.Directive != protocol.DirectiveRegistration {
		r.t.Errorf("identifier %q and directive %q are not echoed", m.MessageID, m.Directive)
	}
	var content protocol.RegistrationResponse
	r.must(json.Unmarshal(m.Content, &content))
	block, _ := pem.Decode([]byte(content.Certificate))
	if block == nil {
		r.t.Fatalf("no certificate in %s", got.body)
	}
	return tls.Certificate{Certificate: [][]byte{block.Bytes}, PrivateKey: key}
}

// join lets a device enrol, be approved and register, and returns its client.
func (r *rig) join(id string) (*http.Client, tls.Certificate) {
	r.t.Helper()
	reg := r.client(r.registerCert())
	r.enrol(reg, id)
	r.must(r.admin.Approve(context.Background(), id))
	r.eventually("device "+id+" approved", func() bool { return r.enrol(reg, id).status == http.StatusAlreadyReported })
	key, err := pki.NewKey()
	r.must(err)
	cert := r.issued(r.register(reg, id, key), key)
	return r.client(cert), cert
}

// eventually polls until ok holds.
func (r *rig) eventually(what string, ok func() bool) {
	r.t.Helper()
	for deadline := time.Now().Add(15 * time.Second); !ok(); {
		if time.Now().After(deadline) {
			r.t.Fatalf("not within 15 s: %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func (r *rig) write(path, text string) {
	r.t.Helper()
	full := filepath.Join(r.dir, path)
	r.must(os.MkdirAll(filepath.Dir(full), 0o755))
	r.must(os.WriteFile(full, []byte(text), 0o600))
}

func want(t testing.TB, what string, got reply, status int) {
	t.Helper()
	if got.status != status {
		t.Errorf("%s: status %d %s, want %d", what, got.status, got.body, status)
	}
	if status >= 400 && len(got.body) > 0 {
		t.Errorf("%s: status %d with a body: %s", what, got.status, got.body)
	}
}
