package v1alpha1

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
)

// errPodSpecObject refuses a pod spec that cannot be one.
var errPodSpecObject = errors.New("pod spec is not an object")

// PodSpec is a core/v1 PodSpec, kept as the JSON object that it came as: a field
// that is newer than the Kubernetes release this is built with is passed on to
// the device rather than lost.
//
// For controller-gen it is an object without a schema below it. What is in it is
// judged by Decode, here as well as in an admission webhook.
//
// +kubebuilder:validation:Type=object
// +kubebuilder:pruning:PreserveUnknownFields
type PodSpec struct {
	// Raw is a JSON object; empty is the empty object.
	Raw json.RawMessage `json:"-"`
}

// NewPodSpec returns spec as a PodSpec.
func NewPodSpec(spec *corev1.PodSpec) (PodSpec, error) {
	raw, err := json.Marshal(spec)
	if err != nil {
		return PodSpec{}, fmt.Errorf("encode pod spec: %w", err)
	}
	return PodSpec{Raw: raw}, nil
}

// Decode returns the fields known to the Kubernetes release this is built with.
// It fails when one of them has the wrong type; unknown fields are no error.
func (p PodSpec) Decode() (corev1.PodSpec, error) {
	var spec corev1.PodSpec
	if len(p.Raw) == 0 {
		return spec, nil
	}
	if err := json.Unmarshal(p.Raw, &spec); err != nil {
		return corev1.PodSpec{}, fmt.Errorf("decode pod spec: %w", err)
	}
	return spec, nil
}

// MarshalJSON returns Raw.
func (p PodSpec) MarshalJSON() ([]byte, error) {
	if len(p.Raw) == 0 {
		return []byte("{}"), nil
	}
	return p.Raw, nil
}

// UnmarshalJSON keeps b, which must be an object or null.
func (p *PodSpec) UnmarshalJSON(b []byte) error {
	b = bytes.TrimSpace(b)
	if bytes.Equal(b, []byte("null")) {
		p.Raw = nil
		return nil
	}
	if len(b) == 0 || b[0] != '{' {
		return errPodSpecObject
	}
	p.Raw = bytes.Clone(b)
	return nil
}
