package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// EdgeDeviceSignedRequestSpec is a device that asks to be managed.
type EdgeDeviceSignedRequestSpec struct {
	// TargetNamespace is where the EdgeDevice is to be made.
	TargetNamespace string `json:"targetNamespace"`
	// TargetSet names the EdgeDeviceSet that the device shall belong to.
	// +optional
	TargetSet string `json:"targetSet,omitempty"`
	// Approved lets the device in.
	// +kubebuilder:default=false
	// +optional
	Approved bool `json:"approved,omitempty"`
	// +optional
	Features *Features `json:"features,omitempty"`
}

// Features is what a device told about itself when it enrolled.
type Features struct {
	// +optional
	ModelName string `json:"modelName,omitempty"`
	// +optional
	Hardware *Hardware `json:"hardware,omitempty"`
}

// Types of an EdgeDeviceSignedRequestCondition.
const (
	SignedRequestDeclined = "declined"
	SignedRequestApproved = "approved"
	SignedRequestPending  = "pending"
)

// EdgeDeviceSignedRequestCondition is one state that a request was in. Its
// Status is written in lower case: "true", "false".
type EdgeDeviceSignedRequestCondition struct {
	// +kubebuilder:validation:Enum=declined;approved;pending
	// +kubebuilder:default=pending
	Type string `json:"type"`
	// +optional
	Status string `json:"status,omitempty"`
	// +optional
	Message string `json:"message,omitempty"`
	// +optional
	LastTransitionTime *metav1.Time `json:"lastTransitionTime,omitempty"`
}

// EdgeDeviceSignedRequestStatus is what became of a request.
type EdgeDeviceSignedRequestStatus struct {
	Conditions []EdgeDeviceSignedRequestCondition `json:"conditions"`
}

// EdgeDeviceSignedRequest asks for one device to be let in. It is named like
// the device, and lives in DefaultNamespace.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:path=edgedevicesignedrequest,scope=Namespaced,shortName=edsr
// +kubebuilder:printcolumn:name="deviceid",type=string,JSONPath=`.metadata.name`
// +kubebuilder:printcolumn:name="targetNamespace",type=string,JSONPath=`.spec.targetNamespace`
// +kubebuilder:printcolumn:name="Approved",type=boolean,JSONPath=`.spec.approved`
// +kubebuilder:printcolumn:name="Status",type=string,JSONPath=`.status.conditions[-1:].type`
type EdgeDeviceSignedRequest struct {
	metav1.TypeMeta `json:",inline"`
	// +optional
	metav1.ObjectMeta `json:"metadata,omitzero"`

	// +optional
	Spec EdgeDeviceSignedRequestSpec `json:"spec,omitzero"`
	// +optional
	Status EdgeDeviceSignedRequestStatus `json:"status,omitzero"`
}

// EdgeDeviceSignedRequestList is a list of EdgeDeviceSignedRequest.
//
// +kubebuilder:object:root=true
type EdgeDeviceSignedRequestList struct {
	metav1.TypeMeta `json:",inline"`
	// +optional
	metav1.ListMeta `json:"metadata,omitzero"`

	Items []EdgeDeviceSignedRequest `json:"items"`
}
