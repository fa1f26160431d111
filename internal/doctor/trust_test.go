package doctor

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/fstest"
	"time"
)

// issuer signs certificates for tests.
type issuer struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

func newKey(t *testing.T) (*ecdsa.PrivateKey, []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

func newIssuer(t *testing.T, name string) *issuer {
	t.Helper()
	key, _ := newKey(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: noon().AddDate(-1, 0, 0), NotAfter: noon().AddDate(1, 0, 0), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &issuer{cert: cert, key: key, pem: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})}
}

// issue returns a certificate and its key, good for the days before and after
// noon.
func (i *issuer) issue(t *testing.T, name string, before, after int, dns ...string) (certPEM, keyPEM []byte) {
	t.Helper()
	key, keyPEM := newKey(t)
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, DNSNames: dns,
		NotBefore: noon().AddDate(0, 0, -before), NotAfter: noon().AddDate(0, 0, after),
	}, i.cert, key.Public(), i.key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), keyPEM
}

// server answers over TLS; clients, when they must show a certificate, have to
// have one of an issuer.
func server(t *testing.T, certPEM, keyPEM []byte, clients *issuer) (address string) {
	t.Helper()
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(http.NotFoundHandler())
	s.Config.ErrorLog = nil
	s.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, Time: noon, MinVersion: tls.VersionTLS12}
	if clients != nil {
		s.TLS.ClientAuth, s.TLS.ClientCAs = tls.RequireAndVerifyClientCert, x509.NewCertPool()
		s.TLS.ClientCAs.AddCert(clients.cert)
	}
	s.StartTLS()
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

func TestEndpoints(t *testing.T) {
	t.Parallel()
	ours, others := newIssuer(t, "ours"), newIssuer(t, "others")
	good, goodKey := ours.issue(t, "edge", 100, 100, "edge.example.com")
	brief, briefKey := ours.issue(t, "edge", 100, 3, "edge.example.com")
	old, oldKey := ours.issue(t, "edge", 100, -1, "edge.example.com")
	open := server(t, good, goodKey, nil)
	mutual := server(t, good, goodKey, ours)
	plain := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(plain.Close)
	device, deviceKey := ours.issue(t, "edge-7", 100, 100)
	foreign, foreignKey := others.issue(t, "edge-7", 100, 100)
	credential := Credential{CertFile: "/cert.pem", KeyFile: "/key.pem", CAFiles: []string{"/ca.pem"}}
	files := fstest.MapFS{"cert.pem": {Data: device}, "key.pem": {Data: deviceKey}, "ca.pem": {Data: ours.pem}}
	strangers := fstest.MapFS{"cert.pem": {Data: foreign}, "key.pem": {Data: foreignKey}, "ca.pem": {Data: ours.pem}}

	failing := func(err error) func(context.Context, string, string) (net.Conn, error) {
		return func(context.Context, string, string) (net.Conn, error) {
			return nil, &net.OpError{Op: "dial", Net: "tcp", Err: err}
		}
	}
	tcp := Endpoint{Network: "tcp", Address: "edge.example.com:443", TLS: true, Roots: ours.pem}
	shown := func(certificate, key []byte) Endpoint {
		e := tcp
		e.Pair = func() (tls.Certificate, error) { return tls.X509KeyPair(certificate, key) }
		return e
	}
	api := Endpoint{Network: "tcp", Address: "edge.example.com:443", TLS: true, Device: true}
	for name, tt := range map[string]struct {
		endpoint Endpoint
		at       string // the address that the name has
		files    fstest.MapFS
		change   func(*Host)
		level    Level
		found    string
		advice   string
	}{
		"well":              {tcp, open, nil, nil, OK, "TLS 1.3, the server's certificate is good until 2026-09-09", ""},
		"without TLS":       {Endpoint{Network: "tcp", Address: "h:80"}, open, nil, nil, OK, "without TLS", ""},
		"udp":               {Endpoint{Network: "udp", Address: "h:514"}, open, nil, nil, OK, "nobody answers over UDP", ""},
		"ends soon":         {tcp, server(t, brief, briefKey, nil), nil, nil, Warn, "2026-06-04", "renew"},
		"ended":             {tcp, server(t, old, oldKey, nil), nil, nil, Fail, "expired", "look at the clock"},
		"other CA":          {Endpoint{Network: "tcp", Address: "edge.example.com:1", TLS: true, Roots: others.pem}, open, nil, nil, Fail, "unknown authority", "of CN=ours"},
		"no CA":             {Endpoint{Network: "tcp", Address: "edge.example.com:1", TLS: true, Roots: []byte("x")}, open, nil, nil, Fail, "holds no certificate", "PEM"},
		"other name":        {Endpoint{Network: "tcp", Address: "other.example.com:1", TLS: true, Roots: ours.pem}, open, nil, nil, Fail, "other.example.com", "for edge.example.com"},
		"no TLS there":      {tcp, plain.Listener.Addr().String(), nil, nil, Fail, "no trust", "is it a TLS server"},
		"the device's own":  {api, mutual, files, nil, OK, "good until", ""},
		"not accepted":      {api, mutual, strangers, nil, Fail, "no trust", "does not accept this device's certificate"},
		"no credential":     {api, mutual, fstest.MapFS{"ca.pem": {Data: ours.pem}}, nil, Fail, "no trust", "does not accept"},
		"one of its own":    {shown(device, deviceKey), mutual, nil, nil, OK, "good until", ""},
		"one of a stranger": {shown(foreign, foreignKey), mutual, nil, nil, Fail, "no trust", "does not accept"},
		"none is shown":     {tcp, mutual, nil, nil, Fail, "no trust", "or wants one"},
		"no pair":           {shown(device, foreignKey), mutual, nil, nil, Fail, "of no use", "belong together"},
		"CA file is gone":   {api, mutual, fstest.MapFS{}, nil, Fail, "read CA", "ca-root"},
		"no address":        {Endpoint{Address: "edge"}, open, nil, nil, Fail, "missing port", "host:port"},
		"no name": {tcp, open, nil, func(h *Host) {
			h.Lookup = func(context.Context, string) ([]string, error) {
				return nil, &net.DNSError{Err: "no such host", Name: "x"}
			}
		}, Fail, "edge.example.com is not known", "resolv.conf"},
		"refused":     {tcp, "", nil, func(h *Host) { h.Dial = failing(syscall.ECONNREFUSED) }, Fail, "refused", "nobody listens"},
		"no way":      {tcp, "", nil, func(h *Host) { h.Dial = failing(syscall.ENETUNREACH) }, Fail, "unreachable", "ip route"},
		"silence":     {tcp, "", nil, func(h *Host) { h.Dial = failing(context.DeadlineExceeded) }, Fail, "deadline", "drops silently"},
		"who knows":   {tcp, "", nil, func(h *Host) { h.Dial = failing(syscall.EIO) }, Fail, "input/output", "ip route"},
		"address, no": {Endpoint{Network: "tcp", Address: "192.0.2.1:1"}, open, nil, func(h *Host) { h.Lookup = nil }, OK, "connected", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h, s, _ := sound()
			h.Dial = func(ctx context.Context, network, _ string) (net.Conn, error) {
				var d net.Dialer
				return d.DialContext(ctx, network, tt.at)
			}
			if tt.files != nil {
				h.Files, s.Credential = tt.files, credential
			}
			if tt.change != nil {
				tt.change(&h)
			}
			d := &doctor{Host: h, Subject: s}
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			f := d.endpoint(ctx, tt.endpoint)
			if f.Level != tt.level || !strings.Contains(f.Found, tt.found) || !strings.Contains(f.Advice, tt.advice) {
				t.Errorf("found %+v\nwant %s, %q, %q", f, tt.level, tt.found, tt.advice)
			}
		})
	}
}

func TestCertificate(t *testing.T) {
	t.Parallel()
	ours, others := newIssuer(t, "ours"), newIssuer(t, "others")
	credential := Credential{CertFile: "/cert.pem", KeyFile: "/key.pem", CAFiles: []string{"/ca.pem", "/none.pem"}}
	with := func(name string, before, after int) fstest.MapFS {
		cert, key := ours.issue(t, name, before, after)
		return fstest.MapFS{"cert.pem": {Data: cert}, "key.pem": {Data: key, Mode: 0o600}, "ca.pem": {Data: ours.pem}}
	}
	changed := func(change func(fstest.MapFS)) fstest.MapFS {
		files := with("edge-7", 10, 100)
		change(files)
		return files
	}
	_, strange := newKey(t)
	for name, tt := range map[string]struct {
		files  fstest.MapFS
		level  Level
		found  string
		advice string
	}{
		"well":          {with("edge-7", 10, 100), OK, `"edge-7", until 2026-09-09`, ""},
		"expired":       {with("edge-7", 100, -1), Fail, "expired", "clock first"},
		"not yet":       {with("edge-7", -1, 100), Fail, "not yet valid", "timedatectl"},
		"not renewed":   {with("edge-7", 100, 10), Warn, "should have been renewed", "flotta-agent status"},
		"register":      {with("register", 10, 100), Warn, "not registered", "approve"},
		"register, old": {with("Register", 100, -1), Fail, "expired", "registration certificate"},
		"other issuer":  {changed(func(f fstest.MapFS) { f["ca.pem"] = &fstest.MapFile{Data: others.pem} }), Warn, "none of the configured", "ca-root"},
		"no CA":         {changed(func(f fstest.MapFS) { delete(f, "ca.pem") }), OK, "edge-7", ""},
		"other key":     {changed(func(f fstest.MapFS) { f["key.pem"] = &fstest.MapFile{Data: strange, Mode: 0o600} }), Fail, "no use", "registration"},
		"no key":        {changed(func(f fstest.MapFS) { delete(f, "key.pem") }), Fail, "no use", "registration"},
		"no file":       {fstest.MapFS{}, Fail, "no use", "registration"},
		"noise":         {changed(func(f fstest.MapFS) { f["cert.pem"] = &fstest.MapFile{Data: []byte("noise")} }), Fail, "no use", "registration"},
		"open key":      {changed(func(f fstest.MapFS) { f["key.pem"].Mode = 0o644 }), Warn, "everybody can read the key /key.pem", "chmod 600"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := only(t, "certificate", func(h *Host, s *Subject, _ fstest.MapFS) { h.Files, s.Credential = tt.files, credential })[0]
			if f.Level != tt.level || !strings.Contains(f.Found, tt.found) || !strings.Contains(f.Advice, tt.advice) {
				t.Errorf("found %+v\nwant %s, %q, %q", f, tt.level, tt.found, tt.advice)
			}
		})
	}
	if f := only(t, "certificate", nil)[0]; f.Level != Fail || !strings.Contains(f.Advice, "cert-file") {
		t.Errorf("without one: %+v", f)
	}
}

func TestPodman(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		answer string // "": nobody listens
		status int
		level  Level
		found  string
		advice string
	}{
		"well":     {`{"Version":"4.3.1"}`, 200, OK, "Podman 4.3.1", ""},
		"new":      {`{"Version":"5.0.0-dev"}`, 200, OK, "Podman 5.0.0-dev", ""},
		"old":      {`{"Version":"4.1.9"}`, 200, Fail, "4.1.9", "4.2 or newer"},
		"nameless": {`{}`, 200, Fail, "Podman ", "4.2 or newer"},
		"noise":    {`<html>`, 200, Fail, "decode its version", "podman.service"},
		"ill":      {`{}`, 500, Fail, "500", "podman.socket"},
		"nobody":   {"", 0, Fail, "nobody listens", "systemctl --user --machine=flotta@ enable --now podman.socket"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			socket := filepath.Join(t.TempDir(), "s")
			if tt.answer != "" {
				l, err := net.Listen("unix", socket)
				if err != nil {
					t.Fatal(err)
				}
				s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
					w.WriteHeader(tt.status)
					_, _ = w.Write([]byte(tt.answer))
				}))
				_ = s.Listener.Close()
				s.Listener = l
				s.Start()
				t.Cleanup(s.Close)
			}
			f := only(t, "podman", func(h *Host, s *Subject, _ fstest.MapFS) {
				h.Dial, s.PodmanSocket = ThisHost().Dial, socket
			})[0]
			if f.Level != tt.level || !strings.Contains(f.Found, tt.found) || !strings.Contains(f.Advice, tt.advice) {
				t.Errorf("found %+v\nwant %s, %q, %q", f, tt.level, tt.found, tt.advice)
			}
		})
	}
}

// The machine that the tests run on has all that is looked at, in whichever
// state: nothing hangs, and each probe answers or says why not.
func TestThisHost(t *testing.T) {
	t.Parallel()
	h := ThisHost()
	if c, err := h.Clock(); err != nil || time.Since(c.Now) > time.Minute {
		t.Errorf("clock: %+v, %v", c, err)
	}
	if r, err := h.Room(t.TempDir()); err != nil || r.Total == 0 || r.Free > r.Total {
		t.Errorf("room: %+v, %v", r, err)
	}
	if text, err := h.text("/proc/sys/kernel/ostype"); err != nil || text != "Linux" {
		t.Errorf("text: %q, %v", text, err)
	}
	if h.exists("/does/not/exist") || !h.exists("/proc") {
		t.Error("what exists is not known")
	}
	if out, err := h.Command(t.Context(), "echo", "a", "b"); err != nil || out != "a b\n" {
		t.Errorf("command: %q, %v", out, err)
	}
	if out, err := h.Command(t.Context(), "sh", "-c", "echo out; echo first >&2; echo last >&2; exit 3"); err == nil || out != "out\n" || !strings.HasSuffix(err.Error(), "exit status 3: last") {
		t.Errorf("command that fails: %q, %v", out, err)
	}
	if _, err := h.Command(t.Context(), "does-not-exist"); err == nil {
		t.Error("a program that is not there runs")
	}
	if out, err := h.Command(t.Context(), "head", "-c", "3000000", "/dev/zero"); err != nil || len(out) != maxOutput {
		t.Errorf("much output: %d bytes, %v", len(out), err)
	}
	s := Subject{Root: true, StateDir: t.TempDir(), PodmanSocket: "/does/not/exist", WorkerFile: "/does/not/exist"}
	if r := Examine(t.Context(), h, s); len(r.Findings) < 10 {
		t.Errorf("report: %+v", r)
	}
}
