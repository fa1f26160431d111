package edgeapi_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	cryptorand "crypto/rand"

	"github.com/project-flotta/flotta-agent/internal/edgeapi"
	"github.com/project-flotta/flotta-agent/internal/pki"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// operation is one thing that a client can ask for.
type operation struct {
	name string
	do   func(r *rig, c *http.Client, id string) reply
}

func operations() []operation {
	post := func(directive string, content any) func(*rig, *http.Client, string) reply {
		return func(r *rig, c *http.Client, id string) reply { return r.send(c, id, directive, content) }
	}
	call := func(method, path, body string) func(*rig, *http.Client, string) reply {
		return func(r *rig, c *http.Client, id string) reply {
			return r.do(c, method, strings.ReplaceAll(path, "ID", id), body)
		}
	}
	return []operation{
		{"data_in", call(http.MethodGet, "/data/ID/in", "")},
		{"control_in", call(http.MethodGet, "/control/ID/in", "")},
		{"control_out", call(http.MethodPost, "/control/ID/out", `{"type":"connection-status"}`)},
		{"heartbeat", post(protocol.DirectiveHeartbeat, protocol.Heartbeat{Status: protocol.StatusUp})},
		{"ansible", post(protocol.DirectiveAnsible, nil)},
		{"unknown", post("unknown", nil)},
		{"enrolment", post(protocol.DirectiveEnrolment, protocol.EnrolmentInfo{})},
		{"registration", func(r *rig, c *http.Client, id string) reply {
			key, err := pki.NewKey()
			r.must(err)
			return r.register(c, id, key)
		}},
	}
}

// The rule of who may do what, every certificate against every operation, for
// the device dev1 that is registered.
func TestWhoMayDoWhat(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{})
	own, ownCert := r.join("dev1")
	r.join("dev2")
	now := time.Now()
	stranger, err := pki.NewAuthority(now)
	r.must(err)
	strangerPair, err := stranger.IssueRegister(0, now)
	r.must(err)
	strangerCert, err := tls.X509KeyPair(strangerPair.CertPEM, strangerPair.KeyPEM)
	r.must(err)
	oldPair, err := r.keys.Authority().IssueRegister(24*time.Hour, now.Add(-48*time.Hour))
	r.must(err)
	oldRegister, err := tls.X509KeyPair(oldPair.CertPEM, oldPair.KeyPEM)
	r.must(err)
	clients := map[string]*http.Client{
		"own":              own,
		"own, expired":     r.client(r.deviceCertFor(ownCert.PrivateKey, "default", "dev1", expired())),
		"own, upper case":  r.client(r.deviceCertFor(ownCert.PrivateKey, "default", "DEV1", now)),
		"own, other key":   r.client(r.deviceCert("default", "dev1", now)),
		"other":            r.client(r.deviceCert("default", "dev2", now)),
		"other, expired":   r.client(r.deviceCert("default", "dev2", expired())),
		"register":         r.client(r.registerCert()),
		"register expired": r.client(oldRegister),
		"stranger":         r.client(strangerCert),
		"authority":        r.client(r.authorityCert()),
		"server":           r.client(r.serverCert()),
	}
	order := []string{"data_in", "control_in", "control_out", "heartbeat", "ansible", "unknown", "enrolment", "registration"}
	wanted := map[string][]int{
		"own":              {200, 200, 200, 200, 200, 400, 208, 200},
		"own, expired":     {401, 401, 401, 401, 401, 401, 401, 200},
		"own, upper case":  {200, 200, 200, 200, 200, 400, 208, 200},
		"own, other key":   {401, 401, 401, 401, 401, 401, 208, 403},
		"other":            {403, 403, 403, 403, 403, 403, 403, 403},
		"other, expired":   {401, 401, 401, 401, 401, 401, 401, 401},
		"register":         {401, 401, 401, 403, 403, 403, 208, 403},
		"register expired": {401, 401, 401, 401, 401, 401, 401, 401},
		"stranger":         {401, 401, 401, 401, 401, 401, 401, 401},
		"authority":        {401, 401, 401, 401, 401, 401, 401, 401},
		"server":           {401, 401, 401, 401, 401, 401, 401, 401},
	}
	ops := make(map[string]operation)
	for _, op := range operations() {
		ops[op.name] = op
	}
	for name, statuses := range wanted {
		for i, op := range order {
			want(t, name+": "+op, ops[op].do(r, clients[name], "dev1"), statuses[i])
		}
	}
}

func (r *rig) fileCert(name string) tls.Certificate {
	r.t.Helper()
	base := filepath.Join(r.dir, "pki", name)
	cert, err := tls.LoadX509KeyPair(base+".crt", base+".key")
	r.must(err)
	return cert
}

func (r *rig) authorityCert() tls.Certificate { return r.fileCert("ca") }
func (r *rig) serverCert() tls.Certificate    { return r.fileCert("server") }

// forge makes a self-signed certificate that says it is the device, followed by
// the authority's certificate, which every device has.
func (r *rig) forge(namespace, id string) tls.Certificate {
	r.t.Helper()
	key, err := pki.NewKey()
	r.must(err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: id, Organization: []string{pki.Organization}, OrganizationalUnit: []string{namespace}},
		NotBefore:    time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(cryptorand.Reader, template, template, key.Public(), key)
	r.must(err)
	return tls.Certificate{Certificate: [][]byte{der, r.authorityCert().Certificate[0]}, PrivateKey: key}
}

// Defect 7.1.1: any certificate of the chain was enough, and identity came from
// the leaf.
func TestDefect711ForgedLeafBeforeTheAuthoritysCertificate(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{})
	_, cert := r.join("dev1")
	forged := r.forge("default", "dev1")
	withDevice := forged
	withDevice.Certificate = [][]byte{forged.Certificate[0], cert.Certificate[0], forged.Certificate[1]}
	for name, c := range map[string]*http.Client{
		"authority behind": r.client(forged), "genuine certificate behind": r.client(withDevice),
	} {
		for _, op := range operations() {
			want(t, name+": "+op.name, op.do(r, c, "dev1"), http.StatusUnauthorized)
		}
	}
	// The other way round is no matter: extras behind a good leaf are ignored.
	padded := cert
	padded.Certificate = [][]byte{cert.Certificate[0], forged.Certificate[0], forged.Certificate[1]}
	want(t, "extras behind a good leaf", r.do(r.client(padded), http.MethodGet, "/data/dev1/in", ""), http.StatusOK)
}

// Defects 7.1.2 and 7.1.3: expired certificates worked on data/out for ever, so
// the device never learned that it should renew.
func TestDefect712And713ExpiredCertificateRenewsAndDoesNothingElse(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{})
	_, cert := r.join("dev1")
	old := r.client(r.deviceCertFor(cert.PrivateKey, "default", "dev1", expired()))
	want(t, "heartbeat, expired", r.send(old, "dev1", protocol.DirectiveHeartbeat, protocol.Heartbeat{}), http.StatusUnauthorized)
	key, err := pki.NewKey()
	r.must(err)
	fresh := r.client(r.issued(r.register(old, "dev1", key), key))
	want(t, "heartbeat, renewed", r.send(fresh, "dev1", protocol.DirectiveHeartbeat, protocol.Heartbeat{}), http.StatusOK)
}

// Defect 7.1.6: any certificate of the namespace could claim an approved name
// that had not registered yet. What remains possible with a register certificate
// is in the package's documentation.
func TestDefect716FirstRegistration(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{})
	other, _ := r.join("other")
	reg := r.client(r.registerCert())
	key, err := pki.NewKey()
	r.must(err)
	want(t, "not asked", r.register(reg, "dev1", key), http.StatusNotFound)
	want(t, "enrol", r.enrol(reg, "dev1"), http.StatusOK)
	want(t, "not approved", r.register(reg, "dev1", key), http.StatusNotFound)
	r.must(r.admin.Approve(context.Background(), "dev1"))
	r.eventually("approved", func() bool { return r.enrol(reg, "dev1").status == http.StatusAlreadyReported })

	want(t, "another device", r.register(other, "dev1", key), http.StatusForbidden)

	// Many at once: one key wins, all others are refused.
	var wg sync.WaitGroup
	var mu sync.Mutex
	counts := map[int]int{}
	for range 8 {
		wg.Go(func() {
			k, err := pki.NewKey()
			if err != nil {
				t.Error(err)
				return
			}
			got := r.register(reg, "dev1", k)
			mu.Lock()
			counts[got.status]++
			mu.Unlock()
		})
	}
	wg.Wait()
	if counts[http.StatusOK] != 1 || counts[http.StatusForbidden] != 7 {
		t.Errorf("statuses of eight registrations at once: %v", counts)
	}
	want(t, "register certificate again", r.register(reg, "dev1", key), http.StatusForbidden)
}

// The answer to a registration may be lost: the same key may ask again, with the
// register certificate, because nobody else can use a certificate for it.
func TestRegistrationIsRepeatableWithTheSameKey(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{auto: true})
	reg := r.client(r.registerCert())
	want(t, "first", r.enrol(reg, "dev1"), http.StatusAlreadyReported)
	key, err := pki.NewKey()
	r.must(err)
	first := r.issued(r.register(reg, "dev1", key), key)
	second := r.issued(r.register(reg, "dev1", key), key)
	for _, cert := range []tls.Certificate{first, second} {
		want(t, "poll", r.do(r.client(cert), http.MethodGet, "/data/dev1/in", ""), http.StatusOK)
	}
	// A renewal with a new key replaces the one that may repeat.
	next, err := pki.NewKey()
	r.must(err)
	r.issued(r.register(r.client(first), "dev1", next), next)
	want(t, "old key", r.register(reg, "dev1", key), http.StatusForbidden)
	r.issued(r.register(reg, "dev1", next), next)
}

// Defect 7.1.7: mismatched certificates were let pass by one backend, and
// requests were signed without proof of possession.
func TestDefect717RequestWithoutProofOfPossession(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{auto: true})
	reg := r.client(r.registerCert())
	want(t, "enrol", r.enrol(reg, "dev1"), http.StatusAlreadyReported)
	key, err := pki.NewKey()
	r.must(err)
	text, err := pki.CertificateRequest(key, "dev1")
	r.must(err)
	lines := strings.Split(string(text), "\n")
	last := []byte(lines[len(lines)-3])
	last[len(last)-6] ^= 1
	lines[len(lines)-3] = string(last)
	for name, csr := range map[string]string{
		"tampered": strings.Join(lines, "\n"), "empty": "", "not PEM": "hello", "a certificate": string(r.keys.Authority().CertificatePEM()),
	} {
		got := r.send(reg, "dev1", protocol.DirectiveRegistration, protocol.RegistrationInfo{CertificateRequest: csr})
		want(t, name, got, http.StatusBadRequest)
	}
	r.issued(r.register(reg, "dev1", key), key)
}

// Defect 7.1.8: a deleted device could enrol at once and be let in, and there
// was no way to decline one.
func TestDefect718DeletedAndDeclinedDevices(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{})
	own, _ := r.join("dev1")
	ctx := context.Background()
	_, err := r.admin.Delete(ctx, "dev1")
	r.must(err)
	disconnected := func() bool {
		got := r.do(own, http.MethodGet, "/control/dev1/in", "")
		var m protocol.Message
		if got.status != http.StatusOK || len(got.body) == 0 {
			return false
		}
		r.must(json.Unmarshal(got.body, &m))
		if m.Type != protocol.TypeCommand || string(m.Content) != `{"command":"disconnect","arguments":null}` || m.MessageID == "" || m.Sent == nil || m.Version != 1 {
			t.Fatalf("disconnect message: %s", got.body)
		}
		return true
	}
	r.eventually("told to disconnect", disconnected)
	want(t, "configuration", r.do(own, http.MethodGet, "/data/dev1/in", ""), http.StatusNotFound)
	want(t, "heartbeat", r.send(own, "dev1", protocol.DirectiveHeartbeat, protocol.Heartbeat{}), http.StatusNotFound)
	want(t, "ansible", r.send(own, "dev1", protocol.DirectiveAnsible, nil), http.StatusNotFound)
	key, err := pki.NewKey()
	r.must(err)
	want(t, "renewal", r.register(own, "dev1", key), http.StatusNotFound)
	want(t, "asking again", r.enrol(own, "dev1"), http.StatusOK)
	want(t, "and waiting", r.enrol(own, "dev1"), http.StatusOK)

	r.must(r.admin.Decline(ctx, "dev1"))
	r.eventually("declined", func() bool { return r.enrol(own, "dev1").status == http.StatusForbidden })
	want(t, "registration, declined", r.register(own, "dev1", key), http.StatusForbidden)
	r.must(r.admin.Approve(ctx, "dev1"))
	r.eventually("approved after all", func() bool { return r.enrol(own, "dev1").status == http.StatusAlreadyReported })

	// Declining a managed device ends it.
	r.must(r.admin.Decline(ctx, "dev1"))
	r.eventually("told to disconnect again", disconnected)
}

// Defect 7.1.10: a device named like the register certificate was reachable with
// it, and there was no limit to a body.
func TestDefect7110DeviceNamedRegister(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{auto: true, edit: func(c *edgeapi.Config) { c.MaxBodyBytes = 4096 }})
	reg := r.client(r.registerCert())
	for op, status := range map[string]int{
		"enrolment": 400, "registration": 400, "heartbeat": 403, "ansible": 403, "data_in": 401, "control_in": 401, "control_out": 401,
	} {
		for _, o := range operations() {
			if o.name == op {
				want(t, op, o.do(r, reg, "register"), status)
				want(t, op+", upper case", o.do(r, reg, "REGISTER"), status)
			}
		}
	}
	if _, err := os.Stat(filepath.Join(r.dir, "requests", "register.yaml")); err == nil {
		t.Error("a request was recorded")
	}
	// The authority of flotta v0.2 may have issued such a certificate.
	legacy := r.legacyCert(t, pkix.Name{CommonName: "register", Organization: []string{pki.Organization}, OrganizationalUnit: []string{"default"}})
	for _, op := range operations() {
		want(t, "device certificate named register: "+op.name, op.do(r, r.client(legacy), "register"), http.StatusUnauthorized)
	}

	big := `{"directive":"heartbeat","content":{"status":"` + strings.Repeat("x", 5000) + `"}}`
	got := r.do(reg, http.MethodPost, "/data/dev1/out", big)
	if got.status != http.StatusRequestEntityTooLarge || !strings.Contains(string(got.body), `"code":413`) {
		t.Errorf("large body: %d %s", got.status, got.body)
	}
}

// legacyCert signs a certificate with the authority's own key.
func (r *rig) legacyCert(t testing.TB, subject pkix.Name) tls.Certificate {
	t.Helper()
	ca := r.authorityCert()
	parent, err := x509.ParseCertificate(ca.Certificate[0])
	r.must(err)
	key, err := pki.NewKey()
	r.must(err)
	der, err := x509.CreateCertificate(cryptorand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(7), Subject: subject,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}, parent, key.Public(), ca.PrivateKey)
	r.must(err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// Defect 7.1.5: the device chose any namespace.
func TestDefect715NamespaceOfTheDevicesChoice(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{auto: true, edit: func(c *edgeapi.Config) { c.Namespaces = []string{"default", "shop"} }})
	reg := r.client(r.registerCert())
	ask := func(id, namespace string) reply {
		return r.send(reg, id, protocol.DirectiveEnrolment, protocol.EnrolmentInfo{TargetNamespace: &namespace})
	}
	want(t, "listed", ask("dev1", "shop"), http.StatusAlreadyReported)
	want(t, "none", ask("dev2", ""), http.StatusAlreadyReported)
	for _, namespace := range []string{"kube-system", "../..", "a/b", "Default"} {
		want(t, namespace, ask("dev3", namespace), http.StatusForbidden)
	}
	key, err := pki.NewKey()
	r.must(err)
	cert := r.issued(r.register(reg, "dev1", key), key)
	leaf, err := x509.ParseCertificate(cert.Certificate[0])
	r.must(err)
	if got := leaf.Subject.OrganizationalUnit; len(got) != 1 || got[0] != "shop" {
		t.Errorf("certificate is for namespace %v", got)
	}
	want(t, "poll", r.do(r.client(cert), http.MethodGet, "/data/dev1/in", ""), http.StatusOK)
	// A certificate of another namespace names another device.
	want(t, "same name elsewhere", r.do(r.client(r.deviceCert("default", "dev1", time.Now())), http.MethodGet, "/data/dev1/in", ""), http.StatusNotFound)
}

func TestHostileDeviceIdentifiers(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{auto: true})
	reg := r.client(r.registerCert())
	for _, id := range []string{"..%2f..%2fx", "%2e%2e", "a%00b", "-x", "x_y", strings.Repeat("x", 64), "%20", "DEV", "a%2fb"} {
		got := r.enrol(reg, id)
		if got.status != http.StatusBadRequest {
			t.Errorf("%s: status %d", id, got.status)
		}
	}
	entries, err := os.ReadDir(filepath.Join(r.dir, "requests"))
	r.must(err)
	if len(entries) > 0 {
		t.Errorf("requests recorded: %v", entries)
	}
}
