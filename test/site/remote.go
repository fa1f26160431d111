package site

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/project-flotta/flotta-agent/internal/pki"
	"github.com/project-flotta/flotta-agent/pkg/api/v1alpha1"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
	"github.com/project-flotta/flotta-agent/test/device"
	"github.com/project-flotta/flotta-agent/test/refbackend"
	"github.com/project-flotta/flotta-agent/test/testenv"
)

// Remote is a site whose Edge API asks a service: the reference one, in this
// process, over mutual TLS.
type Remote struct {
	*Site
	Store *refbackend.Store
	// ServicePath lies between the Edge API and the service.
	ServicePath *device.Proxy

	trouble atomic.Pointer[http.HandlerFunc]
}

// StartRemote starts the servers. The caller closes the site. Manifests may
// describe EdgeDevices and EdgeWorkloads that name their device, without storage.
func StartRemote(ctx context.Context, cfg Config) (*Remote, error) {
	root, err := testenv.Root()
	if err != nil {
		return nil, err
	}
	s := &Site{dir: cfg.Dir, bin: binaries(root), Namespace: v1alpha1.DefaultNamespace}
	r := &Remote{Site: s}
	if err := r.start(context.WithoutCancel(ctx), cfg); err != nil {
		return nil, errors.Join(fmt.Errorf("start site with a service: %w", err), s.Close())
	}
	return r, nil
}

// Answer makes the service answer everything by h, or work again when h is nil.
func (r *Remote) Answer(h http.HandlerFunc) {
	if h == nil {
		r.trouble.Store(nil)
		return
	}
	r.trouble.Store(&h)
}

func (r *Remote) start(ctx context.Context, cfg Config) error {
	for _, sub := range []string{"api/pki", "bootstrap"} {
		if err := os.MkdirAll(filepath.Join(r.dir, sub), 0o750); err != nil {
			return err
		}
	}
	authority, err := r.makeAuthority()
	if err != nil {
		return err
	}
	address, err := r.serve(authority, cfg)
	if err != nil {
		return err
	}
	if r.ServicePath, err = device.StartProxy(ctx, "127.0.0.1:0", address); err != nil {
		return err
	}
	r.onClose(func() error { r.ServicePath.Close(); return nil })
	r.API, err = testenv.StartEdgeAPI(ctx, testenv.EdgeAPIConfig{
		Binary: filepath.Join(r.bin, "flotta-edge-api"), Dir: filepath.Join(r.dir, "api"), Log: cfg.Log,
		Env: []string{
			"DOMAIN=" + EdgeName, "BACKEND=remote", "REMOTE_BACKEND_TIMEOUT=2s",
			"REMOTE_BACKEND_URL=https://127.0.0.1:" + strconv.Itoa(r.ServicePath.Port()),
		},
	})
	if err != nil {
		return fmt.Errorf("start Edge API (make build): %w", err)
	}
	r.onClose(func() error { r.API.Stop(); return nil })
	if _, err := r.API.Command(ctx, "bootstrap", r.Bootstrap("")); err != nil {
		return err
	}
	if r.APIPath, err = device.StartProxy(ctx, "0.0.0.0:0", "127.0.0.1:"+strconv.Itoa(r.API.Port)); err != nil {
		return err
	}
	r.onClose(func() error { r.APIPath.Close(); return nil })
	r.plane = &service{store: r.Store, workloads: map[string]v1alpha1.EdgeWorkload{}, devices: map[string]v1alpha1.EdgeDevice{}}
	return nil
}

// makeAuthority makes the authority before the Edge API does, because the
// service needs a certificate of it.
func (r *Remote) makeAuthority() (*pki.Authority, error) {
	authority, err := pki.NewAuthority(time.Now())
	if err != nil {
		return nil, err
	}
	key, err := authority.KeyPEM()
	if err != nil {
		return nil, err
	}
	folder := filepath.Join(r.dir, "api", "pki")
	return authority, errors.Join(
		os.WriteFile(filepath.Join(folder, "ca.crt"), authority.CertificatePEM(), 0o600),
		os.WriteFile(filepath.Join(folder, "ca.key"), key, 0o600),
	)
}

// serve starts the service and returns its address.
func (r *Remote) serve(authority *pki.Authority, cfg Config) (address string, err error) {
	if r.Store, err = refbackend.NewStore(filepath.Join(r.dir, "devices")); err != nil {
		return "", err
	}
	pair, err := authority.IssueServer(pki.ServerProfile{IPs: []net.IP{net.IPv4(127, 0, 0, 1)}}, time.Now())
	if err != nil {
		return "", err
	}
	cert, err := tls.X509KeyPair(pair.CertPEM, pair.KeyPEM)
	if err != nil {
		return "", err
	}
	out := cfg.Log
	if out == nil {
		out = io.Discard
	}
	log := slog.New(slog.NewTextHandler(out, nil)).With("component", "service")
	works := refbackend.NewHandler(refbackend.Config{Store: r.Store, AutoApprove: cfg.AutoApprove, Logger: log})
	srv, err := refbackend.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if h := r.trouble.Load(); h != nil {
			(*h)(w, q)
			return
		}
		works.ServeHTTP(w, q)
	}), refbackend.TLS{Certificate: cert, ClientCA: authority.CertificatePEM(), EdgeAPI: EdgeName}, log)
	if err != nil {
		return "", err
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	ended := make(chan error, 1)
	go func() { ended <- srv.ServeTLS(ln, "", "") }()
	r.onClose(func() error {
		err := srv.Close()
		if served := <-ended; !errors.Is(served, http.ErrServerClosed) {
			err = errors.Join(err, served)
		}
		return err
	})
	return ln.Addr().String(), nil
}

// service is the way of an administrator of the reference service: manifests
// are made into configurations of the devices they name.
type service struct {
	store *refbackend.Store

	mu        sync.Mutex
	workloads map[string]v1alpha1.EdgeWorkload // by the name of the manifest
	devices   map[string]v1alpha1.EdgeDevice
}

func (s *service) write(name, text string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var kind metav1.TypeMeta
	if err := yaml.Unmarshal([]byte(text), &kind); err != nil {
		return err
	}
	switch kind.Kind {
	case "EdgeWorkload":
		var w v1alpha1.EdgeWorkload
		if err := yaml.UnmarshalStrict([]byte(text), &w); err != nil {
			return err
		}
		s.workloads[name] = w
		return s.configure(w.Spec.Device)
	case "EdgeDevice":
		var d v1alpha1.EdgeDevice
		if err := yaml.UnmarshalStrict([]byte(text), &d); err != nil {
			return err
		}
		s.devices[name] = d
		return s.configure(d.Name)
	}
	return fmt.Errorf("the service knows no %s", kind.Kind)
}

func (s *service) remove(name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	w, ok := s.workloads[name]
	if !ok {
		return fmt.Errorf("no workload was written as %s", name)
	}
	delete(s.workloads, name)
	return s.configure(w.Spec.Device)
}

// configure makes the configuration of a device from the manifests.
func (s *service) configure(id string) error {
	m := protocol.DeviceConfigurationMessage{DeviceID: id, Configuration: &protocol.DeviceConfiguration{
		Heartbeat: &protocol.HeartbeatConfiguration{PeriodSeconds: 2, HardwareProfile: &protocol.HardwareProfile{}},
	}}
	for _, d := range s.devices {
		if d.Name == id && d.Spec.Heartbeat != nil {
			m.Configuration.Heartbeat.PeriodSeconds = d.Spec.Heartbeat.PeriodSeconds
		}
	}
	for _, name := range slices.Sorted(maps.Keys(s.workloads)) {
		w := s.workloads[name]
		if w.Spec.Device != id {
			continue
		}
		if w.Spec.Pod == nil {
			return fmt.Errorf("workload %s has no pod", w.Name)
		}
		spec, err := yaml.Marshal(w.Spec.Pod.Spec)
		if err != nil {
			return err
		}
		m.Workloads = append(m.Workloads, protocol.Workload{
			Name: w.Name, Namespace: v1alpha1.DefaultNamespace, Specification: string(spec),
		})
	}
	return s.store.Configure(v1alpha1.DefaultNamespace, id, m)
}

func (s *service) approve(_ context.Context, id string) error {
	return s.store.Approve(v1alpha1.DefaultNamespace, id)
}

func (s *service) delete(_ context.Context, id string) error {
	return s.store.Remove(v1alpha1.DefaultNamespace, id)
}

func (s *service) decline(ctx context.Context, id string) error { return s.delete(ctx, id) }

// device tells what the service knows in the words of an EdgeDevice.
func (s *service) device(id string) (v1alpha1.EdgeDevice, error) {
	var d v1alpha1.EdgeDevice
	state, err := s.store.State(v1alpha1.DefaultNamespace, id)
	if err != nil {
		return d, err
	}
	d.Namespace, d.Name = v1alpha1.DefaultNamespace, id
	registered := metav1.Condition{Type: v1alpha1.ConditionRegistered, Status: metav1.ConditionFalse}
	if state == refbackend.Registered {
		registered.Status = metav1.ConditionTrue
	}
	d.Status.Conditions = append(d.Status.Conditions, registered)
	report, err := s.store.Heartbeat(v1alpha1.DefaultNamespace, id)
	if errors.Is(err, os.ErrNotExist) {
		return d, nil
	}
	d.Status.Phase = report.Status
	for _, w := range report.Workloads {
		d.Status.Workloads = append(d.Status.Workloads, v1alpha1.WorkloadStatus{Name: w.Name, Phase: w.Status})
	}
	return d, err
}

func (s *service) events(id string) string {
	report, err := s.store.Heartbeat(v1alpha1.DefaultNamespace, id)
	if err != nil {
		return err.Error()
	}
	return fmt.Sprintf("%+v", report.Events)
}

func (s *service) requested(id string) bool {
	state, err := s.store.State(v1alpha1.DefaultNamespace, id)
	return err == nil && state == refbackend.Waiting
}
