package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// EdgeConfigSpec is configuration that devices apply to themselves.
type EdgeConfigSpec struct {
	// +optional
	EdgePlaybook *EdgePlaybookSpec `json:"edgePlaybook,omitempty"`
}

// EdgePlaybookSpec is a list of Ansible playbooks.
type EdgePlaybookSpec struct {
	// User runs the playbooks; root when it is empty.
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:Pattern=`^([A-Za-z_][A-Za-z0-9._-]*)?$`
	// +optional
	User string `json:"user,omitempty"`
	// +kubebuilder:validation:MinItems=1
	// +optional
	Playbooks []Playbook `json:"playbooks,omitempty"`
}

// Execution strategies of a Playbook.
const (
	StrategyStopOnFailure  = "StopOnFailure"
	StrategyRetryOnFailure = "RetryOnFailure"
	StrategyExecuteOnce    = "ExecuteOnce"
)

// Playbook is one Ansible playbook.
type Playbook struct {
	// Content is the playbook; base64 in a manifest.
	// +kubebuilder:validation:MinLength=1
	Content []byte `json:"content"`
	// TimeoutSeconds ends a run that takes longer; 0 is the device's setting.
	// +kubebuilder:validation:Minimum=0
	// +optional
	TimeoutSeconds int64 `json:"timeoutSeconds,omitempty"`
	// +optional
	RequiredPrivilegeLevel *RequiredPrivilegeLevel `json:"requiredPrivilegeLevel,omitempty"`
	// +optional
	AnsibleOptions *AnsibleOptions `json:"ansibleOptions,omitempty"`
	// +optional
	PrivilegeEscalationOptions *PrivilegeEscalationOptions `json:"privilegeEscalationOptions,omitempty"`
	// ExecutionStrategy says what a failure means: StopOnFailure runs none of the
	// playbooks after it, RetryOnFailure runs it again a few times, and
	// ExecuteOnce, like nothing at all, does neither.
	// +kubebuilder:validation:Enum="";StopOnFailure;RetryOnFailure;ExecuteOnce
	// +optional
	ExecutionStrategy string `json:"executionStrategy,omitempty"`
}

// RequiredPrivilegeLevel lists capabilities by their number in Linux, from 0
// (CHOWN) to 37 (AUDIT_READ).
type RequiredPrivilegeLevel struct {
	// +kubebuilder:validation:items:Minimum=0
	// +kubebuilder:validation:items:Maximum=37
	// +optional
	CapAdd []int8 `json:"capAdd,omitempty"`
	// +kubebuilder:validation:items:Minimum=0
	// +kubebuilder:validation:items:Maximum=37
	// +optional
	CapDrop []int8 `json:"capDrop,omitempty"`
}

// AnsibleOptions are options of the ansible-playbook command.
type AnsibleOptions struct {
	// Check predicts changes and makes none.
	// +optional
	Check bool `json:"check,omitempty"`
}

// PrivilegeEscalationOptions say how a playbook becomes another user.
type PrivilegeEscalationOptions struct {
	// +optional
	Become bool `json:"become,omitempty"`
	// +kubebuilder:validation:Enum=sudo;su
	// +optional
	BecomeMethod string `json:"becomeMethod,omitempty"`
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:Pattern=`^([A-Za-z_][A-Za-z0-9._-]*)?$`
	// +optional
	BecomeUser string `json:"becomeUser,omitempty"`
}

// Types of an EdgePlaybookStatus condition.
const (
	EdgePlaybookDeploying = "Deploying"
	EdgePlaybookCompleted = "Completed"
)

// EdgeConfigStatus is what became of an EdgeConfig.
type EdgeConfigStatus struct {
	// +optional
	EdgePlaybookStatus *EdgePlaybookStatus `json:"edgePlaybookStatus,omitempty"`
}

// EdgePlaybookStatus is what became of the playbooks.
type EdgePlaybookStatus struct {
	// Runs is how many there are: one for each playbook on each device.
	// +optional
	Runs int32 `json:"runs,omitempty"`
	// +optional
	Succeeded int32 `json:"succeeded,omitempty"`
	// +optional
	Failed int32 `json:"failed,omitempty"`
	// +optional
	Conditions []PlaybookCondition `json:"conditions,omitempty"`
}

// EdgeConfig is configuration for the devices that carry its name in the label
// config/device-by-config, or in another one that starts with config/.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:path=edgeconfigs,scope=Namespaced
// +kubebuilder:printcolumn:name="Runs",type=integer,JSONPath=`.status.edgePlaybookStatus.runs`
// +kubebuilder:printcolumn:name="Succeeded",type=integer,JSONPath=`.status.edgePlaybookStatus.succeeded`
// +kubebuilder:printcolumn:name="Failed",type=integer,JSONPath=`.status.edgePlaybookStatus.failed`
// +kubebuilder:printcolumn:name="State",type=string,JSONPath=`.status.edgePlaybookStatus.conditions[?(@.type=="Completed")].reason`
// +kubebuilder:printcolumn:name="Message",type=string,JSONPath=`.status.edgePlaybookStatus.conditions[?(@.type=="Completed")].message`,priority=1
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type EdgeConfig struct {
	metav1.TypeMeta `json:",inline"`
	// +optional
	metav1.ObjectMeta `json:"metadata,omitzero"`

	// +optional
	Spec EdgeConfigSpec `json:"spec,omitzero"`
	// +optional
	Status EdgeConfigStatus `json:"status,omitzero"`
}

// EdgeConfigList is a list of EdgeConfig.
//
// +kubebuilder:object:root=true
type EdgeConfigList struct {
	metav1.TypeMeta `json:",inline"`
	// +optional
	metav1.ListMeta `json:"metadata,omitzero"`

	Items []EdgeConfig `json:"items"`
}
