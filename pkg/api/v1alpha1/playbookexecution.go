package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// PlaybookExecutionSpec is one run of a playbook on one device.
type PlaybookExecutionSpec struct {
	// +optional
	Playbook *Playbook `json:"playbook,omitempty"`
	// +kubebuilder:validation:Minimum=0
	// +optional
	ExecutionAttempt uint8 `json:"executionAttempt,omitempty"`
}

// Types of a PlaybookExecutionStatus condition, in the order of a run.
const (
	PlaybookDeploying             = "Deploying"
	PlaybookTargetVerification    = "TargetVerification"
	PlaybookRunning               = "Running"
	PlaybookSuccessfullyCompleted = "SuccessfullyCompleted"
	PlaybookCompletedWithError    = "CompletedWithError"
)

// PlaybookCondition is one state of a playbook.
type PlaybookCondition struct {
	Type   string                 `json:"type"`
	Status metav1.ConditionStatus `json:"status"`
	// +optional
	Reason string `json:"reason,omitempty"`
	// +optional
	Message string `json:"message,omitempty"`
	// +optional
	LastTransitionTime *metav1.Time `json:"lastTransitionTime,omitempty"`
}

// PlaybookExecutionStatus is what became of a run.
type PlaybookExecutionStatus struct {
	// +optional
	Conditions []PlaybookCondition `json:"conditions,omitempty"`
}

// PlaybookExecution is one run of a playbook on one device.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:path=playbookexecutions,scope=Namespaced
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type PlaybookExecution struct {
	metav1.TypeMeta `json:",inline"`
	// +optional
	metav1.ObjectMeta `json:"metadata,omitzero"`

	// +optional
	Spec PlaybookExecutionSpec `json:"spec,omitzero"`
	// +optional
	Status PlaybookExecutionStatus `json:"status,omitzero"`
}

// PlaybookExecutionList is a list of PlaybookExecution.
//
// +kubebuilder:object:root=true
type PlaybookExecutionList struct {
	metav1.TypeMeta `json:",inline"`
	// +optional
	metav1.ListMeta `json:"metadata,omitzero"`

	Items []PlaybookExecution `json:"items"`
}
