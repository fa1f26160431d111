package main

import (
	"bytes"
	"context"
	"crypto/x509"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/project-flotta/flotta-agent/internal/pki"
)

func env(pairs ...string) func(string) string {
	m := make(map[string]string)
	for i := 0; i+1 < len(pairs); i += 2 {
		m[pairs[i]] = pairs[i+1]
	}
	return func(name string) string { return m[name] }
}

func TestDefaults(t *testing.T) {
	t.Parallel()
	s, err := readSettings(env("BACKEND", "file"))
	if err != nil {
		t.Fatal(err)
	}
	h := s.hosts()
	dns, ips := h.names, h.addresses
	if s.port != 8043 || s.domain != "project-flotta.io" || s.metricsAddr != "127.0.0.1:8080" || s.probeAddr != "" ||
		s.deviceLifetime != 30*24*time.Hour || s.autoApprove || len(s.namespaces) != 1 || s.namespaces[0] != "default" {
		t.Errorf("defaults: %+v", s)
	}
	if strings.Join(dns, " ") != "project-flotta.io localhost" || len(ips) != 2 {
		t.Errorf("names %v, addresses %v", dns, ips)
	}
}

func TestEveryBadValueIsNamed(t *testing.T) {
	t.Parallel()
	bad := []string{
		"HTTPS_PORT", "70000", "DOMAIN", "not a name", "TLS_LOCALHOST_ENABLED", "maybe", "TLS_IPS", "1.2.3", "METRICS_ADDR", "8080",
		"PROBE_ADDR", "x", "LOG_LEVEL", "loud", "CLIENT_CERT_EXPIRATION_DAYS", "0", "MAX_BODY_BYTES", "-1", "ALLOWED_NAMESPACES", "A_b",
		"AUTO_APPROVAL_PROCESS", "sometimes", "BACKEND", "etcd",
	}
	_, err := readSettings(env(bad...))
	if err == nil {
		t.Fatal("accepted")
	}
	for i := 0; i < len(bad); i += 2 {
		if !strings.Contains(err.Error(), bad[i]+"="+`"`+bad[i+1]+`"`) {
			t.Errorf("error does not name %s", bad[i])
		}
	}
}

// Defect 7.2.20: a backend without what it needs was found out by the first
// request.
func TestDefect7220BackendIsCheckedAtTheStart(t *testing.T) {
	t.Parallel()
	for want, e := range map[string]func(string) string{
		"REMOTE_BACKEND_URL is required": env("BACKEND", "remote"),
		"REMOTE_BACKEND_TIMEOUT":         env("BACKEND", "remote", "REMOTE_BACKEND_URL", "http://x", "REMOTE_BACKEND_TIMEOUT", "soon"),
		"REMOT_BACKEND_TIMEOUT":          env("BACKEND", "remote", "REMOTE_BACKEND_URL", "http://x", "REMOT_BACKEND_TIMEOUT", "-1s"),
		"connect to Kubernetes":          env("HTTPS_PORT", "0", "METRICS_ADDR", "0"),
		"scheme":                         env("BACKEND", "remote", "REMOTE_BACKEND_URL", "ftp://x", "FILE_BACKEND_DIR", t.TempDir()),
	} {
		c := command(e, &output{}, &output{})
		c.SetArgs(nil)
		if err := c.ExecuteContext(context.Background()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want an error about %s", err, want)
		}
	}
}

func TestRemoteTimeout(t *testing.T) {
	t.Parallel()
	remote := []string{"BACKEND", "remote", "REMOTE_BACKEND_URL", "https://config.example"}
	for _, c := range []struct {
		env        []string
		want       time.Duration
		deprecated bool
	}{
		{nil, 5 * time.Second, false},
		{[]string{"REMOTE_BACKEND_TIMEOUT", "7s"}, 7 * time.Second, false},
		{[]string{"REMOT_BACKEND_TIMEOUT", "9s"}, 9 * time.Second, true},
		{[]string{"REMOTE_BACKEND_TIMEOUT", "7s", "REMOT_BACKEND_TIMEOUT", "9s"}, 7 * time.Second, false},
	} {
		s, err := readSettings(env(append(slices.Clone(remote), c.env...)...))
		if err != nil || s.remoteTimeout != c.want || len(s.deprecated) > 0 != c.deprecated {
			t.Errorf("%v: %s, deprecated %v, %v; want %s, %t", c.env, s.remoteTimeout, s.deprecated, err, c.want, c.deprecated)
		}
	}
}

func TestNamesOfTheCertificate(t *testing.T) {
	t.Parallel()
	s, err := readSettings(env("BACKEND", "file", "DOMAIN", "10.0.0.1", "TLS_LOCALHOST_ENABLED", "false", "TLS_IPS", "10.0.0.2, fd00::1"))
	if err != nil {
		t.Fatal(err)
	}
	h := s.hosts()
	dns, ips := h.names, h.addresses
	if len(dns) != 0 || len(ips) != 3 || !ips[0].Equal(net.IPv4(10, 0, 0, 1)) || !ips[2].Equal(net.ParseIP("fd00::1")) {
		t.Errorf("names %v, addresses %v", dns, ips)
	}
}

type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// The program serves until it is told to end, and its subcommands work beside it.
func TestServeAndSubcommands(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	e := env("BACKEND", "file", "FILE_BACKEND_DIR", dir, "HTTPS_PORT", "0", "METRICS_ADDR", "127.0.0.1:0", "DOMAIN", "edge.example")
	run := func(ctx context.Context, stderr *output, args ...string) (string, error) {
		var out output
		c := command(e, &out, stderr)
		c.SetArgs(args)
		err := c.ExecuteContext(ctx)
		return out.String(), err
	}
	ctx, cancel := context.WithCancel(context.Background())
	var log output
	done := make(chan error, 1)
	go func() {
		_, err := run(ctx, &log)
		done <- err
	}()
	for deadline := time.Now().Add(15 * time.Second); !strings.Contains(log.String(), "serving devices"); {
		if time.Now().After(deadline) {
			t.Fatalf("not serving:\n%s", log.String())
		}
		time.Sleep(5 * time.Millisecond)
	}
	folder := filepath.Join(t.TempDir(), "boot")
	out, err := run(ctx, &log, "bootstrap", folder)
	if err != nil || !strings.Contains(out, `server = "edge.example:0"`) || !strings.Contains(out, `path-prefix = "api/flotta-management/v1"`) {
		t.Errorf("bootstrap: %v\n%s", err, out)
	}
	checkBootstrap(t, folder)
	if out, err := run(ctx, &log, "devices"); err != nil || !strings.HasPrefix(out, "NAMESPACE") {
		t.Errorf("devices: %v %s", err, out)
	}
	if _, err := run(ctx, &log, "approve", "unknown"); err == nil {
		t.Error("approved a device that did not ask")
	}
	if _, err := run(ctx, &log, "delete", "unknown"); err == nil {
		t.Error("deleted a device that is not known")
	}
	if out, err := run(ctx, &log, "decline", "dev1"); err != nil || !strings.Contains(out, "dev1 declined") {
		t.Errorf("decline: %v %s", err, out)
	}
	// A second server on the folder is refused.
	if _, err := run(ctx, &log); err == nil || !strings.Contains(err.Error(), "lock") {
		t.Errorf("second server: %v", err)
	}
	cancel()
	select {
	case err := <-done:
		if err != nil {
			t.Errorf("serve: %v", err)
		}
	case <-time.After(15 * time.Second):
		t.Fatal("does not end")
	}
}

// checkBootstrap looks for a credential that the authority beside it signed.
func checkBootstrap(t *testing.T, folder string) {
	t.Helper()
	ca, err := os.ReadFile(filepath.Join(folder, exportedAuthority))
	if err != nil {
		t.Fatal(err)
	}
	both, err := os.ReadFile(filepath.Join(folder, exportedClient))
	if err != nil {
		t.Fatal(err)
	}
	cert, _, err := pki.ParseKeyPair(both, both)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	if _, err := cert.Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
		t.Error(err)
	}
}

func TestPortTakenIsSaidAtTheStart(t *testing.T) {
	t.Parallel()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	c := command(env("BACKEND", "file", "FILE_BACKEND_DIR", t.TempDir(), "HTTPS_PORT", "0", "METRICS_ADDR", ln.Addr().String()), &output{}, &output{})
	c.SetArgs(nil)
	if err := c.ExecuteContext(context.Background()); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("serve: %v", err)
	}
}
