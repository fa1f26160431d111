package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// EdgeDeviceSpec is what is wanted of a device.
type EdgeDeviceSpec struct {
	DeviceSettings `json:",inline"`

	// RequestTime is when the device asked to be managed.
	// +optional
	RequestTime *metav1.Time `json:"requestTime,omitempty"`
}

// EdgeDeviceStatus is what a device reported, and what became of it here.
type EdgeDeviceStatus struct {
	// Phase is the status of the last heartbeat.
	// +optional
	Phase string `json:"phase,omitempty"`
	// LastSyncedResourceVersion is the version of the configuration in force on
	// the device.
	// +optional
	LastSyncedResourceVersion string `json:"lastSyncedResourceVersion,omitempty"`
	// +optional
	Hardware *Hardware `json:"hardware,omitempty"`
	// +optional
	Workloads []WorkloadStatus `json:"workloads,omitempty"`
	// +optional
	PlaybookExec []PlaybookExec `json:"PlaybookExec,omitempty"`
	// DataOBC names the ObjectBucketClaim made for the device.
	// +optional
	DataOBC string `json:"dataObc,omitempty"`
	// +optional
	UpgradeInformation *UpgradeInformation `json:"upgradeInformation,omitempty"`
	// LastSeenTime is when the device was last heard of, coarsely.
	// +optional
	LastSeenTime *metav1.Time `json:"lastSeenTime,omitempty"`
	// +listType=map
	// +listMapKey=type
	// +optional
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// Phases of a workload that this side sets; a device may report any other word.
const (
	PhaseDeploying = "Deploying"
	PhaseRunning   = "Running"
	PhaseExited    = "Exited"
)

// WorkloadStatus is one workload on one device.
type WorkloadStatus struct {
	Name string `json:"name"`
	// +optional
	Phase string `json:"phase,omitempty"`
	// LastTransitionTime is when Phase last changed.
	// +optional
	LastTransitionTime *metav1.Time `json:"lastTransitionTime,omitempty"`
	// +optional
	LastDataUpload *metav1.Time `json:"lastDataUpload,omitempty"`
	// Reason says in one word why the workload is not as wanted; empty: it is.
	// +optional
	Reason string `json:"reason,omitempty"`
	// Message explains Reason to a person.
	// +optional
	Message string `json:"message,omitempty"`
}

// PlaybookExec is one playbook on one device.
type PlaybookExec struct {
	Name string `json:"name"`
	// +optional
	PlaybookExecutionStatus PlaybookExecutionStatus `json:"PlaybookExecutionStatus,omitzero"`
}

// UpgradeInformation is the outcome of the last operating system upgrade.
type UpgradeInformation struct {
	CurrentCommitID string `json:"currentCommitID"`
	// +optional
	LastUpgradeStatus string `json:"lastUpgradeStatus,omitempty"`
	// +optional
	LastUpgradeTime string `json:"lastUpgradeTime,omitempty"`
}

// EdgeDevice is one managed machine.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:path=edgedevices,scope=Namespaced
// +kubebuilder:printcolumn:name="Phase",type=string,JSONPath=`.status.phase`
// +kubebuilder:printcolumn:name="Online",type=string,JSONPath=`.status.conditions[?(@.type=="Online")].status`
// +kubebuilder:printcolumn:name="Applied",type=string,JSONPath=`.status.conditions[?(@.type=="ConfigurationApplied")].status`
// +kubebuilder:printcolumn:name="Degraded",type=string,JSONPath=`.status.conditions[?(@.type=="Degraded")].status`
// +kubebuilder:printcolumn:name="Set",type=string,JSONPath=`.metadata.labels['flotta/member-of']`,priority=1
// +kubebuilder:printcolumn:name="Registered",type=string,JSONPath=`.status.conditions[?(@.type=="Registered")].status`,priority=1
// +kubebuilder:printcolumn:name="Version",type=string,JSONPath=`.status.lastSyncedResourceVersion`,priority=1
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Degraded")].reason`,priority=1
// +kubebuilder:printcolumn:name="Last seen",type=date,JSONPath=`.status.lastSeenTime`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type EdgeDevice struct {
	metav1.TypeMeta `json:",inline"`
	// +optional
	metav1.ObjectMeta `json:"metadata,omitzero"`

	// +optional
	Spec EdgeDeviceSpec `json:"spec,omitzero"`
	// +optional
	Status EdgeDeviceStatus `json:"status,omitzero"`
}

// EdgeDeviceList is a list of EdgeDevice.
//
// +kubebuilder:object:root=true
type EdgeDeviceList struct {
	metav1.TypeMeta `json:",inline"`
	// +optional
	metav1.ListMeta `json:"metadata,omitzero"`

	Items []EdgeDevice `json:"items"`
}
