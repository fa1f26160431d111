package v1alpha1

// Group, Version and APIVersion identify the API of all kinds here.
const (
	Group      = "management.project-flotta.io"
	Version    = "v1alpha1"
	APIVersion = Group + "/" + Version
)

// The kinds.
const (
	KindEdgeDevice              = "EdgeDevice"
	KindEdgeDeviceSet           = "EdgeDeviceSet"
	KindEdgeDeviceSignedRequest = "EdgeDeviceSignedRequest"
	KindEdgeWorkload            = "EdgeWorkload"
	KindEdgeConfig              = "EdgeConfig"
	KindPlaybookExecution       = "PlaybookExecution"
)

// DefaultNamespace is where every EdgeDeviceSignedRequest lives, and where a
// device belongs that names no other namespace.
const DefaultNamespace = "default"

// Labels of an EdgeDevice.
const (
	// LabelSignedRequest marks a device, with the value "true", that was
	// approved and has not registered yet.
	LabelSignedRequest = "edgedeviceSignedRequest"
	// LabelMemberOf names the EdgeDeviceSet that a device belongs to.
	LabelMemberOf = "flotta/member-of"
	// LabelDeviceByConfig names the EdgeConfig whose playbooks a device runs.
	LabelDeviceByConfig = LabelConfigPrefix + "device-by-config"
	// LabelConfigPrefix starts the labels that name EdgeConfigs: a device of
	// several has several of them, followed by whatever tells them apart.
	LabelConfigPrefix = "config/"
	// LabelWorkloadPrefix is followed by the name of an attached EdgeWorkload;
	// the value is "true".
	LabelWorkloadPrefix = "workload/"

	// Hardware as the device reported it.
	LabelHostname           = "device.hostname"
	LabelCPUArchitecture    = "device.cpu-architecture"
	LabelCPUModel           = "device.cpu-model"
	LabelSystemManufacturer = "device.system-manufacturer"
	LabelSystemProduct      = "device.system-product"
	LabelSystemSerial       = "device.system-serial"
)

// LabelDevice is on a PlaybookExecution and names the device that it is for.
const LabelDevice = "flotta/device"

// Labels of an EdgeWorkload.
const (
	// LabelSelectorPrefix is followed by what a workload selects devices by, as
	// an index. Keys that hold a slash cannot be written so.
	LabelSelectorPrefix       = "selector/"
	LabelSelectorDeviceName   = LabelSelectorPrefix + "devicename"
	LabelSelectorDoesNotExist = LabelSelectorPrefix + "doesnotexist"
	// PodmanPrefix starts the labels and annotations that reach the pod on the
	// device; it is cut off there. Others stay in the cluster.
	PodmanPrefix = "podman/"
)

// LabelTrue is the value of labels that are flags.
const LabelTrue = "true"

// Finalizers.
const (
	FinalizerEdgeDevice = "device-finalizer"
	// FinalizerDeviceReference is on EdgeWorkload and PlaybookExecution.
	FinalizerDeviceReference = "yggdrasil-device-reference-finalizer"
)

// AnnotationRegisteredKeys is on an EdgeDevice and holds, separated by spaces,
// the fingerprints of the keys that may speak for it: the lower-case hexadecimal
// SHA-256 of each SubjectPublicKeyInfo. A device without it registered with
// flotta v0.2.
const AnnotationRegisteredKeys = Group + "/registered-key"

// AnnotationDeclined is set to "true" on an EdgeDeviceSignedRequest by an
// administrator who refuses the device.
const AnnotationDeclined = Group + "/declined"

// Types of the conditions of an EdgeDevice.
const (
	// ConditionApproved is true for a device whose request was approved.
	ConditionApproved = "Approved"
	// ConditionRegistered is true for a device that has a certificate.
	ConditionRegistered = "Registered"
	// ConditionOnline is false for a device that was not heard of for too long.
	ConditionOnline = "Online"
	// ConditionConfigurationApplied is true when the newest configuration is in
	// force on the device.
	ConditionConfigurationApplied = "ConfigurationApplied"
	// ConditionDegraded is true when something could not be rendered.
	ConditionDegraded = "Degraded"
	// ConditionBucketReady is there for a device that asks for a bucket of its
	// own, and true when it can be used.
	ConditionBucketReady = "BucketReady"
)
