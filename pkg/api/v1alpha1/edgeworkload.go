package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// WorkloadTypePod is the one type of workload.
const WorkloadTypePod = "pod"

// EdgeWorkloadSpec is a workload and the devices that it is for.
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
	// +optional
	Ingress []DataPath `json:"ingress,omitempty"`
	// Egress goes from the device to the bucket.
	// +optional
	Egress []DataPath `json:"egress,omitempty"`
}

// DataPath is one pair of directories. The one on the device is below /export
// of every container.
type DataPath struct {
	Source string `json:"source"`
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

// EdgeWorkloadStatus is empty.
type EdgeWorkloadStatus struct{}

// EdgeWorkload is a pod for some devices of its namespace.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:path=edgeworkloads,scope=Namespaced
// +kubebuilder:printcolumn:name="Device",type=string,JSONPath=`.spec.device`
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
