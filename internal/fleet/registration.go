package fleet

import (
	"maps"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/project-flotta/flotta-agent/pkg/api/v1alpha1"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// Claim is a device asking for a certificate. Fingerprints are those of
// pki.Fingerprint.
type Claim struct {
	// Own is true when the device showed a certificate in its own name.
	Own bool
	// Presented is the fingerprint of that certificate's key.
	Presented string
	// Requested is the fingerprint of the key that is to be certified.
	Requested string
}

// MayRegister reports whether a device's certificate may be issued on a claim.
// A register certificate is good for the first time, and for repeating it with
// the same key when the answer was lost: whoever made the request holds that
// key, and to anybody else a certificate for it is worth nothing. Later only a
// key that is registered can ask for another.
func MayRegister(d *v1alpha1.EdgeDevice, c Claim) bool {
	keys := registeredKeys(d)
	switch {
	case AwaitsRegistration(d):
		return true
	case len(keys) > 0 && c.Requested == keys[0]:
		return true
	}
	// A device that registered with flotta v0.2 has no key on record.
	return c.Own && (len(keys) == 0 || slices.Contains(keys, c.Presented))
}

// AwaitsRegistration reports whether the device was approved and has not
// registered since.
func AwaitsRegistration(d *v1alpha1.EdgeDevice) bool {
	return d.Labels[v1alpha1.LabelSignedRequest] == v1alpha1.LabelTrue
}

// MaySpeak reports whether a certificate for the key with that fingerprint may
// speak for the device: it is not one that a deleted device of the same name
// left behind.
func MaySpeak(d *v1alpha1.EdgeDevice, fingerprint string) bool {
	if AwaitsRegistration(d) {
		return false
	}
	keys := registeredKeys(d)
	return len(keys) == 0 || slices.Contains(keys, fingerprint)
}

// Register records that a certificate was issued on a claim. The key that the
// device asked with stays good beside the new one, because the answer may be
// lost; its certificate's own end bounds that.
func Register(d *v1alpha1.EdgeDevice, c Claim, hardware *protocol.HardwareInfo, now time.Time) {
	keys := []string{c.Requested}
	if c.Own && !AwaitsRegistration(d) && c.Presented != c.Requested && c.Presented != "" {
		keys = append(keys, c.Presented)
	}
	// Maps of the object may be shared with a cache.
	d.Annotations = maps.Clone(d.Annotations)
	if d.Annotations == nil {
		d.Annotations = make(map[string]string)
	}
	d.Annotations[v1alpha1.AnnotationRegisteredKeys] = strings.Join(keys, " ")
	d.Labels = maps.Clone(d.Labels)
	delete(d.Labels, v1alpha1.LabelSignedRequest)
	TakeHardware(d, hardware)
	SetCondition(d, metav1.Condition{
		Type: v1alpha1.ConditionRegistered, Status: metav1.ConditionTrue, Reason: "Registered", Message: "the device has a certificate",
	}, now)
}

// registeredKeys returns the fingerprints on record, the newest first.
func registeredKeys(d *v1alpha1.EdgeDevice) []string {
	return strings.Fields(d.Annotations[v1alpha1.AnnotationRegisteredKeys])
}

// NewDevice is what a device is when it was approved. Set may be empty.
func NewDevice(namespace, id, set string, now time.Time) *v1alpha1.EdgeDevice {
	created := Timestamp(now)
	d := &v1alpha1.EdgeDevice{
		TypeMeta: metav1.TypeMeta{APIVersion: v1alpha1.APIVersion, Kind: v1alpha1.KindEdgeDevice},
		ObjectMeta: metav1.ObjectMeta{
			Namespace: namespace, Name: id,
			Labels: map[string]string{v1alpha1.LabelSignedRequest: v1alpha1.LabelTrue},
		},
		Spec: v1alpha1.EdgeDeviceSpec{RequestTime: &created},
	}
	if set != "" {
		d.Labels[v1alpha1.LabelMemberOf] = set
	}
	SetCondition(d, metav1.Condition{
		Type: v1alpha1.ConditionApproved, Status: metav1.ConditionTrue, Reason: "Approved", Message: "the request was approved",
	}, now)
	SetCondition(d, metav1.Condition{
		Type: v1alpha1.ConditionRegistered, Status: metav1.ConditionFalse, Reason: "Waiting", Message: "the device has no certificate yet",
	}, now)
	return d
}

// NewRequest is what a device that asks to be managed leaves behind: a request
// for a place in namespace.
func NewRequest(namespace, id string, info protocol.EnrolmentInfo, now time.Time) *v1alpha1.EdgeDeviceSignedRequest {
	r := &v1alpha1.EdgeDeviceSignedRequest{
		TypeMeta:   metav1.TypeMeta{APIVersion: v1alpha1.APIVersion, Kind: v1alpha1.KindEdgeDeviceSignedRequest},
		ObjectMeta: metav1.ObjectMeta{Namespace: v1alpha1.DefaultNamespace, Name: id},
		Spec:       v1alpha1.EdgeDeviceSignedRequestSpec{TargetNamespace: namespace},
	}
	if f := info.Features; f != nil {
		r.Spec.Features = &v1alpha1.Features{ModelName: Clip(f.ModelName), Hardware: MergeHardware(nil, f.Hardware)}
	}
	r.Status.Conditions = WithRequestCondition(nil, v1alpha1.SignedRequestPending, "", now)
	return r
}
