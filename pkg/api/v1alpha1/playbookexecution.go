package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// PlaybookExecutionSpec is one run of a playbook on one device.
type PlaybookExecutionSpec struct {
	// +optional
	Playbook *Playbook `json:"playbook,omitempty"`
	// User runs the playbook; root when it is empty.
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:Pattern=`^([A-Za-z_][A-Za-z0-9._-]*)?$`
	// +optional
	User string `json:"user,omitempty"`
	// ExecutionAttempt counts how often somebody asked for the run: another number
	// has a run that ended run again.
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=255
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

// PlaybookSkipped is the reason of a run that ended with an error because one
// before it had, which stops on failure. It is begun anew when that one succeeds.
const PlaybookSkipped = "Skipped"

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
	// RunID is the id under which the device was asked for the run that the
	// conditions tell of. A run that was changed since has another one.
	// +optional
	RunID string `json:"runID,omitempty"`
	// +optional
	Conditions []PlaybookCondition `json:"conditions,omitempty"`
}

// PlaybookExecution is one run of a playbook on one device.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:path=playbookexecutions,scope=Namespaced
// +kubebuilder:printcolumn:name="State",type=string,JSONPath=`.status.conditions[?(@.status=="True")].type`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.status=="True")].reason`
// +kubebuilder:printcolumn:name="Config",type=string,JSONPath=`.metadata.labels['config/device-by-config']`,priority=1
// +kubebuilder:printcolumn:name="Device",type=string,JSONPath=`.metadata.labels['flotta/device']`,priority=1
// +kubebuilder:printcolumn:name="Message",type=string,JSONPath=`.status.conditions[?(@.status=="True")].message`,priority=1
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
