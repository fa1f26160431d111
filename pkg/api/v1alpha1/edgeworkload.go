package v1alpha1

import (
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// WorkloadTypePod is the one type of workload.
const WorkloadTypePod = "pod"

// EdgeWorkloadSpec is a workload and the devices that it is for.
//
// +kubebuilder:validation:XValidation:rule="self.type != 'pod' || has(self.pod)",message="a workload of type pod needs pod",fieldPath=".pod",reason=FieldValueRequired
type EdgeWorkloadSpec struct {
	// DeviceSelector chooses devices of the same namespace by their labels. It
	// is not looked at when Device is set.
	// +optional
	DeviceSelector *metav1.LabelSelector `json:"deviceSelector,omitempty"`
	// Device names the one device that the workload is for.
	// +optional
	Device string `json:"device,omitempty"`
	// Type is "pod".
	Type string `json:"type"`
	// +optional
	Pod *Pod `json:"pod,omitempty"`
	// Data says what is synchronised with the device's bucket.
	// +optional
	Data *DataConfiguration `json:"data,omitempty"`
	// +optional
	ImageRegistries *ImageRegistriesConfiguration `json:"imageRegistries,omitempty"`
	// +optional
	Metrics *ContainerMetricsConfiguration `json:"metrics,omitempty"`
	// LogCollection names the log target, one of the device's logCollection.
	// +optional
	LogCollection string `json:"logCollection,omitempty"`
}

// Pod is the pod that runs on the device.
type Pod struct {
	// +kubebuilder:pruning:PreserveUnknownFields
	Spec PodSpec `json:"spec"`
}

// DataConfiguration is the directories that are synchronised with the bucket.
type DataConfiguration struct {
	// Ingress goes from the bucket to the device.
	// +kubebuilder:validation:MaxItems=1000
	// +optional
	Ingress []DataPath `json:"ingress,omitempty"`
	// Egress goes from the device to the bucket.
	// +kubebuilder:validation:MaxItems=1000
	// +optional
	Egress []DataPath `json:"egress,omitempty"`
	// Quota bounds what /export of this workload may hold after a download on
	// the device, such as 2Gi: what would not fit waits in the bucket, and the
	// device says so. Without it, or with 0, the device's own settings hold. It
	// does not keep the workload itself from writing.
	// +kubebuilder:validation:XValidation:rule="type(self) == int ? self >= 0 : !self.startsWith('-')",message="must not be negative"
	// +optional
	Quota *resource.Quantity `json:"quota,omitempty"`
}

// DataPath is one pair of directories. The one on the device is below /export
// of every container.
type DataPath struct {
	// +kubebuilder:validation:MaxLength=4096
	// +kubebuilder:validation:XValidation:rule="!self.startsWith('/')",message="must be relative: it is below /export on the device, and below the bucket's root in the bucket"
	// +kubebuilder:validation:XValidation:rule="!self.matches('(^|/)[.][.](/|$)')",message="must not contain the name '..'"
	Source string `json:"source"`
	// +kubebuilder:validation:MaxLength=4096
	// +kubebuilder:validation:XValidation:rule="!self.startsWith('/')",message="must be relative: it is below /export on the device, and below the bucket's root in the bucket"
	// +kubebuilder:validation:XValidation:rule="!self.matches('(^|/)[.][.](/|$)')",message="must not contain the name '..'"
	Target string `json:"target"`
}

// ImageRegistriesConfiguration holds what registries ask for.
type ImageRegistriesConfiguration struct {
	// AuthFileSecret names a Secret with the key .dockerconfigjson.
	// +optional
	AuthFileSecret *NameRef `json:"secretRef,omitempty"`
}

// AuthFileKey is the key of the Secret that AuthFileSecret names.
const AuthFileKey = ".dockerconfigjson"

// DefaultMetricsPath is where metrics are that name no path.
const DefaultMetricsPath = "/"

// ContainerMetricsConfiguration says where a workload exposes metrics.
type ContainerMetricsConfiguration struct {
	// +kubebuilder:default="/"
	// +optional
	Path string `json:"path,omitempty"`
	// Port of 0 switches metrics off.
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=65535
	// +optional
	Port int32 `json:"port,omitempty"`
	// Interval is in seconds.
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:default=60
	// +optional
	Interval int32 `json:"interval,omitempty"`
	// +optional
	AllowList *NameRef `json:"allowList,omitempty"`
	// Containers overrides single containers, by name.
	// +optional
	Containers map[string]MetricsConfigEntity `json:"containers,omitempty"`
}

// MetricsConfigEntity is where one container exposes metrics.
type MetricsConfigEntity struct {
	// +kubebuilder:default="/"
	// +optional
	Path string `json:"path,omitempty"`
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=65535
	// +optional
	Port int32 `json:"port,omitempty"`
	// +optional
	Disabled bool `json:"disabled,omitempty"`
}

// EdgeWorkloadStatus counts the devices of a workload.
type EdgeWorkloadStatus struct {
	// ObservedGeneration is the generation of the spec that the counts are for.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// Matched is the number of devices that the workload is meant for.
	// +optional
	Matched int32 `json:"matched,omitempty"`
	// Running is how many of them report that it runs.
	// +optional
	Running int32 `json:"running,omitempty"`
	// Updated is how many of them have applied the newest generation, whether
	// it still runs there or not.
	// +optional
	Updated int32 `json:"updated,omitempty"`
	// Failed is on how many of them something is wrong with it, or it cannot be
	// rendered.
	// +optional
	Failed int32 `json:"failed,omitempty"`
	// +listType=map
	// +listMapKey=type
	// +optional
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// Types of the conditions of an EdgeWorkload.
const (
	// WorkloadAccepted is false when the spec cannot be used as it is.
	WorkloadAccepted = "Accepted"
	// WorkloadReady is true when the workload runs on every device that it is
	// meant for.
	WorkloadReady = "Ready"
)

// EdgeWorkload is a pod for some devices of its namespace.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:path=edgeworkloads,scope=Namespaced
// +kubebuilder:printcolumn:name="Matched",type=integer,JSONPath=`.status.matched`
// +kubebuilder:printcolumn:name="Updated",type=integer,JSONPath=`.status.updated`
// +kubebuilder:printcolumn:name="Running",type=integer,JSONPath=`.status.running`
// +kubebuilder:printcolumn:name="Failed",type=integer,JSONPath=`.status.failed`
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Device",type=string,JSONPath=`.spec.device`,priority=1
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`,priority=1
// +kubebuilder:printcolumn:name="Message",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].message`,priority=1
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type EdgeWorkload struct {
	metav1.TypeMeta `json:",inline"`
	// +optional
	metav1.ObjectMeta `json:"metadata,omitzero"`

	// +optional
	Spec EdgeWorkloadSpec `json:"spec,omitzero"`
	// +optional
	Status EdgeWorkloadStatus `json:"status,omitzero"`
}

// EdgeWorkloadList is a list of EdgeWorkload.
//
// +kubebuilder:object:root=true
type EdgeWorkloadList struct {
	metav1.TypeMeta `json:",inline"`
	// +optional
	metav1.ListMeta `json:"metadata,omitzero"`

	Items []EdgeWorkload `json:"items"`
}
