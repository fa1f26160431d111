package remote

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/project-flotta/flotta-agent/internal/edgeapi"
	"github.com/project-flotta/flotta-agent/internal/pki"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var dev = edgeapi.Device{Namespace: "site", ID: "dev1"}

// must fails the test on an error.
func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// keys are an authority and a certificate of it for this machine.
type keys struct {
	authority *pki.Authority
	cert      tls.Certificate
}

func newKeys(t testing.TB) keys {
	t.Helper()
	a, err := pki.NewAuthority(time.Now().Add(-time.Hour))
	must(t, err)
	return keys{authority: a, cert: serverCert(t, a)}
}

func serverCert(t testing.TB, a *pki.Authority) tls.Certificate {
	t.Helper()
	pair, err := a.IssueServer(pki.ServerProfile{DNSNames: []string{"localhost"}, IPs: []net.IP{net.IPv4(127, 0, 0, 1)}}, time.Now())
	must(t, err)
	cert, err := tls.X509KeyPair(pair.CertPEM, pair.KeyPEM)
	must(t, err)
	return cert
}

func (k keys) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(k.authority.CertificatePEM())
	return pool
}

// service is a fake of the user's service: whatever handler says, over mutual TLS.
type service struct {
	*httptest.Server
	keys keys

	mu          sync.Mutex
	requests    []string // method and path
	connections int
}

func serve(t testing.TB, h http.HandlerFunc, edit ...func(*httptest.Server)) *service {
	t.Helper()
	s := &service{keys: newKeys(t)}
	s.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		s.requests = append(s.requests, r.Method+" "+r.URL.EscapedPath())
		s.mu.Unlock()
		h(w, r)
	}))
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			s.mu.Lock()
			s.connections++
			s.mu.Unlock()
		}
	}
	s.TLS = &tls.Config{
		MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{s.keys.cert},
		ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: s.keys.pool(),
	}
	for _, f := range edit {
		f(s.Server)
	}
	s.StartTLS()
	t.Cleanup(s.Close)
	return s
}

func (s *service) asked() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.requests...)
}

func (s *service) dialled() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.connections
}

func (s *service) config() Config {
	return Config{
		URL: s.URL, Timeout: 10 * time.Second,
		ClientCertificate: func() (*tls.Certificate, error) { return &s.keys.cert, nil },
		RootCAs:           s.keys.authority.CertificatePEM(),
		Registerer:        prometheus.NewRegistry(),
		Logger:            slog.New(slog.DiscardHandler),
	}
}

func (s *service) backend(t testing.TB, edit ...func(*Config)) *Backend {
	t.Helper()
	cfg := s.config()
	for _, f := range edit {
		f(&cfg)
	}
	return newBackend(t, cfg)
}

func newBackend(t testing.TB, cfg Config) *Backend {
	t.Helper()
	b, err := New(cfg)
	must(t, err)
	t.Cleanup(b.client.http.CloseIdleConnections)
	return b
}

// says answers with JSON.
func says(w http.ResponseWriter, status int, body string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, body)
}

// always is a service with one answer.
func always(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { says(w, status, body) }
}

// calls are all that can be asked of a backend.
func calls(b *Backend) map[string]func(context.Context) error {
	return map[string]func(context.Context) error{
		"enrol":         func(ctx context.Context) error { _, err := b.Enrol(ctx, dev, enrolment()); return err },
		"target":        func(ctx context.Context) error { _, err := b.RegistrationTarget(ctx, claim("k1", true)); return err },
		"complete":      func(ctx context.Context) error { return b.CompleteRegistration(ctx, claim("k1", true)) },
		"configuration": func(ctx context.Context) error { _, err := b.Configuration(ctx, dev); return err },
		"heartbeat":     func(ctx context.Context) error { return b.Heartbeat(ctx, dev, heartbeat()) },
		"managed":       func(ctx context.Context) error { _, err := b.Managed(ctx, dev); return err },
		"playbooks":     func(ctx context.Context) error { _, err := b.Playbooks(ctx, dev); return err },
	}
}
