package protocol

// DeviceConfigurationMessage is all that a device is told, whole every time.
type DeviceConfigurationMessage struct {
	DeviceID                    string               `json:"device_id,omitempty"`
	Version                     string               `json:"version,omitempty"`
	Configuration               *DeviceConfiguration `json:"configuration,omitempty"`
	Workloads                   []Workload           `json:"workloads,omitempty"`
	WorkloadsMonitoringInterval int64                `json:"workloads_monitoring_interval,omitempty"` // seconds
	Secrets                     []Secret             `json:"secrets,omitempty"`
}

// DeviceConfiguration is what concerns the device rather than one workload.
type DeviceConfiguration struct {
	AnsibleManager *AnsibleManager                      `json:"ansible-manager,omitempty"`
	Heartbeat      *HeartbeatConfiguration              `json:"heartbeat,omitempty"`
	Storage        *StorageConfiguration                `json:"storage,omitempty"`
	Metrics        *MetricsConfiguration                `json:"metrics,omitempty"`
	OS             *OSInformation                       `json:"os,omitempty"`
	LogCollection  map[string]LogsCollectionInformation `json:"log-collection,omitempty"`
	Mounts         []Mount                              `json:"mounts"`
}

// AnsibleManager sets the polling of playbooks.
type AnsibleManager struct {
	PeriodSeconds int64 `json:"period_seconds,omitempty"`
}

// HeartbeatConfiguration sets how often and how fully a device reports.
type HeartbeatConfiguration struct {
	PeriodSeconds   int64            `json:"period_seconds,omitempty"`
	HardwareProfile *HardwareProfile `json:"hardware_profile,omitempty"`
}

// Scopes of a hardware profile.
const (
	ScopeFull  = "full"
	ScopeDelta = "delta"
)

// HardwareProfile says whether heartbeats carry hardware, and how much of it.
type HardwareProfile struct {
	Include bool   `json:"include,omitempty"`
	Scope   string `json:"scope,omitempty"`
}

// OSInformation is the wanted operating system: a commit of ostree, or, on hosts
// that are updated by bootc, an image.
type OSInformation struct {
	CommitID string `json:"commit_id,omitempty"`
	// Image is not in flotta v0.2, whose devices ignore it.
	Image                string `json:"image,omitempty"`
	HostedObjectsURL     string `json:"hosted_objects_url,omitempty"`
	AutomaticallyUpgrade bool   `json:"automatically_upgrade,omitempty"`
}

// StorageConfiguration is where data paths are synchronised with.
type StorageConfiguration struct {
	S3 *S3StorageConfiguration `json:"s3,omitempty"`
}

// S3StorageConfiguration is one bucket. The last three fields are base64.
// BucketHost may have http:// or https:// in front, which flotta v0.2 does not
// understand; without it is https, on whatever port.
type S3StorageConfiguration struct {
	BucketHost         string `json:"bucket_host,omitempty"`
	BucketPort         int32  `json:"bucket_port,omitempty"`
	BucketName         string `json:"bucket_name,omitempty"`
	BucketRegion       string `json:"bucket_region,omitempty"`
	AWSAccessKeyID     string `json:"aws_access_key_id,omitempty"`
	AWSSecretAccessKey string `json:"aws_secret_access_key,omitempty"`
	AWSCABundle        string `json:"aws_ca_bundle,omitempty"`
}

// MetricsConfiguration sets what is measured, kept and shipped.
type MetricsConfiguration struct {
	Retention    *MetricsRetention              `json:"retention,omitempty"`
	System       *ComponentMetricsConfiguration `json:"system,omitempty"`
	DataTransfer *ComponentMetricsConfiguration `json:"data-transfer,omitempty"`
	Receiver     *MetricsReceiverConfiguration  `json:"receiver,omitempty"`
}

// MetricsRetention bounds the metrics kept on the device.
type MetricsRetention struct {
	MaxMiB   int32 `json:"max_mib,omitempty"`
	MaxHours int32 `json:"max_hours,omitempty"`
}

// ComponentMetricsConfiguration sets one source of metrics; Interval in seconds.
type ComponentMetricsConfiguration struct {
	Interval  int32             `json:"interval,omitempty"`
	AllowList *MetricsAllowList `json:"allow_list,omitempty"`
	Disabled  bool              `json:"disabled,omitempty"`
}

// MetricsAllowList names the metrics that are kept.
type MetricsAllowList struct {
	Names []string `json:"names"`
}

// MetricsReceiverConfiguration is a Prometheus remote write endpoint.
type MetricsReceiverConfiguration struct {
	URL               string `json:"url,omitempty"`
	TimeoutSeconds    int64  `json:"timeout_seconds,omitempty"`
	RequestNumSamples int64  `json:"request_num_samples,omitempty"`
	CACert            string `json:"caCert,omitempty"` // PEM text
}

// LogsCollectionInformation is one target of logs.
type LogsCollectionInformation struct {
	Kind         string        `json:"kind,omitempty"`
	BufferSize   int32         `json:"buffer_size,omitempty"`
	SyslogConfig *SyslogConfig `json:"syslog_config,omitempty"`
}

// SyslogConfig is a syslog receiver. Protocol is tcp, udp or tls; flotta v0.2
// knows neither tls nor the certificates, which are PEM text.
type SyslogConfig struct {
	Address    string `json:"address,omitempty"`
	Protocol   string `json:"protocol,omitempty"`
	CACert     string `json:"caCert,omitempty"`
	ClientCert string `json:"clientCert,omitempty"`
	ClientKey  string `json:"clientKey,omitempty"`
}

// Mount is a block device to be mounted.
type Mount struct {
	Device    string `json:"device,omitempty"`
	Directory string `json:"directory,omitempty"`
	Type      string `json:"type,omitempty"`
	Options   string `json:"options,omitempty"`
}

// Workload is one pod to run. Specification is the YAML of a PodSpec, and each
// of ConfigMaps is the YAML of a ConfigMap.
type Workload struct {
	Name            string             `json:"name,omitempty"`
	Namespace       string             `json:"namespace,omitempty"`
	Labels          map[string]string  `json:"labels,omitempty"`
	Annotations     map[string]string  `json:"annotations,omitempty"`
	Specification   string             `json:"specification,omitempty"`
	Data            *DataConfiguration `json:"data,omitempty"`
	ImageRegistries *ImageRegistries   `json:"imageRegistries,omitempty"`
	Metrics         *WorkloadMetrics   `json:"metrics,omitempty"`
	ConfigMaps      []string           `json:"configmaps,omitempty"`
	LogCollection   string             `json:"log_collection,omitempty"`
}

// DataConfiguration is what is synchronised with the bucket.
type DataConfiguration struct {
	Ingress []DataPath `json:"ingress"`
	Egress  []DataPath `json:"egress"`
	// QuotaBytes bounds what the workload's /export may hold after a download;
	// 0: the device's own settings do. It is an addition to flotta v0.2, whose
	// agents ignore it and whose server does not send it.
	QuotaBytes int64 `json:"quota_bytes,omitempty"`
}

// DataPath is one directory pair. For egress Source is below /export and Target
// in the bucket; for ingress the other way round.
type DataPath struct {
	Source string `json:"source,omitempty"`
	Target string `json:"target,omitempty"`
}

// ImageRegistries holds registry credentials: AuthFile is a docker config JSON.
type ImageRegistries struct {
	AuthFile string `json:"authFile,omitempty"`
}

// WorkloadMetrics says where a workload exposes metrics; Interval in seconds.
type WorkloadMetrics struct {
	Path       string                      `json:"path,omitempty"`
	Port       int32                       `json:"port,omitempty"`
	Interval   int32                       `json:"interval,omitempty"`
	AllowList  *MetricsAllowList           `json:"allow_list,omitempty"`
	Containers map[string]ContainerMetrics `json:"containers,omitempty"`
}

// ContainerMetrics overrides WorkloadMetrics for one container.
type ContainerMetrics struct {
	Disabled bool   `json:"disabled,omitempty"`
	Path     string `json:"path,omitempty"`
	Port     int32  `json:"port,omitempty"`
}

// Secret is named data: Data is a JSON object text of key to base64 value.
type Secret struct {
	Name string `json:"name,omitempty"`
	Data string `json:"data,omitempty"`
}
