package edgeapi_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/project-flotta/flotta-agent/internal/edgeapi"
	"github.com/project-flotta/flotta-agent/internal/pki"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// memory is a backend that keeps devices in memory and lets all of them in, so
// that what is fuzzed gets far.
type memory struct {
	mu      sync.Mutex
	devices map[edgeapi.Device]string // key, or "" before the registration
}

// fuzzedDevice is the one that is there from the start.
var fuzzedDevice = edgeapi.Device{Namespace: edgeapi.DefaultNamespace, ID: "dev1"}

func (m *memory) known(d edgeapi.Device) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.devices[d]; !ok {
		return edgeapi.ErrNotFound
	}
	return nil
}

func (m *memory) Enrol(_ context.Context, d edgeapi.Device, _ protocol.EnrolmentInfo) (bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, ok := m.devices[d]
	if !ok && len(m.devices) < 1000 {
		m.devices[d] = ""
	}
	return ok, nil
}

func (m *memory) RegistrationTarget(_ context.Context, r edgeapi.Registration) (edgeapi.Device, error) {
	if r.Device.Namespace == "" {
		r.Device.Namespace = edgeapi.DefaultNamespace
	}
	return r.Device, m.known(r.Device)
}

func (m *memory) CompleteRegistration(_ context.Context, r edgeapi.Registration) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.devices[r.Device] = r.KeyFingerprint
	return nil
}

func (m *memory) Authorise(context.Context, edgeapi.Device, string) error { return nil }

func (m *memory) Configuration(_ context.Context, d edgeapi.Device) (edgeapi.Rendered, error) {
	return edgeapi.Rendered{JSON: []byte(`{"device_id":"dev1"}`), Version: "v1", At: time.Unix(0, 0)}, m.known(d)
}

func (m *memory) Heartbeat(_ context.Context, d edgeapi.Device, _ protocol.Heartbeat) error {
	return m.known(d)
}

func (m *memory) Managed(_ context.Context, d edgeapi.Device) (bool, error) {
	return m.known(d) == nil, nil
}

func (m *memory) Playbooks(_ context.Context, d edgeapi.Device) ([]protocol.PlaybookExecution, error) {
	return nil, m.known(d)
}

func (m *memory) Ready(context.Context) error { return nil }

// handlers is a server that listens nowhere, and connections of all kinds of
// clients.
type handlers struct {
	server  *edgeapi.Server
	log     *logBuffer
	clients []*tls.ConnectionState
}

func newHandlers(f *testing.F) *handlers {
	f.Helper()
	must := func(err error) {
		f.Helper()
		if err != nil {
			f.Fatal(err)
		}
	}
	long := time.Now().Add(-365 * 24 * time.Hour)
	authority, err := pki.NewAuthority(long)
	must(err)
	h := &handlers{log: &logBuffer{}}
	h.server, err = edgeapi.New(edgeapi.Config{
		Authority: authority, Certificate: func() (*tls.Certificate, error) { return nil, nil },
		Backend: &memory{devices: map[edgeapi.Device]string{fuzzedDevice: ""}},
		Logger:  slog.New(slog.NewTextHandler(h.log, &slog.HandlerOptions{Level: slog.LevelError})),
	})
	must(err)
	key, err := pki.NewKey()
	must(err)
	text, err := pki.CertificateRequest(key, fuzzedDevice.ID)
	must(err)
	request, err := pki.ParseRequest(text)
	must(err)
	register, err := authority.IssueRegister(0, time.Now())
	must(err)
	h.clients = []*tls.ConnectionState{nil, {}, connection(f, register.CertPEM)}
	for _, c := range []struct {
		id   string
		then time.Time
	}{{fuzzedDevice.ID, time.Now()}, {fuzzedDevice.ID, expired()}, {"dev2", time.Now()}} {
		cert, err := authority.IssueDevice(request, pki.DeviceProfile{ID: c.id, Namespace: fuzzedDevice.Namespace}, c.then)
		must(err)
		h.clients = append(h.clients, connection(f, cert))
	}
	return h
}

func connection(f *testing.F, certPEM []byte) *tls.ConnectionState {
	f.Helper()
	block, _ := pem.Decode(certPEM)
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		f.Fatal(err)
	}
	return &tls.ConnectionState{PeerCertificates: []*x509.Certificate{leaf}}
}

// ask sends one request, and checks what must hold of every answer.
func (h *handlers) ask(t *testing.T, client uint8, r *http.Request) *httptest.ResponseRecorder {
	t.Helper()
	r.TLS = h.clients[int(client)%len(h.clients)]
	w := httptest.NewRecorder()
	h.server.ServeHTTP(w, r)
	if w.Code >= http.StatusInternalServerError {
		t.Fatalf("%s %s is answered %d\n%s", r.Method, r.URL, w.Code, h.log)
	}
	if w.Body.Len() > 0 && !json.Valid(w.Body.Bytes()) {
		t.Fatalf("%s %s is answered with %q, which is no JSON", r.Method, r.URL, w.Body)
	}
	if r.TLS == nil && w.Code < http.StatusBadRequest {
		t.Fatalf("%s %s is answered %d without a certificate", r.Method, r.URL, w.Code)
	}
	return w
}

// FuzzRequest: whatever is asked, of any path and by anybody, is no failure of
// the server's.
func FuzzRequest(f *testing.F) {
	const base = protocol.BasePath
	for i, path := range []string{
		base + "/data/dev1/in", base + "/data/dev1/out", base + "/control/dev1/in", base + "/control/dev1/out",
		base + "/data/%2e%2e/in", base + "/data/a%2Fb/in", base + "/data//in", base, "/", "*", "http://x" + base + "/data/dev1/in?x=%zz",
	} {
		for _, method := range []string{http.MethodGet, http.MethodPost, "", "BREW"} {
			f.Add(uint8(i), method, path, "application/json", `"v1"`, []byte(`{"directive":"heartbeat","content":{}}`))
		}
	}
	h := newHandlers(f)
	f.Fuzz(func(t *testing.T, client uint8, method, path, contentType, etag string, body []byte) {
		u, err := url.ParseRequestURI(path)
		if err != nil {
			return // net/http answers these itself
		}
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/", strings.NewReader(string(body)))
		r.Method, r.URL = method, u
		r.Header["Content-Type"], r.Header["If-None-Match"] = []string{contentType}, []string{etag}
		h.ask(t, client, r)
	})
}

// FuzzMessage: whatever a device sends is no failure of the server's, however
// malformed; and nobody is let in by what they write.
func FuzzMessage(f *testing.F) {
	key, err := pki.NewKey()
	if err != nil {
		f.Fatal(err)
	}
	request, err := pki.CertificateRequest(key, fuzzedDevice.ID)
	if err != nil {
		f.Fatal(err)
	}
	registration, err := json.Marshal(protocol.RegistrationInfo{CertificateRequest: string(request)})
	if err != nil {
		f.Fatal(err)
	}
	contents := []string{
		`{}`, `null`, `[]`, `"x"`, `7`, ``, `{`, string(registration),
		`{"features":null,"target_namespace":null}`, `{"features":{"hardware":{"disks":[null],"cpu":null}},"target_namespace":"default"}`,
		`{"certificate_request":"-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----"}`,
		`{"status":"up","workloads":[null],"playbook-executions":[null],"events":[{}],"hardware":{"interfaces":[null]}}`,
	}
	for _, directive := range []string{
		protocol.DirectiveEnrolment, protocol.DirectiveRegistration, protocol.DirectiveHeartbeat, protocol.DirectiveAnsible, "", "other",
	} {
		for i, content := range contents {
			f.Add(uint8(2+i%2), fuzzedDevice.ID, directive, []byte(content))
		}
		f.Add(uint8(2), "register", directive, []byte(`{}`))
		f.Add(uint8(2), strings.Repeat("x", 300), directive, []byte(`{}`))
	}
	h := newHandlers(f)
	f.Fuzz(func(t *testing.T, client uint8, id, directive string, content []byte) {
		name, err := json.Marshal(directive)
		if err != nil {
			return
		}
		body := fmt.Sprintf(`{"type":"data","message_id":"m","directive":%s,"content":%s}`, name, content)
		if len(content) == 0 {
			body = fmt.Sprintf(`{"directive":%s}`, name)
		}
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/", strings.NewReader(body))
		r.URL = &url.URL{Path: protocol.BasePath + "/data/" + id + "/out"}
		r.Header.Set("Content-Type", "application/json")
		w := h.ask(t, client, r)
		foreign := client%uint8(len(h.clients)) == 5 && !strings.EqualFold(id, "dev2")
		if foreign && w.Code < http.StatusBadRequest {
			t.Fatalf("another device's %s for %q is answered %d", directive, id, w.Code)
		}
	})
}
