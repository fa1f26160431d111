//go:build integration

package kube

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/project-flotta/flotta-agent/internal/pki"
)

// keysRig is a namespace that keys can be in, with the rights that the Edge API
// has in its own.
func keysRig(t testing.TB) *rig {
	t.Helper()
	r := bareRig(t)
	var role rbacv1.Role
	if err := cluster.kube.Get(t.Context(), "/apis/rbac.authorization.k8s.io/v1/namespaces/flotta/roles/flotta-edge-api-keys", &role); err != nil {
		t.Fatal(err)
	}
	rules, err := json.Marshal(role.Rules)
	if err != nil {
		t.Fatal(err)
	}
	r.apply("apiVersion: rbac.authorization.k8s.io/v1\nkind: Role\nmetadata: {name: flotta-edge-api-keys, namespace: $NS}\nrules: " + string(rules))
	r.apply(`apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: flotta-edge-api-keys, namespace: $NS}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: flotta-edge-api-keys}
subjects: [{kind: ServiceAccount, name: flotta-edge-api, namespace: flotta}]`)
	r.remove("rbac.authorization.k8s.io/v1", "RoleBinding", "flotta-edge-api-device-objects")
	return r
}

func (r *rig) keys(names ...string) (*Keys, error) {
	return OpenKeys(r.t.Context(), KeysConfig{REST: edgeAPI(), Namespace: r.namespace, DNSNames: names, Logger: r.log})
}

func (r *rig) mustKeys(names ...string) *Keys {
	r.t.Helper()
	k, err := r.keys(names...)
	if err != nil {
		r.t.Fatal(err)
	}
	return k
}

func (r *rig) secrets() []corev1.Secret {
	r.t.Helper()
	list, err := r.admin.core.Secrets(r.namespace).List(r.t.Context(), metav1.ListOptions{})
	if err != nil {
		r.t.Fatal(err)
	}
	return list.Items
}

func (r *rig) putSecret(name string, labels map[string]string, data map[string][]byte) {
	r.t.Helper()
	_, err := r.admin.core.Secrets(r.namespace).Create(r.t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}, Data: data}, metav1.CreateOptions{})
	if err != nil {
		r.t.Fatal(err)
	}
}

// leaf is the certificate that is served.
func leaf(t testing.TB, k *Keys) *x509.Certificate {
	t.Helper()
	cert, err := k.Certificate()
	if err != nil {
		t.Fatal(err)
	}
	return cert.Leaf
}

// Replicas that start at once end with one authority, one server certificate and
// one register certificate, and later starts use the same.
func TestKeysOfManyReplicas(t *testing.T) {
	t.Parallel()
	r := keysRig(t)
	const n = 6
	all := make([]*Keys, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			var err error
			if all[i], err = r.keys("edge.example"); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		return
	}
	all = append(all, r.mustKeys("edge.example"))
	pair, err := all[0].Register()
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range all[1:] {
		other, err := k.Register()
		if err != nil || !bytes.Equal(other.CertPEM, pair.CertPEM) || !bytes.Equal(k.Authority().CertificatePEM(), all[0].Authority().CertificatePEM()) || !leaf(t, k).Equal(leaf(t, all[0])) {
			t.Errorf("replicas have different keys: %v", err)
		}
	}
	var names []string
	for _, s := range r.secrets() {
		names = append(names, s.Name)
		if strings.HasPrefix(s.Name, "reg-client-ca-") && (len(s.Name) != len("reg-client-ca-")+10 || s.Labels["reg-client-ca"] != "true" || len(s.Data) != 2) {
			t.Errorf("register secret %s, labels %v", s.Name, s.Labels)
		}
	}
	if len(names) != 3 {
		t.Errorf("secrets %v", names)
	}
}

// A server certificate for other names is replaced, and replicas follow.
func TestServerCertificateFollows(t *testing.T) {
	t.Parallel()
	r := keysRig(t)
	first := r.mustKeys("old.example")
	second := r.mustKeys("new.example")
	if leaf(t, first).Equal(leaf(t, second)) || second.authority.Verify(leaf(t, second), x509.ExtKeyUsageServerAuth, time.Now()) != nil {
		t.Error("the certificate was not replaced")
	}
	third := r.mustKeys("new.example")
	// Two thirds of its life later one of them replaces it, the other one finds
	// the new one.
	life := leaf(t, second).NotAfter.Sub(leaf(t, second).NotBefore)
	later := leaf(t, second).NotBefore.Add(life*2/3 + time.Hour)
	if err := second.renew(t.Context(), later.Add(-2*time.Hour)); err != nil || !leaf(t, second).Equal(leaf(t, third)) {
		t.Errorf("replaced too early: %v", err)
	}
	for _, k := range []*Keys{second, third} {
		if err := k.renew(t.Context(), later); err != nil {
			t.Fatal(err)
		}
	}
	if !leaf(t, second).Equal(leaf(t, third)) || !leaf(t, second).NotAfter.After(later.Add(life/2)) {
		t.Error("the certificate was not renewed, or twice")
	}
}

// A register certificate is used while it is good for a while, also by later
// starts, then there is one more.
func TestRegisterCertificateReused(t *testing.T) {
	t.Parallel()
	r := keysRig(t)
	k := r.mustKeys()
	pair, err := k.Register()
	if err != nil {
		t.Fatal(err)
	}
	cert, _, err := pki.ParseKeyPair(pair.CertPEM, pair.KeyPEM)
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct{ days, secrets int }{{-61, 2}, {-59, 3}, {-58, 3}} {
		for _, keys := range []*Keys{k, r.mustKeys()} {
			if err := keys.openRegister(t.Context(), cert.NotAfter.AddDate(0, 0, step.days)); err != nil {
				t.Fatal(err)
			}
		}
		if got := len(r.secrets()); got != step.secrets {
			t.Errorf("%d secrets %d days before the end, want %d", got, -step.days, step.secrets)
		}
	}
	if _, err := k.Certificate(); err == nil {
		t.Error("a server certificate without names")
	}
}

// An authority that the user supplies is used as it is, whatever its key is
// encoded as: flotta v0.2 refused PKCS #8.
func TestSuppliedAuthority(t *testing.T) {
	t.Parallel()
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	sec1, err := x509.MarshalECPrivateKey(ec)
	if err != nil {
		t.Fatal(err)
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		key   crypto.Signer
		block pem.Block
	}{
		"ec":        {ec, pem.Block{Type: "EC PRIVATE KEY", Bytes: sec1}},
		"ec-pkcs8":  {ec, pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8(t, ec)}},
		"rsa-pkcs1": {rsaKey, pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(rsaKey)}},
		"rsa-pkcs8": {rsaKey, pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8(t, rsaKey)}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := keysRig(t)
			certPEM := selfSigned(t, "ACME", true, c.key)
			r.putSecret(authoritySecret, nil, map[string][]byte{authorityCert: certPEM, authorityKey: pem.EncodeToMemory(&c.block)})
			k := r.mustKeys("edge.example")
			if !bytes.Equal(k.Authority().CertificatePEM(), certPEM) {
				t.Error("another authority")
			}
			if err := k.Authority().Verify(leaf(t, k), x509.ExtKeyUsageServerAuth, time.Now()); err != nil {
				t.Error(err)
			}
			if _, err := k.Register(); err != nil {
				t.Error(err)
			}
			// What it issued is ours, and follows the names.
			if again := r.mustKeys("other.example"); leaf(t, again).Equal(leaf(t, k)) {
				t.Error("the certificate does not follow the names")
			}
		})
	}
}

func pkcs8(t testing.TB, key crypto.Signer) []byte {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func selfSigned(t testing.TB, name string, authority bool, key crypto.Signer) []byte {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name, Organization: []string{name}},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(5, 0, 0), KeyUsage: x509.KeyUsageDigitalSignature,
	}
	if authority {
		template.IsCA, template.BasicConstraintsValid = true, true
		template.KeyUsage |= x509.KeyUsageCertSign
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// A server certificate of the user's own is served as it is.
func TestSuppliedServerCertificate(t *testing.T) {
	t.Parallel()
	r := keysRig(t)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	r.putSecret(serverSecret, nil, map[string][]byte{
		serverCert: selfSigned(t, "mine", false, key), serverKey: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8(t, key)}),
	})
	if mine := r.mustKeys("edge.example"); leaf(t, mine).Subject.CommonName != "mine" {
		t.Error("the user's own certificate was replaced")
	}
}

// What somebody damaged is named, down to the key of the Secret, and left alone.
func TestDamagedSecrets(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		secret, key string
		damage      func(map[string][]byte)
	}{
		"ca-nonsense":      {authoritySecret, authorityCert, func(d map[string][]byte) { d[authorityCert] = []byte("x") }},
		"ca-key-missing":   {authoritySecret, authorityKey, func(d map[string][]byte) { delete(d, authorityKey) }},
		"ca-cut":           {authoritySecret, authorityCert, func(d map[string][]byte) { d[authorityCert] = d[authorityCert][:100] }},
		"host-nonsense":    {serverSecret, serverCert, func(d map[string][]byte) { d[serverCert] = []byte("x") }},
		"host-key-garbled": {serverSecret, serverKey, func(d map[string][]byte) { d[serverKey][60] ^= 1 }},
		"host-empty":       {serverSecret, serverCert, func(d map[string][]byte) { clear(d) }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := keysRig(t)
			r.mustKeys("edge.example")
			secret, err := r.admin.secret(t.Context(), r.namespace, c.secret)
			if err != nil {
				t.Fatal(err)
			}
			c.damage(secret.Data)
			damaged, err := r.admin.core.Secrets(r.namespace).Update(t.Context(), secret, metav1.UpdateOptions{})
			if err != nil {
				t.Fatal(err)
			}
			_, err = r.keys("edge.example")
			if err == nil || !strings.Contains(err.Error(), r.namespace+"/"+c.secret) || !strings.Contains(err.Error(), strconv.Quote(c.key)) {
				t.Errorf("error %v", err)
			}
			if c.secret == authoritySecret && err != nil && strings.Contains(err.Error(), "delete") {
				t.Errorf("advice to lose the fleet: %v", err)
			}
			if after, err := r.admin.secret(t.Context(), r.namespace, c.secret); err != nil || after.ResourceVersion != damaged.ResourceVersion {
				t.Errorf("it was written: %v", err)
			}
		})
	}
}

// A damaged register certificate is passed over: another one does as well.
func TestDamagedRegister(t *testing.T) {
	t.Parallel()
	r := keysRig(t)
	r.mustKeys()
	for _, s := range r.secrets() {
		if s.Labels[registerLabel] == "true" {
			s.Data[registerKey] = []byte("x")
			if _, err := r.admin.core.Secrets(r.namespace).Update(t.Context(), &s, metav1.UpdateOptions{}); err != nil {
				t.Fatal(err)
			}
		}
	}
	first, err := r.mustKeys().Register()
	if err != nil {
		t.Fatal(err)
	}
	if again, err := r.mustKeys().Register(); err != nil || !bytes.Equal(first.CertPEM, again.CertPEM) || len(r.secrets()) != 3 {
		t.Errorf("%d secrets, %v", len(r.secrets()), err)
	}
	if _, err := OpenKeys(t.Context(), KeysConfig{}); err == nil {
		t.Error("no configuration")
	}
}
