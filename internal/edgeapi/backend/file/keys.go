package file

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"

	"github.com/project-flotta/flotta-agent/internal/durable"
	"github.com/project-flotta/flotta-agent/internal/pki"
)

// Files of the pki folder.
const (
	pkiDir       = "pki"
	authorityPKI = "ca"
	serverPKI    = "server"
	registerPKI  = "register"
	pkiLock      = ".lock"
)

const (
	// renewBefore is how long before its end a certificate is replaced. Devices
	// that are delivered with a register certificate should have some time left.
	renewBefore = 30 * 24 * time.Hour
	// renewCheck is how often that is looked at.
	renewCheck = time.Hour
)

// KeysConfig sets Keys. Dir and Logger are required.
type KeysConfig struct {
	// Dir is the backend's folder; the keys are in pki/ below it.
	Dir string
	// DNSNames and IPs are what devices may call the server. Without any, the
	// server's certificate is neither read nor made.
	DNSNames []string
	IPs      []net.IP
	Logger   *slog.Logger
}

// Keys are the authority, the server's certificate and the register certificate,
// made when they are not there. Files:
//
//	ca.crt, ca.key             made once and then never touched
//	server.crt, server.key     replaced when names change or the end is near
//	register.crt, register.key replaced when the end is near
//
// A server certificate of another authority is the user's own and left alone.
type Keys struct {
	cfg       KeysConfig
	dir       string
	lock      diskLock
	authority *pki.Authority
	server    atomic.Pointer[tls.Certificate]
}

// OpenKeys reads the keys, and makes what is missing. Processes that do so at
// once end with the same.
func OpenKeys(ctx context.Context, cfg KeysConfig) (*Keys, error) {
	if cfg.Dir == "" || cfg.Logger == nil {
		return nil, errors.New("open keys: Dir and Logger are required")
	}
	k := &Keys{cfg: cfg, dir: filepath.Join(cfg.Dir, pkiDir)}
	k.lock.path = filepath.Join(k.dir, pkiLock)
	if err := os.MkdirAll(k.dir, dirPerm); err != nil {
		return nil, fmt.Errorf("open keys: %w", err)
	}
	if err := k.renew(ctx, time.Now()); err != nil {
		return nil, fmt.Errorf("open keys: %w", err)
	}
	return k, nil
}

// Authority returns the authority.
func (k *Keys) Authority() *pki.Authority { return k.authority }

// Certificate returns the server's certificate that is valid now.
func (k *Keys) Certificate() (*tls.Certificate, error) {
	if cert := k.server.Load(); cert != nil {
		return cert, nil
	}
	return nil, errors.New("no server certificate")
}

// Register returns the register certificate.
func (k *Keys) Register() (pki.KeyPair, error) { return k.read(registerPKI) }

// Run replaces certificates before they end, until ctx ends.
func (k *Keys) Run(ctx context.Context) error {
	ticker := time.NewTicker(renewCheck)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			if err := k.renew(ctx, time.Now()); err != nil && ctx.Err() == nil {
				k.cfg.Logger.Error("certificates not renewed", "err", err)
			}
		}
	}
}

// renew makes what is missing or about to end.
func (k *Keys) renew(ctx context.Context, now time.Time) error {
	release, err := k.lock.acquire(ctx)
	if err != nil {
		return err
	}
	defer release()
	if k.authority == nil {
		if k.authority, err = k.openAuthority(now); err != nil {
			return err
		}
	}
	if err := k.authority.CheckValidity(now); err != nil {
		return err
	}
	_, err = k.ensure(registerPKI, now, func(*x509.Certificate) bool { return true }, func() (pki.KeyPair, error) {
		return k.authority.IssueRegister(0, now)
	})
	if err != nil || len(k.cfg.DNSNames)+len(k.cfg.IPs) == 0 {
		return err
	}
	profile := pki.ServerProfile{DNSNames: k.cfg.DNSNames, IPs: k.cfg.IPs}
	server, err := k.ensure(serverPKI, now, profile.Fits, func() (pki.KeyPair, error) {
		return k.authority.IssueServer(profile, now)
	})
	if err != nil {
		return err
	}
	cert, err := tls.X509KeyPair(server.CertPEM, server.KeyPEM)
	if err != nil {
		return fmt.Errorf("load server certificate: %w", err)
	}
	k.server.Store(&cert)
	return nil
}

// openAuthority reads the authority. The certificate is written last, so a key
// alone is what a crash left, or a mistake; it is set aside and not overwritten.
func (k *Keys) openAuthority(now time.Time) (*pki.Authority, error) {
	pair, err := k.read(authorityPKI)
	if err == nil {
		return pki.ParseAuthority(pair.CertPEM, pair.KeyPEM)
	}
	certPath, keyPath := k.paths(authorityPKI)
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if _, err := os.Lstat(certPath); err == nil {
		return nil, fmt.Errorf("%s is there but %s is not: put the key back, or remove both to start over", certPath, keyPath)
	}
	if _, err := os.Lstat(keyPath); err == nil {
		if _, err := durable.SetAside(keyPath); err != nil {
			return nil, fmt.Errorf("set aside key without certificate: %w", err)
		}
	}
	authority, err := pki.NewAuthority(now)
	if err != nil {
		return nil, err
	}
	keyPEM, err := authority.KeyPEM()
	if err != nil {
		return nil, err
	}
	if err := k.write(authorityPKI, pki.KeyPair{CertPEM: authority.CertificatePEM(), KeyPEM: keyPEM}); err != nil {
		return nil, err
	}
	k.cfg.Logger.Info("authority created", "path", certPath, "until", authority.NotAfter())
	return authority, nil
}

// ensure returns a pair that fits, which may be a new one.
func (k *Keys) ensure(name string, now time.Time, fits func(*x509.Certificate) bool, issue func() (pki.KeyPair, error)) (pki.KeyPair, error) {
	pair, err := k.read(name)
	if err == nil {
		cert, _, err := pki.ParseKeyPair(pair.CertPEM, pair.KeyPEM)
		if err == nil && name == serverPKI && !slices.Contains(cert.Issuer.Organization, pki.Organization) {
			return pair, nil // the user's own
		}
		if err == nil && k.authority.Verify(cert, usageOf(name), now) == nil && fits(cert) && now.Add(renewBefore).Before(cert.NotAfter) {
			return pair, nil
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return pki.KeyPair{}, err
	}
	if pair, err = issue(); err != nil {
		return pki.KeyPair{}, err
	}
	if err := k.write(name, pair); err != nil {
		return pki.KeyPair{}, err
	}
	k.cfg.Logger.Info("certificate issued", "name", name)
	return pair, nil
}

func usageOf(name string) x509.ExtKeyUsage {
	if name == serverPKI {
		return x509.ExtKeyUsageServerAuth
	}
	return x509.ExtKeyUsageClientAuth
}

func (k *Keys) paths(name string) (cert, key string) {
	return filepath.Join(k.dir, name+".crt"), filepath.Join(k.dir, name+".key")
}

func (k *Keys) read(name string) (pki.KeyPair, error) {
	certPath, keyPath := k.paths(name)
	cert, err := os.ReadFile(certPath)
	if err != nil {
		return pki.KeyPair{}, fmt.Errorf("read certificate: %w", err)
	}
	key, err := os.ReadFile(keyPath)
	if err != nil {
		return pki.KeyPair{}, fmt.Errorf("read key: %w", err)
	}
	return pki.KeyPair{CertPEM: cert, KeyPEM: key}, nil
}

func (k *Keys) write(name string, pair pki.KeyPair) error {
	certPath, keyPath := k.paths(name)
	if err := durable.WriteFile(keyPath, pair.KeyPEM, filePerm); err != nil {
		return fmt.Errorf("store key: %w", err)
	}
	if err := durable.WriteFile(certPath, pair.CertPEM, 0o644); err != nil {
		return fmt.Errorf("store certificate: %w", err)
	}
	return nil
}
