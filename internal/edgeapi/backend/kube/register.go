package kube

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base32"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/project-flotta/flotta-agent/internal/pki"
)

// maxRegister bounds the Secrets of one authority: at one a year they last
// longer than it.
const maxRegister = 100

// openRegister finds a register certificate that is good for a while, or makes
// one.
func (k *Keys) openRegister(ctx context.Context, now time.Time) error {
	if last := k.register.Load(); last != nil {
		if cert, _, err := pki.ParseKeyPair(last.CertPEM, last.KeyPEM); err == nil && k.registerFits(cert, now) {
			return nil
		}
	}
	list, err := k.secrets.List(ctx, metav1.ListOptions{LabelSelector: registerLabel + "=" + "true"})
	if err != nil {
		return fmt.Errorf("list register Secrets of namespace %s: %w", k.cfg.Namespace, err)
	}
	var best *pki.KeyPair
	var until time.Time
	for i := range list.Items {
		pair, cert, err := k.parse(&list.Items[i], registerCert, registerKey)
		if err != nil {
			k.cfg.Logger.Warn("register certificate not used", "err", err)
			continue
		}
		if k.registerFits(cert, now) && cert.NotAfter.After(until) {
			best, until = &pair, cert.NotAfter
		}
	}
	if best == nil {
		if best, err = k.makeRegister(ctx, now); err != nil {
			return err
		}
	}
	k.register.Store(best)
	return nil
}

func (k *Keys) registerFits(cert *x509.Certificate, now time.Time) bool {
	return k.authority.Verify(cert, x509.ExtKeyUsageClientAuth, now) == nil && cert.Subject.CommonName == pki.RegisterName &&
		now.Add(registerReserve).Before(cert.NotAfter)
}

// makeRegister makes a Secret whose name follows from the authority and a
// number, so that replicas that do so at once make one.
func (k *Keys) makeRegister(ctx context.Context, now time.Time) (*pki.KeyPair, error) {
	for n := range maxRegister {
		name := registerName(k.authority, n)
		secret, made, err := k.getOrCreate(ctx, name, func() (*corev1.Secret, error) {
			pair, err := k.authority.IssueRegister(0, now)
			if err != nil {
				return nil, err
			}
			secret := k.secret(name, map[string][]byte{registerCert: pair.CertPEM, registerKey: pair.KeyPEM})
			secret.Labels = map[string]string{registerLabel: "true"}
			return secret, nil
		})
		if err != nil {
			return nil, err
		}
		pair, cert, err := k.parse(secret, registerCert, registerKey)
		if err != nil || !k.registerFits(cert, now) {
			continue // it had its time, or is broken; the next name
		}
		if made {
			k.cfg.Logger.Info("register certificate issued", "secret", name, "until", cert.NotAfter)
		}
		return &pair, nil
	}
	return nil, fmt.Errorf("make register certificate: %d Secrets of the authority are used up", maxRegister)
}

// registerName is the name of the nth register Secret of an authority.
func registerName(a *pki.Authority, n int) string {
	sum := sha256.Sum256(fmt.Appendf(a.CertificatePEM(), "%d", n))
	return registerPrefix + strings.ToLower(base32.StdEncoding.EncodeToString(sum[:]))[:10]
}
