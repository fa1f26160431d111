package fleet_test

import (
	"slices"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/project-flotta/flotta-agent/internal/fleet"
	"github.com/project-flotta/flotta-agent/pkg/api/v1alpha1"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

var now = time.Date(2026, 11, 21, 12, 0, 0, 5, time.UTC)

func TestKeysOverTheLifeOfADevice(t *testing.T) {
	t.Parallel()
	d := fleet.NewDevice("hall", "dev1", "set", now)
	if d.Labels[v1alpha1.LabelMemberOf] != "set" || !fleet.AwaitsRegistration(d) {
		t.Fatalf("labels of a new device: %v", d.Labels)
	}
	if fleet.MaySpeak(d, "earlier") {
		t.Error("a certificate of an earlier device of that name speaks for one that has not registered")
	}
	// Approved anew, it may come with what it has.
	for _, c := range []fleet.Claim{{Requested: "k1"}, {Own: true, Presented: "earlier", Requested: "k1"}} {
		if !fleet.MayRegister(d, c) {
			t.Errorf("claim %+v is refused for an approved device", c)
		}
	}
	labels := d.Labels
	fleet.Register(d, fleet.Claim{Own: true, Presented: "earlier", Requested: "k1"}, &protocol.HardwareInfo{Hostname: "Host"}, now)
	if labels[v1alpha1.LabelSignedRequest] == "" {
		t.Error("the labels of the object were changed in place")
	}
	check := func(when string, speak, refused []string) {
		t.Helper()
		for _, k := range speak {
			if !fleet.MaySpeak(d, k) {
				t.Errorf("%s: key %s may not speak", when, k)
			}
		}
		for _, k := range refused {
			if fleet.MaySpeak(d, k) {
				t.Errorf("%s: key %s may speak", when, k)
			}
			if fleet.MayRegister(d, fleet.Claim{Own: true, Presented: k, Requested: "new"}) {
				t.Errorf("%s: key %s may register another", when, k)
			}
		}
	}
	check("registered", []string{"k1"}, []string{"earlier", "", "new"})
	if !fleet.MayRegister(d, fleet.Claim{Requested: "k1"}) {
		t.Error("a lost answer cannot be asked for again")
	}
	if fleet.MayRegister(d, fleet.Claim{Requested: "k2"}) || fleet.MayRegister(d, fleet.Claim{}) {
		t.Error("a register certificate registers a second key")
	}
	fleet.Register(d, fleet.Claim{Own: true, Presented: "k1", Requested: "k2"}, nil, now)
	check("renewed", []string{"k1", "k2"}, []string{"earlier"})
	if fleet.MayRegister(d, fleet.Claim{Requested: "k1"}) {
		t.Error("the key before can be registered again with a register certificate")
	}
	fleet.Register(d, fleet.Claim{Own: true, Presented: "k2", Requested: "k3"}, nil, now)
	check("renewed twice", []string{"k2", "k3"}, []string{"k1"})
}

func TestDeviceOfFlottaV02HasNoKeyOnRecord(t *testing.T) {
	t.Parallel()
	d := &v1alpha1.EdgeDevice{ObjectMeta: metav1.ObjectMeta{Name: "old"}}
	if !fleet.MaySpeak(d, "any") || !fleet.MayRegister(d, fleet.Claim{Own: true, Presented: "any", Requested: "next"}) {
		t.Error("a device that registered with flotta v0.2 is refused")
	}
	if fleet.MayRegister(d, fleet.Claim{Requested: "next"}) {
		t.Error("a register certificate takes it over")
	}
}

// Defect 7.2.14: conditions of requests piled up.
func TestDefect7214RequestConditionsDoNotPileUp(t *testing.T) {
	t.Parallel()
	list := fleet.WithRequestCondition(nil, v1alpha1.SignedRequestPending, "", now)
	for range 3 {
		again := fleet.WithRequestCondition(list, v1alpha1.SignedRequestPending, "", now.Add(time.Hour))
		if len(again) != 1 || !again[0].LastTransitionTime.Equal(list[0].LastTransitionTime) {
			t.Fatalf("saying it again changed %+v into %+v", list, again)
		}
	}
	list = fleet.WithRequestCondition(list, v1alpha1.SignedRequestApproved, "", now)
	r := &v1alpha1.EdgeDeviceSignedRequest{Status: v1alpha1.EdgeDeviceSignedRequestStatus{Conditions: list}}
	if !fleet.IsGranted(r) || fleet.IsDeclined(r) {
		t.Errorf("conditions %+v", list)
	}
	r.Status.Conditions = fleet.WithRequestCondition(list, v1alpha1.SignedRequestDeclined, "no", now)
	isTrue := func(c v1alpha1.EdgeDeviceSignedRequestCondition) bool { return c.Status == "true" }
	if fleet.IsGranted(r) || !fleet.IsDeclined(r) || len(r.Status.Conditions) != 3 ||
		slices.IndexFunc(r.Status.Conditions, isTrue) != 2 {
		t.Errorf("conditions %+v", r.Status.Conditions)
	}
}
