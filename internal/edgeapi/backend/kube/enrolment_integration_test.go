//go:build integration

package kube

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/project-flotta/flotta-agent/internal/edgeapi"
	"github.com/project-flotta/flotta-agent/internal/fleet"
	"github.com/project-flotta/flotta-agent/pkg/api/v1alpha1"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// Defect 7.2.9: an enrolment may say nothing at all, or nonsense, and a device
// without labels may register. Defect 7.2.19: what it says of itself makes
// labels that fit.
func TestDefect729And7219Enrolment(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	huge := strings.Repeat("x", 1<<19)
	var nulls protocol.EnrolmentInfo
	if err := json.Unmarshal([]byte(`{"features":{"hardware":{"disks":[null],"interfaces":[null,null],"gpus":[null],"cpu":{"flags":[null]}}}}`), &nulls); err != nil {
		t.Fatal(err)
	}
	for name, info := range map[string]protocol.EnrolmentInfo{
		"nothing":  {},
		"features": {Features: &protocol.DeviceFeatures{}},
		"nulls":    nulls,
		"huge":     {Features: &protocol.DeviceFeatures{ModelName: huge, Hardware: &protocol.HardwareInfo{Hostname: huge}}},
	} {
		d := r.unique(name)
		if exists, err := r.backend.Enrol(t.Context(), d, info); err != nil || exists {
			t.Errorf("%s: %v, %v", name, exists, err)
		}
		object, err := r.admin.request(t.Context(), d.ID)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if raw, err := json.Marshal(object.Spec); err != nil || len(raw) > maxRequestBytes || object.Spec.Approved {
			t.Errorf("%s: the request has %d bytes, %v", name, len(raw), err)
		}
	}

	object := &v1alpha1.EdgeDevice{}
	object.APIVersion, object.Kind, object.Namespace, object.Name = v1alpha1.APIVersion, v1alpha1.KindEdgeDevice, r.namespace, "bare"
	r.create(object)
	d := r.name("bare")
	reg := claim(d, true, key1, key2)
	reg.Hardware = &protocol.HardwareInfo{
		Hostname: "H", CPU: &protocol.CPU{ModelName: strings.Repeat("M", 80)}, SystemVendor: &protocol.SystemVendor{ProductName: "---"},
	}
	if err := r.backend.CompleteRegistration(t.Context(), reg); err != nil {
		t.Fatal(err)
	}
	s := r.get(d)
	if s.Labels[v1alpha1.LabelCPUModel] != strings.Repeat("m", 63) || s.Labels[v1alpha1.LabelSystemProduct] != "" || s.Annotations[v1alpha1.AnnotationRegisteredKeys] == "" {
		t.Errorf("labels %v, annotations %v", s.Labels, s.Annotations)
	}
}

// Defect 7.1.8: a certificate of a deleted device is worth nothing, also when
// there is a device of that name again.
func TestDefect718DeletedDevice(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	d := r.unique("dev")
	if _, err := r.enrol(d); err != nil {
		t.Fatal(err)
	}
	r.approve(d, v1alpha1.SignedRequestApproved)
	if err := r.backend.CompleteRegistration(t.Context(), claim(d, false, "", key1)); err != nil {
		t.Fatal(err)
	}
	r.remove(group, "EdgeDevice", d.ID)
	r.eventually("not managed", func() bool {
		managed, err := r.backend.Managed(t.Context(), d)
		return err == nil && !managed
	})
	for what, err := range map[string]error{
		"heartbeat":     r.backend.Heartbeat(t.Context(), d, report("")),
		"configuration": second(r.backend.Configuration(t.Context(), d)),
		"playbooks":     second(r.backend.Playbooks(t.Context(), d)),
	} {
		if !errors.Is(err, edgeapi.ErrNotFound) {
			t.Errorf("%s: %v", what, err)
		}
	}
	r.create(fleet.NewDevice(d.Namespace, d.ID, "", time.Now()))
	r.eventually("refused", func() bool {
		return errors.Is(r.backend.Authorise(t.Context(), d, key1), edgeapi.ErrUnauthorised)
	})
	if err := r.backend.CompleteRegistration(t.Context(), claim(d, false, "", key2)); err != nil {
		t.Fatal(err)
	}
	for fingerprint, want := range map[string]error{key1: edgeapi.ErrUnauthorised, key2: nil} {
		if err := r.backend.Authorise(t.Context(), d, fingerprint); !errors.Is(err, want) {
			t.Errorf("authorise %s: %v", fingerprint[:1], err)
		}
	}
	if err := r.backend.CompleteRegistration(t.Context(), claim(d, true, key1, key3)); !errors.Is(err, edgeapi.ErrForbidden) {
		t.Errorf("renewal with the old key: %v", err)
	}
}

func second[T any](_ T, err error) error { return err }
