package file

import (
	"context"
	"crypto/x509"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/project-flotta/flotta-agent/internal/pki"
)

type metav1Time = metav1.Time

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }

func openKeys(t testing.TB, dir string, names ...string) *Keys {
	t.Helper()
	k, err := OpenKeys(context.Background(), KeysConfig{Dir: dir, DNSNames: names, IPs: []net.IP{net.IPv6loopback}, Logger: discard()})
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func fileText(t testing.TB, parts ...string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(parts...))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func serverLeaf(t testing.TB, k *Keys) *x509.Certificate {
	t.Helper()
	cert, err := k.Certificate()
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(cert.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	return leaf
}

func TestKeysAreMadeOnce(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	openKeys(t, dir, "a.example")
	files := []string{"ca.crt", "ca.key", "server.crt", "server.key", "register.crt", "register.key"}
	before := map[string]string{}
	for _, name := range files {
		before[name] = fileText(t, dir, pkiDir, name)
		info, err := os.Stat(filepath.Join(dir, pkiDir, name))
		if err != nil {
			t.Fatal(err)
		}
		if filepath.Ext(name) == ".key" && info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %s", name, info.Mode())
		}
	}
	openKeys(t, dir, "a.example")
	for _, name := range files {
		if fileText(t, dir, pkiDir, name) != before[name] {
			t.Errorf("%s was made again", name)
		}
	}
	// Defect 7.1.11: a changed DOMAIN was ignored.
	k := openKeys(t, dir, "b.example")
	if err := serverLeaf(t, k).VerifyHostname("b.example"); err != nil {
		t.Error(err)
	}
	if fileText(t, dir, pkiDir, "ca.crt") != before["ca.crt"] || fileText(t, dir, pkiDir, "register.crt") != before["register.crt"] {
		t.Error("more than the server's certificate was made again")
	}
}

// Defect 7.1.11: certificates were never renewed.
func TestKeysAreRenewedBeforeTheirEnd(t *testing.T) {
	t.Parallel()
	k := openKeys(t, t.TempDir(), "a.example")
	old := serverLeaf(t, k)
	register, err := k.Register()
	if err != nil {
		t.Fatal(err)
	}
	early := time.Now().Add(pki.ServerLifetime - renewBefore - time.Hour)
	if err := k.renew(context.Background(), early); err != nil {
		t.Fatal(err)
	}
	if !serverLeaf(t, k).Equal(old) {
		t.Error("renewed too early")
	}
	late := time.Now().Add(pki.ServerLifetime - renewBefore + time.Hour)
	if err := k.renew(context.Background(), late); err != nil {
		t.Fatal(err)
	}
	if leaf := serverLeaf(t, k); leaf.Equal(old) || leaf.NotAfter.Before(late.Add(pki.ServerLifetime-time.Minute)) {
		t.Error("not renewed")
	}
	if next, err := k.Register(); err != nil || string(next.CertPEM) == string(register.CertPEM) {
		t.Errorf("register certificate not renewed: %v", err)
	}
}

func TestKeysMadeByManyAtOnceAreTheSame(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var wg sync.WaitGroup
	authorities := make([]string, 8)
	for i := range authorities {
		wg.Go(func() {
			k, err := OpenKeys(context.Background(), KeysConfig{Dir: dir, DNSNames: []string{"x"}, Logger: discard()})
			if err != nil {
				t.Error(err)
				return
			}
			authorities[i] = string(k.Authority().CertificatePEM())
		})
	}
	wg.Wait()
	for _, a := range authorities {
		if a != authorities[0] {
			t.Fatal("two authorities")
		}
	}
}

func TestDamagedKeys(t *testing.T) {
	t.Parallel()
	open := func(dir string) (*Keys, error) {
		return OpenKeys(context.Background(), KeysConfig{Dir: dir, DNSNames: []string{"x"}, Logger: discard()})
	}
	remove := func(names ...string) func(string) error {
		return func(dir string) error {
			for _, name := range names {
				if err := os.Remove(filepath.Join(dir, pkiDir, name)); err != nil {
					return err
				}
			}
			return nil
		}
	}
	garbage := func(name string) func(string) error {
		return func(dir string) error { return os.WriteFile(filepath.Join(dir, pkiDir, name), []byte("x"), 0o600) }
	}
	for name, tt := range map[string]struct {
		damage        func(dir string) error
		ok, sameCA    bool
		sameRegistred bool
	}{
		"key of the authority lost":       {remove("ca.key"), false, false, false},
		"authority unreadable":            {garbage("ca.crt"), false, false, false},
		"crash before the certificate":    {remove("ca.crt", "server.crt", "server.key", "register.crt", "register.key"), true, false, false},
		"server key does not fit":         {garbage("server.key"), true, true, true},
		"server certificate unreadable":   {garbage("server.crt"), true, true, true},
		"crash between key and cert":      {remove("server.crt"), true, true, true},
		"register certificate unreadable": {garbage("register.crt"), true, true, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			k, err := open(dir)
			if err != nil {
				t.Fatal(err)
			}
			ca, register := string(k.Authority().CertificatePEM()), fileText(t, dir, pkiDir, "register.crt")
			if err := tt.damage(dir); err != nil {
				t.Fatal(err)
			}
			k, err = open(dir)
			if (err == nil) != tt.ok {
				t.Fatalf("open: %v", err)
			}
			if err != nil {
				return
			}
			if same := string(k.Authority().CertificatePEM()) == ca; same != tt.sameCA {
				t.Errorf("same authority: %v", same)
			}
			if same := fileText(t, dir, pkiDir, "register.crt") == register; same != tt.sameRegistred {
				t.Errorf("same register certificate: %v", same)
			}
			if err := k.Authority().Verify(serverLeaf(t, k), x509.ExtKeyUsageServerAuth, time.Now()); err != nil {
				t.Error(err)
			}
		})
	}
}

// A server certificate of somebody else is the user's and stays.
func TestUsersOwnServerCertificate(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	openKeys(t, dir, "x")
	cert, key := foreignServer(t)
	for name, text := range map[string][]byte{"server.crt": cert, "server.key": key} {
		if err := os.WriteFile(filepath.Join(dir, pkiDir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	k := openKeys(t, dir, "other.example")
	if got := serverLeaf(t, k).Issuer.Organization[0]; got != "Somebody" {
		t.Errorf("certificate replaced by one of %s", got)
	}
}
