package kube

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"

	"github.com/project-flotta/flotta-agent/internal/pki"
)

// Secrets of the keys and what is in them, as flotta v0.2 has them.
const (
	// DefaultKeysNamespace is where the Secrets are.
	DefaultKeysNamespace = "flotta"

	authoritySecret = "flotta-ca"
	authorityCert   = "ca.crt"
	authorityKey    = "ca.key"

	serverSecret = "flotta-host-certificate"
	serverCert   = "server.crt"
	serverKey    = "server.key"

	registerPrefix = "reg-client-ca-"
	registerLabel  = "reg-client-ca"
	registerCert   = "client.crt"
	registerKey    = "client.key"
)

const (
	// registerReserve is how long a register certificate must be good for to be
	// used: devices that are delivered with it need some time.
	registerReserve = 60 * 24 * time.Hour
	// keysCheck is how often the Secrets are looked at: by then all replicas
	// serve with a certificate that one of them made.
	keysCheck = time.Minute
)

// KeysConfig sets Keys. REST and Logger are required.
type KeysConfig struct {
	REST *rest.Config
	// Namespace is where the Secrets are. Default DefaultKeysNamespace.
	Namespace string
	// DNSNames and IPs are what devices may call the server. Without any, the
	// server's certificate is neither read nor made.
	DNSNames []string
	IPs      []net.IP
	Logger   *slog.Logger
}

// Keys are the authority, the server's certificate and the register certificate,
// in Secrets that are made when they are not there. What is there and cannot be
// read is never overwritten, and a server certificate of another authority is
// the user's own and left alone.
type Keys struct {
	cfg       KeysConfig
	secrets   corev1client.SecretInterface
	authority *pki.Authority
	issuer    []byte // the authority's name, as its certificates have it
	server    atomic.Pointer[serving]
	register  atomic.Pointer[pki.KeyPair]
}

// serving is a server certificate and where it is from.
type serving struct {
	cert    *tls.Certificate
	version string // of the Secret
}

// OpenKeys reads the keys, and makes what is missing. Replicas that do so at once
// end with the same.
func OpenKeys(ctx context.Context, cfg KeysConfig) (*Keys, error) {
	if cfg.REST == nil || cfg.Logger == nil {
		return nil, errors.New("open keys: REST and Logger are required")
	}
	if cfg.Namespace == "" {
		cfg.Namespace = DefaultKeysNamespace
	}
	base := rest.CopyConfig(cfg.REST)
	if base.UserAgent == "" {
		base.UserAgent = userAgent
	}
	core, err := corev1client.NewForConfig(base)
	if err != nil {
		return nil, fmt.Errorf("open keys: %w", err)
	}
	k := &Keys{cfg: cfg, secrets: core.Secrets(cfg.Namespace)}
	if err := k.renew(ctx, time.Now()); err != nil {
		return nil, fmt.Errorf("open keys: %w", err)
	}
	return k, nil
}

// Authority returns the authority.
func (k *Keys) Authority() *pki.Authority { return k.authority }

// Certificate returns the server's certificate that is valid now.
func (k *Keys) Certificate() (*tls.Certificate, error) {
	if s := k.server.Load(); s != nil {
		return s.cert, nil
	}
	return nil, errors.New("no server certificate")
}

// Register returns the register certificate.
func (k *Keys) Register() (pki.KeyPair, error) {
	if pair := k.register.Load(); pair != nil {
		return *pair, nil
	}
	return pki.KeyPair{}, errors.New("no register certificate")
}

// Run replaces certificates before they end, and takes over what another replica
// replaced, until ctx ends.
func (k *Keys) Run(ctx context.Context) error {
	ticker := time.NewTicker(keysCheck)
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
	if k.authority == nil {
		authority, err := k.openAuthority(ctx, now)
		if err != nil {
			return err
		}
		cert, err := pki.ParseCertificate(authority.CertificatePEM())
		if err != nil {
			return err
		}
		k.authority, k.issuer = authority, cert.RawSubject
	}
	if err := k.authority.CheckValidity(now); err != nil {
		return err
	}
	// One that cannot be made is no reason to let the other one end.
	err := k.openRegister(ctx, now)
	if len(k.cfg.DNSNames)+len(k.cfg.IPs) == 0 {
		return err
	}
	return errors.Join(err, k.openServer(ctx, now))
}

// broken says what is wrong with a Secret, for the person who can mend it.
func (k *Keys) broken(name, key string, err error) error {
	advice := "put it right, or delete the Secret to have it made anew"
	if name == authoritySecret {
		advice = "put back the one that was there: with another one all devices have to register anew"
	}
	return fmt.Errorf("key %q of Secret %s/%s: %w; %s", key, k.cfg.Namespace, name, err, advice)
}

var errNoKey = errors.New("there is none")

// parse reads a pair of a Secret and says which part of it is wrong.
func (k *Keys) parse(secret *corev1.Secret, certKey, keyKey string) (pki.KeyPair, *x509.Certificate, error) {
	pair := pki.KeyPair{CertPEM: secret.Data[certKey], KeyPEM: secret.Data[keyKey]}
	for _, key := range []string{certKey, keyKey} {
		if len(secret.Data[key]) == 0 {
			return pair, nil, k.broken(secret.Name, key, errNoKey)
		}
	}
	if _, err := pki.ParseCertificate(pair.CertPEM); err != nil {
		return pair, nil, k.broken(secret.Name, certKey, err)
	}
	if _, err := pki.ParseKey(pair.KeyPEM); err != nil {
		return pair, nil, k.broken(secret.Name, keyKey, err)
	}
	cert, _, err := pki.ParseKeyPair(pair.CertPEM, pair.KeyPEM)
	if err != nil {
		return pair, nil, k.broken(secret.Name, keyKey, err)
	}
	return pair, cert, nil
}

// getOrCreate returns a Secret, made by build when it is not there. Made says
// that it was made here.
func (k *Keys) getOrCreate(ctx context.Context, name string, build func() (*corev1.Secret, error)) (secret *corev1.Secret, made bool, err error) {
	// A Secret that is deleted between the two is made the next time.
	for range 3 {
		secret, err = k.secrets.Get(ctx, name, metav1.GetOptions{})
		if err == nil {
			return secret, false, nil
		}
		if !apierrors.IsNotFound(err) {
			return nil, false, fmt.Errorf("read Secret %s/%s: %w", k.cfg.Namespace, name, err)
		}
		wanted, err := build()
		if err != nil {
			return nil, false, err
		}
		secret, err = k.secrets.Create(ctx, wanted, metav1.CreateOptions{})
		if err == nil {
			return secret, true, nil
		}
		if !apierrors.IsAlreadyExists(err) {
			return nil, false, fmt.Errorf("create Secret %s/%s: %w", k.cfg.Namespace, name, err)
		}
	}
	return nil, false, fmt.Errorf("create Secret %s/%s: others make and remove it all the time", k.cfg.Namespace, name)
}

func (k *Keys) secret(name string, data map[string][]byte) *corev1.Secret {
	return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: k.cfg.Namespace, Name: name}, Type: corev1.SecretTypeOpaque, Data: data}
}

func (k *Keys) openAuthority(ctx context.Context, now time.Time) (*pki.Authority, error) {
	secret, made, err := k.getOrCreate(ctx, authoritySecret, func() (*corev1.Secret, error) {
		authority, err := pki.NewAuthority(now)
		if err != nil {
			return nil, err
		}
		keyPEM, err := authority.KeyPEM()
		if err != nil {
			return nil, err
		}
		return k.secret(authoritySecret, map[string][]byte{authorityCert: authority.CertificatePEM(), authorityKey: keyPEM}), nil
	})
	if err != nil {
		return nil, err
	}
	pair, _, err := k.parse(secret, authorityCert, authorityKey)
	if err != nil {
		return nil, err
	}
	authority, err := pki.ParseAuthority(pair.CertPEM, pair.KeyPEM)
	if err != nil {
		return nil, k.broken(authoritySecret, authorityCert, err)
	}
	if made {
		k.cfg.Logger.Info("authority created", "secret", authoritySecret, "until", authority.NotAfter())
	}
	return authority, nil
}

// openServer reads the server's certificate, and replaces it when it is time.
func (k *Keys) openServer(ctx context.Context, now time.Time) error {
	issue := func() (*corev1.Secret, error) {
		pair, err := k.authority.IssueServer(k.profile(), now)
		if err != nil {
			return nil, err
		}
		return k.secret(serverSecret, map[string][]byte{serverCert: pair.CertPEM, serverKey: pair.KeyPEM}), nil
	}
	for range maxConflicts {
		secret, made, err := k.getOrCreate(ctx, serverSecret, issue)
		if err != nil {
			return err
		}
		if last := k.server.Load(); !made && last != nil && last.version == secret.ResourceVersion && k.serverFits(last.cert.Leaf, now) {
			return nil
		}
		pair, cert, err := k.parse(secret, serverCert, serverKey)
		if err != nil {
			return err
		}
		if k.serverFits(cert, now) {
			return k.serve(pair, secret.ResourceVersion)
		}
		// The update is bound to what was read: of two replicas one is first, and
		// the other one reads what it made.
		next, err := issue()
		if err != nil {
			return err
		}
		secret = secret.DeepCopy()
		secret.Data[serverCert], secret.Data[serverKey] = next.Data[serverCert], next.Data[serverKey]
		_, err = k.secrets.Update(ctx, secret, metav1.UpdateOptions{})
		if err != nil && !apierrors.IsConflict(err) && !apierrors.IsNotFound(err) {
			return fmt.Errorf("update Secret %s/%s: %w", k.cfg.Namespace, serverSecret, err)
		}
		if err == nil {
			k.cfg.Logger.Info("server certificate issued", "secret", serverSecret, "names", k.cfg.DNSNames)
		}
	}
	return fmt.Errorf("update Secret %s/%s: others change it all the time; do all replicas have the same names?", k.cfg.Namespace, serverSecret)
}

func (k *Keys) serve(pair pki.KeyPair, version string) error {
	cert, err := tls.X509KeyPair(pair.CertPEM, pair.KeyPEM)
	if err != nil {
		return k.broken(serverSecret, serverCert, err)
	}
	if cert.Leaf == nil {
		if cert.Leaf, err = x509.ParseCertificate(cert.Certificate[0]); err != nil {
			return k.broken(serverSecret, serverCert, err)
		}
	}
	k.server.Store(&serving{cert: &cert, version: version})
	return nil
}

func (k *Keys) profile() pki.ServerProfile {
	return pki.ServerProfile{DNSNames: k.cfg.DNSNames, IPs: k.cfg.IPs}
}

// serverFits reports whether a certificate can be served: it is the user's own,
// or one for the names that are wanted with a third of its life left.
func (k *Keys) serverFits(cert *x509.Certificate, now time.Time) bool {
	if !bytes.Equal(cert.RawIssuer, k.issuer) && !slices.Contains(cert.Issuer.Organization, pki.Organization) {
		return true
	}
	life := cert.NotAfter.Sub(cert.NotBefore)
	if k.authority.Verify(cert, x509.ExtKeyUsageServerAuth, now) != nil || now.Add(life/3).After(cert.NotAfter) {
		return false
	}
	return k.profile().Fits(cert)
}
