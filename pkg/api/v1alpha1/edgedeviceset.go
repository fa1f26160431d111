package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// EdgeDeviceSetSpec is what is wanted of every member.
type EdgeDeviceSetSpec struct {
	DeviceSettings `json:",inline"`
}

// EdgeDeviceSetStatus is empty.
type EdgeDeviceSetStatus struct{}

// EdgeDeviceSet is the settings of many devices. Members are the EdgeDevices of
// the same namespace that carry its name in the label flotta/member-of.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:path=edgedevicesets,scope=Namespaced
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type EdgeDeviceSet struct {
	metav1.TypeMeta `json:",inline"`
	// +optional
	metav1.ObjectMeta `json:"metadata,omitzero"`

	// +optional
	Spec EdgeDeviceSetSpec `json:"spec,omitzero"`
	// +optional
	Status EdgeDeviceSetStatus `json:"status,omitzero"`
}

// EdgeDeviceSetList is a list of EdgeDeviceSet.
//
// +kubebuilder:object:root=true
type EdgeDeviceSetList struct {
	metav1.TypeMeta `json:",inline"`
	// +optional
	metav1.ListMeta `json:"metadata,omitzero"`

	Items []EdgeDeviceSet `json:"items"`
}
