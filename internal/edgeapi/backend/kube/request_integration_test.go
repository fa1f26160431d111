//go:build integration

package kube

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/project-flotta/flotta-agent/internal/edgeapi"
	"github.com/project-flotta/flotta-agent/internal/fleet"
	"github.com/project-flotta/flotta-agent/pkg/api/v1alpha1"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// unique makes the name of a request, as all requests are in one namespace.
func (r *rig) unique(id string) edgeapi.Device { return r.name(r.namespace + "-" + id) }

func (r *rig) enrol(d edgeapi.Device) (bool, error) {
	return r.backend.Enrol(r.t.Context(), d, protocol.EnrolmentInfo{Features: &protocol.DeviceFeatures{ModelName: "m", Hardware: &protocol.HardwareInfo{Hostname: "h"}}})
}

// approve is what the operator does.
func (r *rig) approve(d edgeapi.Device, state string) {
	r.t.Helper()
	object, err := r.admin.request(r.t.Context(), d.ID)
	if err != nil {
		r.t.Fatal(err)
	}
	object.Status.Conditions = fleet.WithRequestCondition(object.Status.Conditions, state, "", time.Now())
	into := &v1alpha1.EdgeDeviceSignedRequest{}
	if err := r.admin.putStatus(r.t.Context(), signedRequests, v1alpha1.KindEdgeDeviceSignedRequest, object, object.Status, into); err != nil {
		r.t.Fatal(err)
	}
	if state == v1alpha1.SignedRequestApproved {
		r.create(fleet.NewDevice(object.Spec.TargetNamespace, d.ID, "", time.Now()))
	}
}

func claim(d edgeapi.Device, own bool, presented, requested string) edgeapi.Registration {
	return edgeapi.Registration{Device: d, Own: own, PresentedKey: presented, KeyFingerprint: requested, Hardware: &protocol.HardwareInfo{Hostname: "host"}}
}

// register is what the server does for a device, which is d.
func (r *rig) register(d edgeapi.Device, reg edgeapi.Registration) error {
	target, err := r.backend.RegistrationTarget(r.t.Context(), reg)
	if err != nil {
		return err
	}
	if target != d {
		r.t.Errorf("target %s, want %s", target, d)
	}
	reg.Device = target
	return r.backend.CompleteRegistration(r.t.Context(), reg)
}

// A device asks, waits, is approved and registers, with a register certificate
// first and its own one later, and repeats all of it.
func TestEnrolAndRegister(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	d := r.unique("dev")
	for range 3 {
		if exists, err := r.enrol(d); err != nil || exists {
			t.Fatalf("enrolled %v, %v", exists, err)
		}
	}
	object, err := r.admin.request(t.Context(), d.ID)
	if err != nil {
		t.Fatal(err)
	}
	if object.Spec.TargetNamespace != r.namespace || object.Spec.Approved || object.Spec.Features.Hardware.Hostname != "h" {
		t.Errorf("request %+v", object.Spec)
	}
	bare := edgeapi.Device{ID: d.ID}
	if _, err := r.backend.RegistrationTarget(t.Context(), claim(bare, false, "", key1)); !errors.Is(err, edgeapi.ErrNotApproved) {
		t.Errorf("before the approval: %v", err)
	}
	if _, err := r.backend.RegistrationTarget(t.Context(), claim(edgeapi.Device{ID: d.ID + "-x"}, false, "", key1)); !errors.Is(err, edgeapi.ErrNotFound) {
		t.Errorf("a device that did not ask: %v", err)
	}
	r.approve(d, v1alpha1.SignedRequestApproved)
	r.eventually("enrolled", func() bool {
		exists, err := r.enrol(d)
		return err == nil && exists
	})
	for range 2 { // the answer may get lost
		if err := r.register(d, claim(bare, false, "", key1)); err != nil {
			t.Fatal(err)
		}
	}
	s := r.get(d)
	if s.Labels[v1alpha1.LabelSignedRequest] != "" || s.Annotations[v1alpha1.AnnotationRegisteredKeys] != key1 || s.Labels[v1alpha1.LabelHostname] != "host" ||
		s.Status.Hardware == nil || condition(s, v1alpha1.ConditionRegistered).Status != metav1.ConditionTrue {
		t.Errorf("device %+v", s)
	}
	if err := r.register(d, claim(bare, false, "", key2)); !errors.Is(err, edgeapi.ErrForbidden) {
		t.Errorf("another key: %v", err)
	}
	if err := r.register(d, claim(d, true, key1, key2)); err != nil {
		t.Errorf("renewal: %v", err)
	}
	for fingerprint, want := range map[string]error{key1: nil, key2: nil, key3: edgeapi.ErrUnauthorised} {
		if err := r.backend.Authorise(t.Context(), d, fingerprint); !errors.Is(err, want) {
			t.Errorf("authorise %s: %v", fingerprint[:1], err)
		}
	}
}

// Defect 7.1.8: a device that was deleted, with its request, needs a new
// approval, whatever certificate it has.
func TestDefect718NewApproval(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	d := r.unique("dev")
	if _, err := r.enrol(d); err != nil {
		t.Fatal(err)
	}
	r.approve(d, v1alpha1.SignedRequestApproved)
	if err := r.backend.CompleteRegistration(t.Context(), claim(d, false, "", key2)); err != nil {
		t.Fatal(err)
	}
	r.remove(group, "EdgeDevice", d.ID)
	if err := r.admin.flotta.Delete().Namespace("default").Resource(signedRequests).Name(d.ID).Do(t.Context()).Error(); err != nil {
		t.Fatal(err)
	}
	r.eventually("not managed", func() bool {
		managed, err := r.backend.Managed(t.Context(), d)
		return err == nil && !managed
	})
	r.eventually("asks anew", func() bool {
		_, _ = r.enrol(d)
		object, err := r.admin.request(t.Context(), d.ID)
		return err == nil && len(object.Status.Conditions) == 0
	})
	if _, err := r.backend.RegistrationTarget(t.Context(), claim(d, true, key2, key3)); !errors.Is(err, edgeapi.ErrNotApproved) {
		t.Errorf("with the old certificate: %v", err)
	}
}

// A device that was declined is told so.
func TestDecline(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	d := r.unique("dev")
	if _, err := r.enrol(d); err != nil {
		t.Fatal(err)
	}
	r.approve(d, v1alpha1.SignedRequestDeclined)
	r.eventually("declined", func() bool {
		_, err := r.enrol(d)
		return errors.Is(err, edgeapi.ErrForbidden)
	})
	if _, err := r.backend.RegistrationTarget(t.Context(), claim(edgeapi.Device{ID: d.ID}, false, "", key1)); !errors.Is(err, edgeapi.ErrForbidden) {
		t.Errorf("registration: %v", err)
	}
}

// Strangers cannot fill the cluster with requests.
func TestPendingBound(t *testing.T) {
	t.Parallel()
	r := bareRig(t)
	// All tests share the namespace of requests, so those of others count.
	var list v1alpha1.EdgeDeviceSignedRequestList
	if err := r.admin.flotta.Get().Namespace("default").Resource(signedRequests).Do(t.Context()).Into(&list); err != nil {
		t.Fatal(err)
	}
	waiting := 0
	for i := range list.Items {
		if requestOf(&list.Items[i]).waits() {
			waiting++
		}
	}
	r.backend = r.run(func(c *Config) { c.MaxPending = waiting + 30 })
	refused := 0
	for i := range 60 {
		if _, err := r.enrol(r.unique(fmt.Sprintf("dev-%d", i))); err != nil {
			refused++
		}
	}
	if refused < 20 {
		t.Errorf("%d of 60 refused", refused)
	}
	if _, err := r.backend.Enrol(t.Context(), r.unique("Bad_Name"), protocol.EnrolmentInfo{}); err == nil {
		t.Error("a name that cannot be was taken")
	}
}

// Of two that register with different keys at once, through two replicas, one
// gets the device.
func TestConcurrentRegistration(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	other := r.run()
	for i := range 10 {
		d := r.name(fmt.Sprintf("dev-%d", i))
		r.create(fleet.NewDevice(d.Namespace, d.ID, "", time.Now()))
		errs := make([]error, 2)
		var wg sync.WaitGroup
		for k, b := range []*Backend{r.backend, other} {
			wg.Go(func() {
				errs[k] = b.CompleteRegistration(t.Context(), claim(d, false, "", []string{key1, key2}[k]))
			})
		}
		wg.Wait()
		winner := r.get(d).Annotations[v1alpha1.AnnotationRegisteredKeys]
		for k, err := range errs {
			if won := winner == []string{key1, key2}[k]; won != (err == nil) || !won && !errors.Is(err, edgeapi.ErrForbidden) {
				t.Errorf("replica %d: %v, the device has %s", k, err, winner[:1])
			}
		}
	}
}

// A replica whose watch is late does not refuse a device that registered through
// another one.
func TestLateReplica(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	other := r.run()
	for i := range 20 {
		d := r.name(fmt.Sprintf("dev-%d", i))
		r.create(fleet.NewDevice(d.Namespace, d.ID, "", time.Now()))
		// It exists and a watch may not have told yet.
		if err := r.backend.CompleteRegistration(t.Context(), claim(d, false, "", key1)); err != nil {
			t.Fatal(err)
		}
		if err := other.Authorise(t.Context(), d, key1); err != nil {
			t.Fatal(err)
		}
		if _, err := other.Configuration(t.Context(), d); err != nil {
			t.Fatal(err)
		}
		if managed, err := other.Managed(t.Context(), d); err != nil || !managed {
			t.Fatalf("managed %v, %v", managed, err)
		}
		h := report("")
		h.Hardware = &protocol.HardwareInfo{Hostname: "later"}
		if err := other.Heartbeat(t.Context(), d, h); err != nil {
			t.Fatal(err)
		}
		if s := r.get(d); s.Annotations[v1alpha1.AnnotationRegisteredKeys] != key1 || condition(s, v1alpha1.ConditionRegistered).Status != "True" {
			t.Fatalf("a late replica undid a registration: %+v", s)
		}
	}
}

// Defect 7.2.15: a device that moved keeps its certificate of the old namespace,
// and registers in the new one with it.
func TestDefect7215MovedNamespace(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	d := r.unique("dev")
	if _, err := r.enrol(d); err != nil {
		t.Fatal(err)
	}
	r.approve(d, v1alpha1.SignedRequestApproved)
	old := edgeapi.Device{Namespace: "elsewhere", ID: d.ID}
	var target edgeapi.Device
	r.eventually("target", func() bool {
		var err error
		target, err = r.backend.RegistrationTarget(t.Context(), claim(old, true, key1, key2))
		return err == nil
	})
	if target != d {
		t.Errorf("target %s, want %s", target, d)
	}
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	registry := prometheus.NewRegistry()
	r := newRig(t, func(c *Config) { c.Registerer = registry })
	d := r.device("dev1", nil)
	r.configuration(d)
	r.configuration(d)
	r.heartbeat(d, report("")) // asks for the configuration as well
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			name := f.GetName()
			for _, l := range m.GetLabel() {
				name += " " + l.GetValue()
			}
			found[name] = m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	for name, want := range map[string]float64{
		"flotta_api_configuration_cache_hits_total": 2, "flotta_api_configuration_cache_misses_total": 1,
		"flotta_api_configuration_render_duration_seconds": 1, "flotta_api_device_writes_total": 1, "flotta_api_device_write_duration_seconds": 1,
		"flotta_api_watches_interrupted": 0,
	} {
		if got, ok := found[name]; !ok || got != want {
			t.Errorf("%s is %v, want %v", name, got, want)
		}
	}
	if found["flotta_api_devices registered"] < 1 {
		t.Errorf("metrics %v", found)
	}
	for name := range found {
		if strings.Contains(name, "dev1") {
			t.Errorf("a series for one device: %s", name)
		}
	}
	if _, err := New(Config{REST: restConfig(""), Logger: r.log, Registerer: registry}); err == nil {
		t.Error("the same metrics twice")
	}
}
