package yggdtest

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/project-flotta/flotta-agent/internal/pki"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// Answer is what the server says to a message: a status, and a body that is
// encoded as JSON unless it is nil.
type Answer struct {
	Status int
	Body   any
	Raw    []byte // sent as it is, in the place of Body
}

// Seen is one request as the server saw it.
type Seen struct {
	Peer    string // common name of the client's certificate
	Method  string
	Path    string // below the base path
	Message protocol.Message
}

// Server plays the Edge API.
type Server struct {
	CA *pki.Authority

	http *httptest.Server

	mu     sync.Mutex
	answer func(Seen) Answer
	data   []protocol.Message // waiting to be polled, oldest first
	gone   bool
	seen   []Seen
}

// NewServer starts a server whose answers to posted data messages come from
// answer; nil means 200 without a body.
func NewServer(tb testing.TB, answer func(Seen) Answer) *Server {
	tb.Helper()
	ca, err := pki.NewAuthority(time.Now())
	if err != nil {
		tb.Fatal(err)
	}
	pair, err := ca.IssueServer(pki.ServerProfile{IPs: []net.IP{net.IPv4(127, 0, 0, 1)}}, time.Now())
	if err != nil {
		tb.Fatal(err)
	}
	cert, err := tls.X509KeyPair(pair.CertPEM, pair.KeyPEM)
	if err != nil {
		tb.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca.CertificatePEM())
	s := &Server{CA: ca, answer: answer}
	s.http = httptest.NewUnstartedServer(http.HandlerFunc(s.serve))
	s.http.TLS = &tls.Config{
		MinVersion:   tls.VersionTLS13,
		Certificates: []tls.Certificate{cert},
		ClientAuth:   tls.RequireAndVerifyClientCert,
		ClientCAs:    roots,
	}
	s.http.StartTLS()
	tb.Cleanup(func() {
		s.http.CloseClientConnections()
		s.http.Close()
	})
	return s
}

// Addr returns the server's host and port.
func (s *Server) Addr() string { return s.http.Listener.Addr().String() }

// Queue adds data messages to be polled, one by each poll.
func (s *Server) Queue(messages ...protocol.Message) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.data = append(s.data, messages...)
}

// Dismiss makes control/in tell the device to disconnect from now on.
func (s *Server) Dismiss() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gone = true
}

// Seen returns the requests of the past that keep accepts, oldest first.
func (s *Server) Seen(keep func(Seen) bool) []Seen {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []Seen
	for _, one := range s.seen {
		if keep(one) {
			out = append(out, one)
		}
	}
	return out
}

func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	one := Seen{Method: r.Method, Path: strings.TrimPrefix(r.URL.Path, protocol.BasePath)}
	if len(r.TLS.PeerCertificates) > 0 {
		one.Peer = r.TLS.PeerCertificates[0].Subject.CommonName
	}
	if r.Method == http.MethodPost {
		if err := json.NewDecoder(r.Body).Decode(&one.Message); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
	}
	s.mu.Lock()
	s.seen = append(s.seen, one)
	s.mu.Unlock()
	s.respond(w, one)
}

func (s *Server) respond(w http.ResponseWriter, one Seen) {
	s.mu.Lock()
	answer, gone := s.answer, s.gone
	var next *protocol.Message
	if strings.HasSuffix(one.Path, "/in") && strings.HasPrefix(one.Path, "/data/") && len(s.data) > 0 {
		next, s.data = &s.data[0], s.data[1:]
	}
	s.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	switch {
	case next != nil:
		_ = json.NewEncoder(w).Encode(next)
	case gone && one.Method == http.MethodGet && strings.HasPrefix(one.Path, "/control/"):
		content, _ := json.Marshal(protocol.Command{Command: protocol.CommandDisconnect})
		_ = json.NewEncoder(w).Encode(protocol.Message{Type: protocol.TypeCommand, Version: 1, MessageID: "bye", Content: content})
	case one.Method == http.MethodPost && strings.HasPrefix(one.Path, "/data/") && answer != nil:
		a := answer(one)
		w.WriteHeader(a.Status)
		if a.Raw != nil {
			_, _ = w.Write(a.Raw)
		} else if a.Body != nil {
			_ = json.NewEncoder(w).Encode(a.Body)
		}
	}
}
