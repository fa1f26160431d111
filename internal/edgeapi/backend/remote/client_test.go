package remote

import (
	"bufio"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metric sums a metric of a backend over its labels.
func metric(t testing.TB, b *Backend, name string, labels ...string) float64 {
	t.Helper()
	registry := prometheus.NewRegistry()
	m := b.client.metrics
	for _, c := range []prometheus.Collector{m.requests, m.duration, m.nonsense, m.cached} {
		must(t, registry.Register(c))
	}
	families, err := registry.Gather()
	must(t, err)
	sum := 0.0
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, sample := range f.GetMetric() {
			found := map[string]string{}
			for _, l := range sample.GetLabel() {
				found[l.GetName()] = l.GetValue()
			}
			ok := true
			for i := 0; i+1 < len(labels); i += 2 {
				ok = ok && found[labels[i]] == labels[i+1]
			}
			if ok {
				sum += sample.GetCounter().GetValue() + float64(sample.GetHistogram().GetSampleCount())
			}
		}
	}
	return sum
}

// TestRepetition: what is repeated, and what is not.
func TestRepetition(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		answer http.HandlerFunc
		call   string
		want   int
	}{
		{"read and the server failed", always(500, ""), "managed", maxAttempts},
		{"PUT and the server failed", always(503, ""), "heartbeat", maxAttempts},
		{"POST and the server failed", always(503, ""), "enrol", 1},
		{"nothing to repeat", always(404, ""), "managed", 1},
		{"not implemented", always(501, ""), "managed", 1},
		{"nonsense", always(200, "{"), "managed", 1},
		{"read and cut off", abort, "managed", maxAttempts},
		{"PUT and cut off", abort, "heartbeat", maxAttempts},
		{"POST and cut off", abort, "enrol", 1},
		{"asked to wait for long", retry("3600"), "managed", 1},
		{"asked to wait for a while", retry("0"), "managed", maxAttempts},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := serve(t, tt.answer)
			if err := calls(s.backend(t))[tt.call](t.Context()); err == nil {
				t.Error("no error")
			}
			if got := s.asked(); len(got) != tt.want {
				t.Errorf("asked %d times, want %d: %v", len(got), tt.want, got)
			}
		})
	}
}

func abort(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }

func retry(after string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", after)
		w.WriteHeader(http.StatusTooManyRequests)
	}
}

// TestRepetitionHelps: a service that fails once is not noticed.
func TestRepetitionHelps(t *testing.T) {
	t.Parallel()
	var n atomic.Int64
	s := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		if n.Add(1)%2 == 1 {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		w.WriteHeader(http.StatusOK)
	})
	b := s.backend(t)
	for range 20 {
		must(t, b.Heartbeat(t.Context(), dev, heartbeat()))
	}
	if got := metric(t, b, "flotta_api_remote_requests_total", "call", callHeartbeat, "code", "503"); got != 20 {
		t.Errorf("%v failures counted, want 20", got)
	}
	if got := metric(t, b, "flotta_api_remote_request_duration_seconds"); got != 40 {
		t.Errorf("%v attempts measured, want 40", got)
	}
}

// TestNobodyListens: an enrolment that never left is repeated, and after some
// failures nothing is tried at all.
func TestNobodyListens(t *testing.T) {
	t.Parallel()
	s := serve(t, always(200, ""))
	b := s.backend(t, func(c *Config) { c.URL = "https://127.0.0.1:1" }) // a port that the kernel gives to nobody
	_, err := b.Enrol(t.Context(), dev, enrolment())
	if err == nil || errors.Is(err, errOpen) {
		t.Errorf("error is %v", err)
	}
	if got := metric(t, b, "flotta_api_remote_requests_total", "code", codeError); got != maxAttempts {
		t.Errorf("%v attempts, want %d", got, maxAttempts)
	}
	for range tolerance {
		_, err = b.Managed(t.Context(), dev)
	}
	if !errors.Is(err, errOpen) || !strings.Contains(err.Error(), "refused") {
		t.Errorf("error is %v, want one that says why the service is left alone", err)
	}
	if got := metric(t, b, "flotta_api_remote_requests_total", "code", codeError); got != tolerance {
		t.Errorf("%v attempts, want %d", got, tolerance)
	}
	if err := b.Ready(t.Context()); err == nil {
		t.Error("ready while the circuit is open")
	}
}

// TestServiceComesBack: readiness finds that out without a call of a device.
func TestServiceComesBack(t *testing.T) {
	t.Parallel()
	var up atomic.Bool
	s := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		if !up.Load() {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		says(w, 200, `{"status":"registered"}`)
	})
	b := s.backend(t)
	for b.Ready(t.Context()) == nil {
		_, _ = b.Managed(t.Context(), dev)
	}
	up.Store(true)
	for deadline := time.Now().Add(20 * time.Second); b.Ready(t.Context()) != nil; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("not ready again")
		}
	}
	if managed, err := b.Managed(t.Context(), dev); err != nil || !managed {
		t.Errorf("managed %v, %v", managed, err)
	}
}

func TestSlowService(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	bodyOnly := func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte(`{"status":`))
		_ = http.NewResponseController(w).Flush()
		<-release
	}
	for name, h := range map[string]http.HandlerFunc{
		"answer": func(http.ResponseWriter, *http.Request) { <-release },
		"body":   bodyOnly,
	} {
		s := serve(t, h)
		b := s.backend(t, func(c *Config) { c.Timeout = 300 * time.Millisecond })
		start := time.Now()
		_, err := b.Managed(t.Context(), dev)
		if err == nil || !strings.Contains(err.Error(), "no answer within 300ms") {
			t.Errorf("%s: error is %v", name, err)
		}
		if took := time.Since(start); took > 5*time.Second {
			t.Errorf("%s: took %s", name, took)
		}
		if got := s.asked(); len(got) > 1 {
			t.Errorf("%s: a slow service was asked %d times", name, len(got))
		}
	}
	close(release)
}

// TestNotHTTP: something else listens there.
func TestNotHTTP(t *testing.T) {
	t.Parallel()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			_, _ = bufio.NewReader(conn).ReadByte()
			_, _ = conn.Write([]byte("220 mail.example.com ESMTP\r\n"))
			_ = conn.Close()
		}
	})
	t.Cleanup(func() { _ = ln.Close(); wg.Wait() })
	s := serve(t, always(200, ""))
	for _, scheme := range []string{"http", "https"} {
		b := s.backend(t, func(c *Config) { c.URL = scheme + "://" + ln.Addr().String() })
		for name, call := range calls(b) {
			if err := call(t.Context()); err == nil {
				t.Errorf("%s %s: no error", scheme, name)
			}
		}
	}
}

func TestConnectionsAreReused(t *testing.T) {
	t.Parallel()
	var n atomic.Int64
	s := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		switch n.Add(1) % 3 {
		case 0:
			says(w, 404, `{"message":"`+strings.Repeat("x", 10_000)+`"}`)
		case 1:
			says(w, 200, `{"status":"registered"}`)
		default:
			says(w, 200, `nonsense`)
		}
	})
	b := s.backend(t)
	for range 30 {
		_, _ = b.Managed(t.Context(), dev)
		_ = b.Heartbeat(t.Context(), dev, heartbeat())
	}
	if got := metric(t, b, "flotta_api_remote_invalid_answers_total", "call", callStatus); got == 0 {
		t.Error("nonsense is not counted")
	}
	if got := s.dialled(); got != 1 {
		t.Errorf("%d connections for 60 calls in a row, want 1", got)
	}
}

func TestHTTP2(t *testing.T) {
	t.Parallel()
	var down atomic.Bool
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor != 2 {
			t.Errorf("asked over %s", r.Proto)
		}
		if down.Load() {
			panic(http.ErrAbortHandler)
		}
		says(w, 200, `{"status":"registered"}`)
	}, func(s *httptest.Server) { s.EnableHTTP2 = true })
	b := s.backend(t)
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			if err := calls(b)["managed"](t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	before := len(s.asked())
	down.Store(true)
	if err := b.Heartbeat(t.Context(), dev, heartbeat()); err == nil {
		t.Error("no error of a stream that was reset")
	}
	if _, err := b.Enrol(t.Context(), dev, enrolment()); err == nil {
		t.Error("no error of a stream that was reset")
	}
	if got := len(s.asked()) - before; got != maxAttempts+1 {
		t.Errorf("asked %d times, want %d: the PUT is repeated and the POST is not", got, maxAttempts+1)
	}
}

func TestTrust(t *testing.T) {
	t.Parallel()
	s := serve(t, always(200, `{"status":"registered"}`))
	foreign := newKeys(t)
	managed := func(edit func(*Config)) error {
		_, err := s.backend(t, edit).Managed(t.Context(), dev)
		return err
	}
	if err := managed(func(*Config) {}); err != nil {
		t.Errorf("with the right certificates: %v", err)
	}
	for name, edit := range map[string]func(*Config){
		"unknown authority": func(c *Config) { c.RootCAs = foreign.authority.CertificatePEM() },
		"system roots only": func(c *Config) { c.RootCAs = nil },
		"foreign client certificate": func(c *Config) {
			c.ClientCertificate = func() (*tls.Certificate, error) { return &foreign.cert, nil }
		},
		"no client certificate now": func(c *Config) {
			c.ClientCertificate = func() (*tls.Certificate, error) { return nil, errors.New("key store is away") }
		},
		"plain HTTP": func(c *Config) { c.URL = strings.Replace(c.URL, "https:", "http:", 1) },
	} {
		if err := managed(edit); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// TestClientCertificateIsFetchedForEveryHandshake, so that a renewed one is used.
func TestClientCertificateIsFetchedForEveryHandshake(t *testing.T) {
	t.Parallel()
	seen := make(chan string, 2)
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		seen <- r.TLS.PeerCertificates[0].SerialNumber.String()
		w.WriteHeader(http.StatusOK)
	})
	var mu sync.Mutex
	now := s.keys.cert
	b := s.backend(t, func(c *Config) {
		c.ClientCertificate = func() (*tls.Certificate, error) {
			mu.Lock()
			defer mu.Unlock()
			cert := now
			return &cert, nil
		}
	})
	must(t, b.Heartbeat(t.Context(), dev, heartbeat()))
	mu.Lock()
	now = serverCert(t, s.keys.authority)
	mu.Unlock()
	b.client.http.CloseIdleConnections()
	must(t, b.Heartbeat(t.Context(), dev, heartbeat()))
	if first, second := <-seen, <-seen; first == second {
		t.Error("the renewed certificate was not used")
	}
}

func TestDenialIsLoggedOnce(t *testing.T) {
	t.Parallel()
	var status atomic.Int64
	status.Store(403)
	s := serve(t, func(w http.ResponseWriter, _ *http.Request) { says(w, int(status.Load()), `{"status":"registered"}`) })
	log := &lines{}
	b := s.backend(t, func(c *Config) { c.Logger = log.logger() })
	for range 3 {
		_, _ = b.Managed(t.Context(), dev)
	}
	status.Store(200)
	for range 3 {
		must(t, calls(b)["managed"](t.Context()))
	}
	if n := log.count("refuses the edge api"); n != 1 {
		t.Errorf("said %d times that the service refuses us, want once", n)
	}
	if n := log.count("accepts the edge api again"); n != 1 {
		t.Errorf("said %d times that the service accepts us, want once", n)
	}
}

func TestRetryAfter(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for header, want := range map[string]time.Duration{
		"": 0, "5": 5 * time.Second, "-1": 0, "soon": 0, "99999999999999999999": 0,
		now.Add(time.Minute).Format(http.TimeFormat):  time.Minute,
		now.Add(-time.Minute).Format(http.TimeFormat): 0,
	} {
		if got := retryAfter(header, now); got != want {
			t.Errorf("%q gives %s, want %s", header, got, want)
		}
	}
}
