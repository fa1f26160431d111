package direct

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/project-flotta/flotta-agent/internal/pki"
	"github.com/project-flotta/flotta-agent/internal/transport"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const device = "device-1"

// rig is a device's credential and a server for it.
type rig struct {
	*testing.T
	dir       string
	authority *pki.Authority
	server    *httptest.Server
	cfg       Config

	mu       sync.Mutex
	answers  map[string]http.HandlerFunc // by "channel/direction"
	requests []request
	events   []string // what the handler got
	refuse   error    // what the handler says
	log      *strings.Builder
}

// request is what the server was asked.
type request struct {
	what, id, name, etag, body string
}

func newRig(t *testing.T) *rig {
	t.Helper()
	authority, err := pki.NewAuthority(time.Now())
	must(t, err)
	r := &rig{T: t, dir: t.TempDir(), authority: authority, answers: map[string]http.HandlerFunc{}, log: &strings.Builder{}}
	pair, err := authority.IssueServer(pki.ServerProfile{IPs: []net.IP{net.IPv4(127, 0, 0, 1)}}, time.Now())
	must(t, err)
	certificate, err := tls.X509KeyPair(pair.CertPEM, pair.KeyPEM)
	must(t, err)
	r.server = httptest.NewUnstartedServer(r)
	r.server.TLS = &tls.Config{Certificates: []tls.Certificate{certificate}, ClientAuth: tls.RequireAnyClientCert, MinVersion: tls.VersionTLS13}
	r.server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)
	r.server.StartTLS()
	t.Cleanup(r.server.Close)
	r.write("ca.pem", authority.CertificatePEM())
	r.credential(device)
	r.cfg = Config{
		Settings: transport.Settings{
			DeviceID: device, Server: r.server.Listener.Addr().String(),
			CertFile: r.path("cert.pem"), KeyFile: r.path("key.pem"), CAFiles: []string{r.path("ca.pem")},
		},
		Poll: 10 * time.Millisecond, MaxPause: 50 * time.Millisecond, UserAgent: "flotta-agent/1",
		Log: slog.New(slog.NewTextHandler(locked{r}, nil)),
	}
	return r
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (r *rig) path(name string) string { return filepath.Join(r.dir, name) }

func (r *rig) write(name string, data []byte) {
	r.Helper()
	must(r.T, os.WriteFile(r.path(name), data, 0o600))
}

// credential puts one for that name in place; "register" is what a device is
// delivered with.
func (r *rig) credential(name string) {
	r.Helper()
	pair, err := r.authority.IssueRegister(0, time.Now())
	must(r.T, err)
	if name != pki.RegisterName {
		key, err := pki.ParseKey(pair.KeyPEM)
		must(r.T, err)
		text, err := pki.CertificateRequest(key, name)
		must(r.T, err)
		asked, err := pki.ParseRequest(text)
		must(r.T, err)
		pair.CertPEM, err = r.authority.IssueDevice(asked, pki.DeviceProfile{ID: name, Namespace: "ns"}, time.Now())
		must(r.T, err)
	}
	r.write("cert.pem", pair.CertPEM)
	r.write("key.pem", pair.KeyPEM)
}

// locked is the log of a rig.
type locked struct{ r *rig }

func (l locked) Write(p []byte) (int, error) {
	l.r.mu.Lock()
	defer l.r.mu.Unlock()
	return l.r.log.Write(p)
}

// answer sets what the server does at, say, "data/in".
func (r *rig) answer(what string, h http.HandlerFunc) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.answers[what] = h
}

// text answers with a body.
func text(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		_, _ = w.Write([]byte(body))
	}
}

// configuration answers with a data message that has an ETag.
func configuration(version string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", `"`+version+`"`)
		if r.Header.Get("If-None-Match") == `"`+version+`"` {
			w.WriteHeader(http.StatusNotModified)
			return
		}
		_, _ = w.Write([]byte(`{"type":"data","directive":"device","message_id":"m","metadata":{"a":"b","n":1},"content":{"version":"` + version + `"}}`))
	}
}

// command answers once with a command, and with nothing from then on.
func (r *rig) command(text string) {
	var once sync.Once
	r.answer("control/in", func(w http.ResponseWriter, _ *http.Request) {
		once.Do(func() { _, _ = w.Write([]byte(`{"type":"command","message_id":"c","content":` + text + `}`)) })
	})
}

func (r *rig) ServeHTTP(w http.ResponseWriter, in *http.Request) {
	body := new(strings.Builder)
	_, _ = copyAll(body, in)
	path, _ := strings.CutPrefix(in.URL.Path, protocol.BasePath+"/")
	parts := strings.Split(path, "/")
	if len(parts) != 3 {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	what := parts[0] + "/" + parts[2]
	r.mu.Lock()
	r.requests = append(r.requests, request{
		what: what, id: parts[1], name: in.TLS.PeerCertificates[0].Subject.CommonName, etag: in.Header.Get("If-None-Match"), body: body.String(),
	})
	h := r.answers[what]
	r.mu.Unlock()
	if h != nil {
		h(w, in)
	}
}

// asked returns the requests of one kind so far.
func (r *rig) asked(what string) []request {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []request
	for _, q := range r.requests {
		if q.what == what {
			out = append(out, q)
		}
	}
	return out
}

// run polls until the test ends or stop is called.
func (r *rig) run() (stop func()) {
	r.Helper()
	c, err := New(r.cfg)
	must(r.T, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx, r) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			r.Errorf("Run: %v", err)
		}
		must(r.T, c.Close())
	})
	r.Cleanup(stop)
	return stop
}

// Receive and Disconnected make the rig the handler.
func (r *rig) Receive(_ context.Context, m transport.Message) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, m.Directive+" "+string(m.Content)+" "+m.Metadata["a"]+m.Metadata["n"])
	return r.refuse
}

func (r *rig) Disconnected(context.Context) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, "disconnected")
}

// until waits for a condition.
func (r *rig) until(what string, ok func() bool) {
	r.Helper()
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(2 * time.Millisecond) {
		if ok() {
			return
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.Fatalf("not %s; handler got %q, log:\n%s", what, r.events, r.log)
}

// got returns what the handler got so far.
func (r *rig) got() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]string(nil), r.events...)
}

func (r *rig) logged() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.log.String()
}
