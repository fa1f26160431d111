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
	// What cannot be rendered for the device comes before what the device says.
	// Pulling, Staging, Starting and Settling mean that it is on its way.
	// +optional
	Reason string `json:"reason,omitempty"`
	// Message explains Reason to a person.
	// +optional
	Message string `json:"message,omitempty"`
	// ObservedGeneration is the generation of the EdgeWorkload in the
	// configuration that is in force on the device; 0 when that is not known.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// DesiredDigest identifies, in the device's own terms, what it is to run.
	// +optional
	DesiredDigest string `json:"desiredDigest,omitempty"`
	// AppliedDigest identifies what was last seen to work there. When both
	// digests are the same, the device is up to date.
	// +optional
	AppliedDigest string `json:"appliedDigest,omitempty"`
	// Restarts counts those of the containers; it may be some minutes old.
	// +optional
	Restarts int64 `json:"restarts,omitempty"`
	// Since is when the device saw Phase and Reason change.
	// +optional
	Since *metav1.Time `json:"since,omitempty"`
	// Images are those that the containers were made from.
	// +optional
	Images []WorkloadImage `json:"images,omitempty"`
	// Notes are good to know although nothing is wrong, such as a part of the
	// specification that the device's Podman does not heed.
	// +optional
	Notes []string `json:"notes,omitempty"`
	// DataSync is the state of the workload's data paths; it may be some minutes
	// old as far as times, counts and texts go.
	// +optional
	DataSync *DataSyncStatus `json:"dataSync,omitempty"`
}

// DataSyncStatus is the state of the data paths of one workload on one device.
type DataSyncStatus struct {
	// Egress goes from the device to the bucket.
	// +optional
	Egress *DataDirectionStatus `json:"egress,omitempty"`
	// Ingress goes from the bucket to the device.
	// +optional
	Ingress *DataDirectionStatus `json:"ingress,omitempty"`
}

// DataDirectionStatus is the state of one direction.
type DataDirectionStatus struct {
	// LastSuccessTime is the end of the last look at all paths that found
	// nothing wrong.
	// +optional
	LastSuccessTime *metav1.Time `json:"lastSuccessTime,omitempty"`
	// PendingFiles are to be transferred.
	// +optional
	PendingFiles int64 `json:"pendingFiles,omitempty"`
	// PendingBytes are theirs, as far as the sizes are known.
	// +optional
	PendingBytes int64 `json:"pendingBytes,omitempty"`
	// FailedFiles could not be transferred and are tried again.
	// +optional
	FailedFiles int64 `json:"failedFiles,omitempty"`
	// LastError is what was wrong when the device last looked; empty: nothing.
	// +optional
	LastError string `json:"lastError,omitempty"`
	// Blocked says why transfers are held back although none failed, such as a
	// disk that is nearly full.
	// +optional
	Blocked string `json:"blocked,omitempty"`
	// Paused says why nothing is to travel now, as the device's settings want it.
	// +optional
	Paused string `json:"paused,omitempty"`
	// Problems last until somebody changes something.
	// +optional
	Problems []DataProblem `json:"problems,omitempty"`
}

// DataProblem is one thing that is wrong with a workload's data paths.
type DataProblem struct {
	// Reason is one word.
	// +optional
	Reason string `json:"reason,omitempty"`
	// Message explains Reason to a person.
	// +optional
	Message string `json:"message,omitempty"`
}

// WorkloadImage is the image that a container was made from.
type WorkloadImage struct {
	// +optional
	Container string `json:"container,omitempty"`
	// Reference is the image as the workload names it.
	// +optional
	Reference string `json:"reference,omitempty"`
	// +optional
	ID string `json:"id,omitempty"`
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
