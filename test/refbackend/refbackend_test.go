package refbackend_test

import (
	"crypto/tls"
	"encoding/json"
	"encoding/pem"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/project-flotta/flotta-agent/internal/edgeapi"
	"github.com/project-flotta/flotta-agent/internal/edgeapi/backend/remote"
	"github.com/project-flotta/flotta-agent/internal/pki"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
	"github.com/project-flotta/flotta-agent/test/refbackend"
)

// edgeAPI is the name in the certificate of the Edge API.
const edgeAPI = "edge.example.com"

// rig is the service over mutual TLS, and the Edge API's backend that asks it.
type rig struct {
	*testing.T
	store     *refbackend.Store
	dir       string
	authority *pki.Authority
	url       string
	backend   *remote.Backend
}

func newRig(t *testing.T, auto bool) *rig {
	t.Helper()
	r := &rig{T: t, dir: filepath.Join(t.TempDir(), "devices")}
	var err error
	r.authority, err = pki.NewAuthority(time.Now())
	r.must(err)
	r.store, err = refbackend.NewStore(r.dir)
	r.must(err)
	log := slog.New(slog.DiscardHandler)
	srv, err := refbackend.NewServer(
		refbackend.NewHandler(refbackend.Config{Store: r.store, AutoApprove: auto, Logger: log}),
		refbackend.TLS{Certificate: r.server("localhost"), ClientCA: r.authority.CertificatePEM(), EdgeAPI: edgeAPI}, log,
	)
	r.must(err)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	r.must(err)
	ended := make(chan error, 1)
	go func() { ended <- srv.ServeTLS(ln, "", "") }()
	t.Cleanup(func() {
		_ = srv.Close()
		if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
	r.url = "https://" + ln.Addr().String()
	r.backend = r.client(r.server(edgeAPI))
	return r
}

func (r *rig) must(err error) {
	r.Helper()
	if err != nil {
		r.Fatal(err)
	}
}

func (r *rig) server(name string) tls.Certificate {
	r.Helper()
	pair, err := r.authority.IssueServer(pki.ServerProfile{DNSNames: []string{name}, IPs: []net.IP{net.IPv4(127, 0, 0, 1)}}, time.Now())
	r.must(err)
	cert, err := tls.X509KeyPair(pair.CertPEM, pair.KeyPEM)
	r.must(err)
	return cert
}

func (r *rig) client(cert tls.Certificate) *remote.Backend {
	r.Helper()
	b, err := remote.New(remote.Config{
		URL: r.url, Timeout: 10 * time.Second, RootCAs: r.authority.CertificatePEM(), Logger: slog.New(slog.DiscardHandler),
		ClientCertificate: func() (*tls.Certificate, error) { return &cert, nil },
	})
	r.must(err)
	return b
}

var (
	newcomer = edgeapi.Device{Namespace: "site", ID: "dev1"}
	claim    = edgeapi.Registration{Device: edgeapi.Device{ID: "dev1"}, KeyFingerprint: "key1"}
)

func (r *rig) enrol(exists bool) {
	r.Helper()
	got, err := r.backend.Enrol(r.Context(), newcomer, protocol.EnrolmentInfo{Features: &protocol.DeviceFeatures{ModelName: "m"}})
	if err != nil || got != exists {
		r.Fatalf("enrolment says %v, %v; want %v", got, err, exists)
	}
}

func (r *rig) register() {
	r.Helper()
	d, err := r.backend.RegistrationTarget(r.Context(), claim)
	if err != nil || d != newcomer {
		r.Fatalf("registration goes to %v, %v", d, err)
	}
	named := claim
	named.Device = d
	r.must(r.backend.CompleteRegistration(r.Context(), named))
}

func (r *rig) managed(want bool) {
	r.Helper()
	got, err := r.backend.Managed(r.Context(), newcomer)
	if err != nil || got != want {
		r.Fatalf("managed is %v, %v; want %v", got, err, want)
	}
}

func (r *rig) is(err, want error) {
	r.Helper()
	if !errors.Is(err, want) {
		r.Fatalf("error is %v, want %v", err, want)
	}
}

// TestLifeOfADevice, as the Edge API sees it.
func TestLifeOfADevice(t *testing.T) {
	t.Parallel()
	r := newRig(t, false)
	ctx := t.Context()
	_, err := r.backend.RegistrationTarget(ctx, claim)
	r.is(err, edgeapi.ErrNotFound)
	r.enrol(false)
	r.enrol(false)
	_, err = r.backend.RegistrationTarget(ctx, claim)
	r.is(err, edgeapi.ErrNotFound)
	_, err = r.backend.Configuration(ctx, newcomer)
	r.is(err, edgeapi.ErrNotFound)

	// Approving by hand is making a file.
	r.must(os.WriteFile(filepath.Join(r.dir, "site/dev1/approved"), nil, 0o600))
	r.enrol(true)
	r.register()
	r.managed(true)
	thief := claim
	thief.KeyFingerprint = "key2"
	thief.Device = newcomer
	r.is(r.backend.CompleteRegistration(ctx, thief), edgeapi.ErrForbidden)

	first, err := r.backend.Configuration(ctx, newcomer)
	r.must(err)
	want := protocol.DeviceConfigurationMessage{
		DeviceID: "dev1", Workloads: []protocol.Workload{{Name: "w", Specification: "containers: []"}},
		Configuration: &protocol.DeviceConfiguration{},
	}
	r.must(r.store.Configure("site", "dev1", want))
	second, err := r.backend.Configuration(ctx, newcomer)
	r.must(err)
	if first.Version == second.Version {
		t.Error("the change did not arrive")
	}
	r.must(os.WriteFile(filepath.Join(r.dir, "site/dev1/configuration.json"), []byte(`{"workloads":`), 0o600))
	if _, err := r.backend.Configuration(ctx, newcomer); err == nil {
		t.Error("half a file is a configuration")
	}

	report := protocol.Heartbeat{Status: "up", PlaybookExecutions: []protocol.PlaybookExecutionStatus{
		{Name: "p", ID: "p.1", Status: protocol.PlaybookCompletedWithError, Reason: "TimedOut", Message: "m"},
	}, Workloads: []protocol.WorkloadStatus{
		{Name: "w", Status: "Running", Reason: "NotReady", Restarts: 2, Images: []protocol.WorkloadImage{{Reference: "img:1"}}, Notes: []string{"n"}},
	}}
	r.must(r.backend.Heartbeat(ctx, newcomer, report))
	stored, err := r.store.Heartbeat("site", "dev1")
	r.must(err)
	if diff := cmp.Diff(report, stored); diff != "" {
		t.Errorf("heartbeat (-sent +stored):\n%s", diff)
	}
	list, err := r.backend.Playbooks(ctx, newcomer)
	if err != nil || len(list) != 0 {
		t.Errorf("playbooks %v, %v", list, err)
	}
	text, err := os.ReadFile("../../pkg/protocol/testdata/playbook-executions-response.json")
	r.must(err)
	r.must(os.WriteFile(filepath.Join(r.dir, "site/dev1/playbooks.json"), text, 0o600))
	var playbooks []protocol.PlaybookExecution
	r.must(json.Unmarshal(text, &playbooks))
	list, err = r.backend.Playbooks(ctx, newcomer)
	if diff := cmp.Diff(playbooks, list); diff != "" || err != nil {
		t.Errorf("playbooks: %v, (-written +got)\n%s", err, diff)
	}

	r.must(r.store.Remove("site", "dev1"))
	r.managed(false)
	r.enrol(false)
	r.managed(false)
	_, err = r.backend.RegistrationTarget(ctx, claim)
	r.is(err, edgeapi.ErrNotApproved)
	r.is(r.backend.Heartbeat(ctx, newcomer, report), edgeapi.ErrNotFound)
	r.must(r.store.Approve("site", "dev1"))
	r.enrol(true)
	thief.Own = false // approved anew, so any key will do
	r.must(r.backend.CompleteRegistration(ctx, thief))
	r.managed(true)
}

// TestLostFolderEndsNothing: the volume with the devices is not mounted.
func TestLostFolderEndsNothing(t *testing.T) {
	t.Parallel()
	r := newRig(t, true)
	r.enrol(false)
	r.enrol(true)
	r.register()
	r.must(os.RemoveAll(r.dir))
	if managed, err := r.backend.Managed(t.Context(), newcomer); err == nil {
		t.Errorf("managed is %v", managed)
	}
	if _, err := r.backend.Configuration(t.Context(), newcomer); err == nil {
		t.Error("there is a configuration")
	}
}

// TestOnlyTheEdgeAPIIsServed: devices have certificates of the same authority.
func TestOnlyTheEdgeAPIIsServed(t *testing.T) {
	t.Parallel()
	r := newRig(t, true)
	r.enrol(false)
	register, err := r.authority.IssueRegister(0, time.Now())
	r.must(err)
	bootstrap, err := tls.X509KeyPair(register.CertPEM, register.KeyPEM)
	r.must(err)
	for name, cert := range map[string]tls.Certificate{
		"device": r.device(), "register": bootstrap, "another server": r.server("other.example.com"),
	} {
		if _, err := r.client(cert).Managed(t.Context(), newcomer); err == nil || errors.Is(err, edgeapi.ErrNotFound) {
			t.Errorf("%s certificate: %v", name, err)
		}
	}
}

func (r *rig) device() tls.Certificate {
	r.Helper()
	key, err := pki.NewKey()
	r.must(err)
	text, err := pki.CertificateRequest(key, edgeAPI)
	r.must(err)
	request, err := pki.ParseRequest(text)
	r.must(err)
	// Even one that is called like the Edge API.
	certPEM, err := r.authority.IssueDevice(request, pki.DeviceProfile{ID: edgeAPI, Namespace: "site"}, time.Now())
	r.must(err)
	block, _ := pem.Decode(certPEM)
	return tls.Certificate{Certificate: [][]byte{block.Bytes}, PrivateKey: key}
}

func TestServerNeedsNamesAndAuthority(t *testing.T) {
	t.Parallel()
	r := newRig(t, false)
	log := slog.New(slog.DiscardHandler)
	for _, cfg := range []refbackend.TLS{
		{ClientCA: r.authority.CertificatePEM()},
		{EdgeAPI: edgeAPI, ClientCA: []byte("x")},
	} {
		if _, err := refbackend.NewServer(nil, cfg, log); err == nil {
			t.Errorf("accepted %+v", cfg)
		}
	}
}
