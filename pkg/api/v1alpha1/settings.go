package v1alpha1

// DeviceSettings are the sections that an EdgeDevice and an EdgeDeviceSet have
// in common. A set's sections replace those of its members whole, also the ones
// that the set leaves out.
type DeviceSettings struct {
	// +optional
	Heartbeat *HeartbeatConfiguration `json:"heartbeat,omitempty"`
	// +optional
	Storage *Storage `json:"storage,omitempty"`
	// +optional
	Metrics *MetricsConfiguration `json:"metrics,omitempty"`
	// LogCollection holds log targets by the name that workloads choose them by.
	// +optional
	LogCollection map[string]LogCollectionConfig `json:"logCollection,omitempty"`
	// +optional
	OsInformation *OsInformation `json:"osInformation,omitempty"`
	// +kubebuilder:validation:MaxItems=1000
	// +kubebuilder:validation:XValidation:rule="self.all(m, !has(m.folder) || size(m.folder) == 0 || m.folder.startsWith('/'))",message="folder must be an absolute path"
	// +optional
	Mounts []Mount `json:"mounts,omitempty"`
}

// HeartbeatConfiguration sets how a device reports.
type HeartbeatConfiguration struct {
	// +optional
	HardwareProfile *HardwareProfileConfiguration `json:"hardwareProfile,omitempty"`
	// PeriodSeconds is the time between two heartbeats.
	// +kubebuilder:validation:Minimum=1
	// +optional
	PeriodSeconds int64 `json:"periodSeconds,omitempty"`
}

// HardwareProfileConfiguration says whether heartbeats carry hardware.
type HardwareProfileConfiguration struct {
	// +optional
	Include bool `json:"include,omitempty"`
	// Scope is "full" or "delta".
	// +optional
	Scope string `json:"scope,omitempty"`
}

// OsInformation is the operating system that a device is to run.
type OsInformation struct {
	// +optional
	AutomaticallyUpgrade bool `json:"automaticallyUpgrade,omitempty"`
	// +optional
	CommitID string `json:"commitID,omitempty"`
	// Image is the container image that hosts with bootc are to run, such as
	// registry.example.com/edge/os@sha256:…. Other hosts run CommitID.
	// +optional
	Image string `json:"image,omitempty"`
	// +optional
	HostedObjectsURL string `json:"hostedObjectsURL,omitempty"`
}

// Storage is where the data paths of workloads are synchronised with.
type Storage struct {
	// +optional
	S3 *S3Storage `json:"s3,omitempty"`
}

// S3Storage names the objects that describe a bucket. Both are in the namespace
// of the device.
//
// +kubebuilder:validation:XValidation:rule="!has(self.createOBC) || !self.createOBC || ((!has(self.secretName) || size(self.secretName) == 0) && (!has(self.configMapName) || size(self.configMapName) == 0))",message="createOBC asks for a bucket to be made, and secretName and configMapName name one that exists: give one or the other"
type S3Storage struct {
	// SecretName names a Secret with the keys AWS_ACCESS_KEY_ID,
	// AWS_SECRET_ACCESS_KEY and, optionally, tls.crt.
	// +optional
	SecretName string `json:"secretName,omitempty"`
	// ConfigMapName names a ConfigMap with the keys BUCKET_NAME, BUCKET_HOST,
	// BUCKET_PORT and BUCKET_REGION.
	// +optional
	ConfigMapName string `json:"configMapName,omitempty"`
	// CreateOBC asks for a bucket to be made; it excludes the two names.
	// +optional
	CreateOBC bool `json:"createOBC,omitempty"`
}

// Keys of the objects that S3Storage names.
const (
	BucketNameKey         = "BUCKET_NAME"
	BucketHostKey         = "BUCKET_HOST"
	BucketPortKey         = "BUCKET_PORT"
	BucketRegionKey       = "BUCKET_REGION"
	AWSAccessKeyIDKey     = "AWS_ACCESS_KEY_ID"
	AWSSecretAccessKeyKey = "AWS_SECRET_ACCESS_KEY"
	StorageCAKey          = "tls.crt"
)

// MetricsConfiguration sets what a device measures, keeps and ships.
type MetricsConfiguration struct {
	// +optional
	Retention *Retention `json:"retention,omitempty"`
	// +optional
	SystemMetrics *ComponentMetricsConfiguration `json:"system,omitempty"`
	// +optional
	DataTransferMetrics *ComponentMetricsConfiguration `json:"dataTransfer,omitempty"`
	// +optional
	ReceiverConfiguration *MetricsReceiverConfiguration `json:"receiverConfiguration,omitempty"`
}

// Retention bounds the metrics that a device keeps; 0 is no bound.
type Retention struct {
	// +kubebuilder:validation:Minimum=0
	// +optional
	MaxMiB int32 `json:"maxMiB,omitempty"`
	// +kubebuilder:validation:Minimum=0
	// +optional
	MaxHours int32 `json:"maxHours,omitempty"`
}

// DefaultMetricsInterval is the interval, in seconds, of metrics that set none.
const DefaultMetricsInterval = 60

// ComponentMetricsConfiguration sets one source of metrics of the device.
type ComponentMetricsConfiguration struct {
	// Interval is in seconds.
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:default=60
	// +optional
	Interval int32 `json:"interval,omitempty"`
	// +optional
	AllowList *NameRef `json:"allowList,omitempty"`
	// +optional
	Disabled bool `json:"disabled,omitempty"`
}

// AllowListKey is the key of an allow list's ConfigMap: YAML with a list
// "names".
const AllowListKey = "metrics_list.yaml"

// NameRef names an object in the same namespace.
type NameRef struct {
	Name string `json:"name"`
}

// MetricsReceiverConfiguration is a Prometheus remote write endpoint.
type MetricsReceiverConfiguration struct {
	// RequestNumSamples is the most samples in one request.
	// +kubebuilder:validation:Minimum=0
	// +optional
	RequestNumSamples int64 `json:"requestNumSamples,omitempty"`
	// +kubebuilder:validation:Minimum=0
	// +optional
	TimeoutSeconds int64 `json:"timeoutSeconds,omitempty"`
	// URL is empty when nothing is shipped.
	// +optional
	URL string `json:"url,omitempty"`
	// CASecretName names a Secret with the key ca.crt; it is used when URL is
	// https.
	// +optional
	CASecretName string `json:"caSecretName,omitempty"`
}

// ReceiverCAKey is the key of the Secret that CASecretName names.
const ReceiverCAKey = "ca.crt"

// LogKindSyslog is the one kind of log target.
const LogKindSyslog = "syslog"

// DefaultLogBufferSize is the buffer size of log targets that set none.
const DefaultLogBufferSize = 12

// LogCollectionConfig is one target of logs.
type LogCollectionConfig struct {
	// +kubebuilder:validation:Enum=syslog
	// +optional
	Kind string `json:"kind,omitempty"`
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:default=12
	// +optional
	BufferSize int32 `json:"bufferSize,omitempty"`
	// SyslogConfig names a ConfigMap with the keys Address and, optionally,
	// Protocol: tcp (the default) or udp.
	// +optional
	SyslogConfig *NameRef `json:"syslogConfig,omitempty"`
}

// Keys of the ConfigMap that SyslogConfig names. Those of TLS are additions to
// flotta v0.2.
const (
	SyslogAddressKey  = "Address"
	SyslogProtocolKey = "Protocol"     // tcp, udp or tls
	SyslogCAKey       = "ca.crt"       // PEM, of tls; without it the host's trust counts
	SyslogSecretKey   = "ClientSecret" // of tls: a Secret with a client certificate
)

// Keys of the Secret that SyslogSecretKey names, as in a Secret of the type
// kubernetes.io/tls.
const (
	SyslogClientCertKey = "tls.crt"
	SyslogClientKeyKey  = "tls.key"
)

// Mount is a block device that is mounted on the device.
type Mount struct {
	// +optional
	Device string `json:"device,omitempty"`
	// Directory is where it is mounted.
	// +optional
	Directory string `json:"folder,omitempty"`
	// +optional
	Type string `json:"type,omitempty"`
	// +optional
	Options string `json:"options,omitempty"`
}
