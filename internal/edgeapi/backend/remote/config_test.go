package remote

import (
	"bytes"
	"crypto/tls"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

// lines collects the log.
type lines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *lines) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

func (l *lines) count(text string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.buf.String(), text)
}

func TestAddress(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"https://h":                             "https://h/api/flotta-backend/v1",
		"https://h/":                            "https://h/api/flotta-backend/v1",
		"http://h:8080":                         "http://h:8080/api/flotta-backend/v1",
		"https://h/api/flotta-backend/v1":       "https://h/api/flotta-backend/v1",
		"https://h/api/flotta-backend/v1/":      "https://h/api/flotta-backend/v1",
		"https://h/edge/api/flotta-backend/v1":  "https://h/edge/api/flotta-backend/v1",
		"https://h/mine":                        "https://h/mine",
		"https://[::1]:8443":                    "https://[::1]:8443/api/flotta-backend/v1",
		"https://h/with%2Fslash/and%20space///": "https://h/with%2Fslash/and%20space",
	} {
		got, err := parseURL(text)
		if err != nil || got.String() != want {
			t.Errorf("%s is %v, %v; want %s", text, got, err, want)
		}
	}
}

func TestNewRefuses(t *testing.T) {
	t.Parallel()
	cert := func() (*tls.Certificate, error) { return &tls.Certificate{}, nil }
	log := slog.New(slog.DiscardHandler)
	good := Config{URL: "https://h", ClientCertificate: cert, Logger: log}
	if _, err := New(good); err != nil {
		t.Fatal(err)
	}
	taken := prometheus.NewRegistry()
	taken.MustRegister(prometheus.NewCounter(prometheus.CounterOpts{Name: "flotta_api_remote_requests_total", Help: "x"}))
	for reason, edit := range map[string]func(*Config){
		"is required":              func(c *Config) { c.URL = "" },
		"want https or http":       func(c *Config) { c.URL = "h:8443" },
		`scheme "ftp"`:             func(c *Config) { c.URL = "ftp://h" },
		`scheme ""`:                func(c *Config) { c.URL = "//h/x" },
		"names no host":            func(c *Config) { c.URL = "https:///x" },
		"has a query":              func(c *Config) { c.URL = "https://h?x=y" },
		"has a fragment":           func(c *Config) { c.URL = "https://h/#x" },
		"has a user name":          func(c *Config) { c.URL = "https://me:sesame@h" },
		"invalid port":             func(c *Config) { c.URL = "https://me:sesame@h:port" },
		"is negative":              func(c *Config) { c.Timeout = -1 },
		"Logger is required":       func(c *Config) { c.Logger = nil },
		"ClientCertificate":        func(c *Config) { c.ClientCertificate = nil },
		"no certificate in it":     func(c *Config) { c.RootCAs = []byte("x") },
		"register metrics":         func(c *Config) { c.Registerer = taken },
		"field Logger is required": func(c *Config) { *c = Config{} },
	} {
		cfg := good
		edit(&cfg)
		_, err := New(cfg)
		if err == nil || !strings.Contains(err.Error(), reason) {
			t.Errorf("error is %v, want %q in it", err, reason)
		}
		if err != nil && strings.Contains(err.Error(), "sesame") {
			t.Errorf("error tells the password: %v", err)
		}
	}
}

func TestPlainHTTPIsWarnedOf(t *testing.T) {
	t.Parallel()
	log := &lines{}
	_, err := New(Config{URL: "http://h", Logger: log.logger()})
	must(t, err)
	if log.count("without TLS") != 1 {
		t.Error("no warning")
	}
}
