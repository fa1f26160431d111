//go:build device

package e2e

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/project-flotta/flotta-agent/internal/pki"
	"github.com/project-flotta/flotta-agent/pkg/api/v1alpha1"
	"github.com/project-flotta/flotta-agent/test/site"
)

// certify puts a certificate for the device's own key in place, as the Edge API
// would have issued it at that time, and returns it. yggd reads it at its start.
func (r *rig) certify(issued time.Time, life time.Duration) *x509.Certificate {
	r.Helper()
	_, err := r.edge.Run(r.ctx, "systemctl", "stop", r.edge.Service())
	must(r.T, err)
	raw, err := r.edge.ReadFile(credentialFile)
	must(r.T, err)
	_, keyText := pem.Decode(raw) // the certificate comes first
	key, err := pki.ParseKey(keyText)
	must(r.T, err)
	text, err := pki.CertificateRequest(key, r.edge.ID())
	must(r.T, err)
	request, err := pki.ParseRequest(text)
	must(r.T, err)
	folder := filepath.Join(filepath.Dir(r.site.ManifestDir()), "pki")
	caCert, err := os.ReadFile(filepath.Join(folder, "ca.crt"))
	must(r.T, err)
	caKey, err := os.ReadFile(filepath.Join(folder, "ca.key"))
	must(r.T, err)
	authority, err := pki.ParseAuthority(caCert, caKey)
	must(r.T, err)
	certPEM, err := authority.IssueDevice(request, pki.DeviceProfile{ID: r.edge.ID(), Namespace: r.site.Namespace, Lifetime: life}, issued)
	must(r.T, err)
	must(r.T, r.edge.WriteFile(credentialFile, append(certPEM, keyText...), 0o600))
	_, err = r.edge.Run(r.ctx, "systemctl", "start", r.edge.Service())
	must(r.T, err)
	leaf, err := pki.ParseCertificate(certPEM)
	must(r.T, err)
	return leaf
}

// renewed waits until another certificate than old is in place, with a key of
// its own, and the device works with it: it takes a configuration.
func (r *rig) renewed(old *x509.Certificate, round string) *x509.Certificate {
	r.Helper()
	var now *x509.Certificate
	r.until("another certificate is in place", func() error {
		now = r.certificate()
		if now.SerialNumber.Cmp(old.SerialNumber) == 0 {
			return fmt.Errorf("serial is still %s", old.SerialNumber)
		}
		return nil
	})
	if pki.Fingerprint(now) == pki.Fingerprint(old) {
		r.Error("the certificate was renewed for the old key")
	}
	if until := time.Until(now.NotAfter); until < 24*time.Hour {
		r.Errorf("the new certificate ends in %s", until)
	}
	r.save("probe.yaml", r.pod("probe", "18081", round))
	r.answers("18081", "/env?name=ROUND", round)
	return now
}

func TestRenewalLeavesWorkloadsAlone(t *testing.T) {
	t.Parallel()
	r := newRig(t, site.EdgeConfig{})
	r.save("w.yaml", r.pod("steady", "18080", "one"))
	r.answers("18080", "/env?name=ROUND", "one")
	r.phase("steady", "Running")
	id := r.running("steady", "app")
	first := r.certificate()
	hold(t, 5*time.Second, func() error {
		if now := r.certificate(); now.SerialNumber.Cmp(first.SerialNumber) != 0 {
			return fmt.Errorf("a fresh certificate was renewed")
		}
		return nil
	})

	r.sub("past two thirds of its life time", func(r *rig) {
		old := r.certify(time.Now(), 4*time.Hour) // 24 of 28 hours are over
		next := r.renewed(old, "late")
		r.until("the renewal is an event", func() error { return r.reported("CertificateRenewed") })
		hold(r.T, 5*time.Second, func() error {
			if now := r.certificate(); now.SerialNumber.Cmp(next.SerialNumber) != 0 {
				return fmt.Errorf("it was renewed again")
			}
			return nil
		})
	})
	r.sub("expired at the boot", func(r *rig) {
		old := r.certify(time.Now().Add(-10*time.Minute), time.Minute)
		r.renewed(old, "expired")
	})
	r.sub("refused by the server", func(r *rig) {
		old := r.certificate()
		r.unregister()
		r.renewed(old, "refused")
	})
	if now := r.running("steady", "app"); now != id {
		t.Error("the workload was restarted")
	}
}

// unregister makes the Edge API refuse the device's certificate, as one that is
// approved anew and has still to register.
func (r *rig) unregister() {
	r.Helper()
	path := filepath.Join(filepath.Dir(r.site.ManifestDir()), "devices", r.site.Namespace, r.edge.ID()+".yaml")
	device, err := r.site.Device(r.edge.ID())
	must(r.T, err)
	if device.Labels == nil {
		device.Labels = map[string]string{}
	}
	device.Labels[v1alpha1.LabelSignedRequest] = v1alpha1.LabelTrue
	raw, err := yaml.Marshal(device)
	must(r.T, err)
	must(r.T, os.WriteFile(path+"~", raw, 0o600))
	must(r.T, os.Rename(path+"~", path))
}

// reported returns nil when an event of that reason has arrived.
func (r *rig) reported(reason string) error {
	if strings.Contains(r.site.Events(r.edge.ID()), reason) {
		return nil
	}
	return fmt.Errorf("events: %s", r.site.Events(r.edge.ID()))
}
