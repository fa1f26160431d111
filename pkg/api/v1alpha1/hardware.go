package v1alpha1

// Hardware is a machine as it described itself.
type Hardware struct {
	// +optional
	Boot *Boot `json:"boot,omitempty"`
	// +optional
	CPU   *CPU   `json:"cpu,omitempty"`
	Disks []Disk `json:"disks"`
	Gpus  []Gpu  `json:"gpus"`
	// +optional
	Hostname   string      `json:"hostname,omitempty"`
	Interfaces []Interface `json:"interfaces"`
	// +optional
	Memory *Memory `json:"memory,omitempty"`
	// +optional
	SystemVendor *SystemVendor `json:"systemVendor,omitempty"`
	// +optional
	HostDevices []HostDevice `json:"hostDevices,omitempty"`
	// +optional
	Mounts []Mount `json:"mounts,omitempty"`
}

// Boot says how the machine was booted.
type Boot struct {
	// +optional
	CurrentBootMode string `json:"currentBootMode,omitempty"`
	// +optional
	PxeInterface string `json:"pxeInterface,omitempty"`
}

// CPU describes the processors.
type CPU struct {
	// +optional
	Architecture string `json:"architecture,omitempty"`
	// +optional
	Count int64    `json:"count,omitempty"`
	Flags []string `json:"flags"`
	// Frequency is in MHz, with two decimals.
	// +optional
	Frequency string `json:"frequency,omitempty"`
	// +optional
	ModelName string `json:"modelName,omitempty"`
}

// Disk is a block device.
type Disk struct {
	// +optional
	Bootable bool `json:"bootable,omitempty"`
	// +optional
	ByID string `json:"byId,omitempty"`
	// +optional
	ByPath string `json:"byPath,omitempty"`
	// +optional
	DriveType string `json:"driveType,omitempty"`
	// +optional
	Hctl string `json:"hctl,omitempty"`
	// +optional
	ID string `json:"id,omitempty"`
	// +optional
	IoPerf *IoPerf `json:"ioPerf,omitempty"`
	// +optional
	IsInstallationMedia bool `json:"isInstallationMedia,omitempty"`
	// +optional
	Model string `json:"model,omitempty"`
	// +optional
	Name string `json:"name,omitempty"`
	// +optional
	Path string `json:"path,omitempty"`
	// +optional
	Serial string `json:"serial,omitempty"`
	// +optional
	SizeBytes int64 `json:"sizeBytes,omitempty"`
	// +optional
	Smart string `json:"smart,omitempty"`
	// +optional
	Vendor string `json:"vendor,omitempty"`
	// +optional
	Wwn string `json:"wwn,omitempty"`
}

// IoPerf is a disk's measured fsync time.
type IoPerf struct {
	// SyncDuration is in milliseconds.
	// +optional
	SyncDuration int64 `json:"syncDuration,omitempty"`
}

// Gpu is a graphics device.
type Gpu struct {
	// +optional
	Address string `json:"address,omitempty"`
	// +optional
	DeviceID string `json:"deviceId,omitempty"`
	// +optional
	Name string `json:"name,omitempty"`
	// +optional
	Vendor string `json:"vendor,omitempty"`
	// +optional
	VendorID string `json:"vendorId,omitempty"`
}

// Interface is a network interface.
type Interface struct {
	// +optional
	Biosdevname string `json:"biosdevname,omitempty"`
	// +optional
	ClientID string   `json:"clientId,omitempty"`
	Flags    []string `json:"flags"`
	// +optional
	HasCarrier bool `json:"hasCarrier,omitempty"`
	// +optional
	IPV4Addresses []string `json:"ipv4Addresses,omitempty"`
	// +optional
	IPV6Addresses []string `json:"ipv6Addresses,omitempty"`
	// +optional
	MacAddress string `json:"macAddress,omitempty"`
	// +optional
	Mtu int64 `json:"mtu,omitempty"`
	// +optional
	Name string `json:"name,omitempty"`
	// +optional
	Product string `json:"product,omitempty"`
	// +optional
	SpeedMbps int64 `json:"speedMbps,omitempty"`
	// +optional
	Vendor string `json:"vendor,omitempty"`
}

// Memory is the machine's memory in bytes.
type Memory struct {
	// +optional
	PhysicalBytes int64 `json:"physicalBytes,omitempty"`
	// +optional
	UsableBytes int64 `json:"usableBytes,omitempty"`
}

// SystemVendor identifies the machine's maker.
type SystemVendor struct {
	// +optional
	Manufacturer string `json:"manufacturer,omitempty"`
	// +optional
	ProductName string `json:"productName,omitempty"`
	// +optional
	SerialNumber string `json:"serialNumber,omitempty"`
	// +optional
	Virtual bool `json:"virtual,omitempty"`
}

// HostDevice is a device node.
type HostDevice struct {
	// +optional
	Path string `json:"path,omitempty"`
	// +optional
	DeviceType string `json:"deviceType,omitempty"`
	// UID is the owning user.
	// +optional
	UID uint32 `json:"owner,omitempty"`
	// GID is the owning group.
	// +optional
	GID uint32 `json:"group,omitempty"`
	// +optional
	Major uint32 `json:"major,omitempty"`
	// +optional
	Minor uint32 `json:"minor,omitempty"`
}
