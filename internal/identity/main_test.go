package identity

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/project-flotta/flotta-agent/internal/pki"
	"github.com/project-flotta/flotta-agent/internal/transport"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

func TestMain(m *testing.M) {
	if at := os.Getenv("FLOTTA_TEST_CRASH"); at != "" {
		crashProgram(at)
	}
	goleak.VerifyTestMain(m)
}

func must[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func newAuthority(t testing.TB) *pki.Authority {
	t.Helper()
	return must[*pki.Authority](t)(pki.NewAuthority(time.Now()))
}

// site is a device's configured files, holding a register credential.
type site struct {
	settings transport.Settings
	ca       *pki.Authority
}

func newSite(t testing.TB, certFile, keyFile string) *site {
	t.Helper()
	dir := t.TempDir()
	s := &site{ca: newAuthority(t), settings: transport.Settings{
		DeviceID: "dev1",
		CertFile: filepath.Join(dir, certFile),
		KeyFile:  filepath.Join(dir, keyFile),
		CAFiles:  []string{filepath.Join(dir, "ca.pem")},
	}}
	for _, path := range []string{s.settings.CertFile, s.settings.KeyFile} {
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	s.provision(t)
	write(t, s.settings.CAFiles[0], s.ca.CertificatePEM())
	return s
}

// provision delivers a register credential, as an administrator does.
func (s *site) provision(t testing.TB) {
	t.Helper()
	pair := must[pki.KeyPair](t)(s.ca.IssueRegister(0, time.Now()))
	if s.settings.CertFile == s.settings.KeyFile {
		write(t, s.settings.CertFile, append(pair.CertPEM, pair.KeyPEM...))
		return
	}
	write(t, s.settings.CertFile, pair.CertPEM)
	write(t, s.settings.KeyFile, pair.KeyPEM)
}

func (s *site) credential() *credential {
	return &credential{
		certPath: s.settings.CertFile, keyPath: s.settings.KeyFile, caPaths: s.settings.CAFiles,
		log: slog.New(slog.DiscardHandler), step: func(step) {},
	}
}

// issue returns a certificate for id with a fresh key.
func (s *site) issue(t testing.TB, id string) *pair {
	t.Helper()
	key := must[key](t)(func() (key, error) { return pki.NewKey() }())
	text := must[[]byte](t)(pki.CertificateRequest(key, id))
	request := must[*pki.Request](t)(pki.ParseRequest(text))
	certPEM := must[[]byte](t)(s.ca.IssueDevice(request, pki.DeviceProfile{ID: id, Namespace: "default"}, time.Now()))
	keyPEM := must[[]byte](t)(pki.EncodeKey(key))
	return must[*pair](t)(newPair(certPEM, keyPEM))
}

func write(t testing.TB, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// fakeAPI is an Edge API that knows one device: it enrols, approves when told,
// and registers the same key again as often as it is asked.
type fakeAPI struct {
	ca *pki.Authority

	mu         sync.Mutex
	approved   bool
	lose       int    // answers to registrations to lose
	registered string // fingerprint of the key of the first registration
	sent       []transport.Message
	issue      func(*pki.Request) ([]byte, error)       // in the place of ca
	answer     func(transport.Message) *transport.Reply // in the place of everything
}

func (a *fakeAPI) Send(_ context.Context, m transport.Message) (transport.Reply, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.sent = append(a.sent, m)
	if a.answer != nil {
		if r := a.answer(m); r != nil {
			return *r, nil
		}
	}
	switch {
	case m.Directive == protocol.DirectiveEnrolment && a.approved:
		return transport.Reply{Status: http.StatusAlreadyReported}, nil
	case m.Directive == protocol.DirectiveEnrolment:
		return transport.Reply{Status: http.StatusOK}, nil
	}
	return a.register(m)
}

func (a *fakeAPI) register(m transport.Message) (transport.Reply, error) {
	var info protocol.RegistrationInfo
	if err := json.Unmarshal(m.Content, &info); err != nil {
		return transport.Reply{Status: http.StatusBadRequest}, nil
	}
	request, err := pki.ParseRequest([]byte(info.CertificateRequest))
	if err != nil {
		return transport.Reply{Status: http.StatusBadRequest, Body: []byte(err.Error())}, nil
	}
	if a.registered != "" && a.registered != request.Fingerprint() {
		return transport.Reply{Status: http.StatusForbidden}, nil
	}
	a.registered = request.Fingerprint()
	if a.lose > 0 {
		a.lose--
		return transport.Reply{}, context.DeadlineExceeded
	}
	issue := a.issue
	if issue == nil {
		issue = func(r *pki.Request) ([]byte, error) {
			return a.ca.IssueDevice(r, pki.DeviceProfile{ID: "dev1", Namespace: "default"}, time.Now())
		}
	}
	certPEM, err := issue(request)
	if err != nil {
		return transport.Reply{}, err
	}
	content, err := json.Marshal(protocol.RegistrationResponse{Certificate: string(certPEM)})
	if err != nil {
		return transport.Reply{}, err
	}
	body, err := json.Marshal(protocol.MessageResponse{MessageID: m.ID, Directive: m.Directive, Content: content})
	return transport.Reply{Status: http.StatusOK, Body: body}, err
}

func (a *fakeAPI) messages(directive string) []transport.Message {
	a.mu.Lock()
	defer a.mu.Unlock()
	var out []transport.Message
	for _, m := range a.sent {
		if m.Directive == directive {
			out = append(out, m)
		}
	}
	return out
}
