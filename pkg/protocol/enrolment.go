package protocol

// DefaultTargetNamespace is where a device belongs that names no namespace.
const DefaultTargetNamespace = "default"

// EnrolmentInfo asks to be managed.
type EnrolmentInfo struct {
	Features        *DeviceFeatures `json:"features,omitempty"`
	TargetNamespace *string         `json:"target_namespace,omitempty"`
}

// DeviceFeatures describes a device that enrols.
type DeviceFeatures struct {
	ModelName string        `json:"modelName,omitempty"`
	Hardware  *HardwareInfo `json:"hardware,omitempty"`
}

// RegistrationInfo asks for a device certificate; CertificateRequest is PEM.
type RegistrationInfo struct {
	Hardware           *HardwareInfo `json:"hardware,omitempty"`
	CertificateRequest string        `json:"certificate_request,omitempty"`
}

// RegistrationResponse carries the issued certificate as PEM.
type RegistrationResponse struct {
	Certificate string `json:"certificate,omitempty"`
}
