package protocol

// HardwareInfo describes the machine.
type HardwareInfo struct {
	Hostname     string        `json:"hostname,omitempty"`
	Interfaces   []Interface   `json:"interfaces"`
	Disks        []Disk        `json:"disks"`
	Boot         *Boot         `json:"boot,omitempty"`
	SystemVendor *SystemVendor `json:"system_vendor,omitempty"`
	Memory       *Memory       `json:"memory,omitempty"`
	CPU          *CPU          `json:"cpu,omitempty"`
	GPUs         []GPU         `json:"gpus"`
	HostDevices  []HostDevice  `json:"host_devices"`
	Mounts       []Mount       `json:"mounts"`
}

// Interface is a network interface.
type Interface struct {
	Name          string   `json:"name,omitempty"`
	Vendor        string   `json:"vendor,omitempty"`
	Product       string   `json:"product,omitempty"`
	Biosdevname   string   `json:"biosdevname,omitempty"`
	ClientID      string   `json:"client_id,omitempty"`
	MACAddress    string   `json:"mac_address,omitempty"`
	HasCarrier    bool     `json:"has_carrier,omitempty"`
	MTU           int64    `json:"mtu,omitempty"`
	SpeedMbps     int64    `json:"speed_mbps,omitempty"`
	IPv4Addresses []string `json:"ipv4_addresses"`
	IPv6Addresses []string `json:"ipv6_addresses"`
	Flags         []string `json:"flags"`
}

// Disk is a block device.
type Disk struct {
	ID                  string  `json:"id,omitempty"`
	DriveType           string  `json:"drive_type,omitempty"`
	Vendor              string  `json:"vendor,omitempty"`
	Name                string  `json:"name,omitempty"`
	Path                string  `json:"path,omitempty"`
	HCTL                string  `json:"hctl,omitempty"`
	ByPath              string  `json:"by_path,omitempty"`
	ByID                string  `json:"by_id,omitempty"`
	Model               string  `json:"model,omitempty"`
	WWN                 string  `json:"wwn,omitempty"`
	Serial              string  `json:"serial,omitempty"`
	SMART               string  `json:"smart,omitempty"`
	SizeBytes           int64   `json:"size_bytes,omitempty"`
	Bootable            bool    `json:"bootable,omitempty"`
	IsInstallationMedia bool    `json:"is_installation_media,omitempty"`
	IOPerf              *IOPerf `json:"io_perf,omitempty"`
}

// IOPerf is a disk's measured fsync time in milliseconds.
type IOPerf struct {
	SyncDuration int64 `json:"sync_duration,omitempty"`
}

// Boot says how the machine was booted.
type Boot struct {
	CurrentBootMode string `json:"current_boot_mode,omitempty"`
	PXEInterface    string `json:"pxe_interface,omitempty"`
}

// SystemVendor identifies the machine's maker.
type SystemVendor struct {
	SerialNumber string `json:"serial_number,omitempty"`
	ProductName  string `json:"product_name,omitempty"`
	Manufacturer string `json:"manufacturer,omitempty"`
	Virtual      bool   `json:"virtual,omitempty"`
}

// Memory is the machine's memory in bytes.
type Memory struct {
	PhysicalBytes int64 `json:"physical_bytes,omitempty"`
	UsableBytes   int64 `json:"usable_bytes,omitempty"`
}

// CPU describes the processors; Frequency is in MHz.
type CPU struct {
	Count        int64    `json:"count,omitempty"`
	Frequency    float64  `json:"frequency,omitempty"`
	Flags        []string `json:"flags"`
	ModelName    string   `json:"model_name,omitempty"`
	Architecture string   `json:"architecture,omitempty"`
}

// GPU is a graphics device.
type GPU struct {
	Vendor   string `json:"vendor,omitempty"`
	VendorID string `json:"vendor_id,omitempty"`
	DeviceID string `json:"device_id,omitempty"`
	Name     string `json:"name,omitempty"`
	Address  string `json:"address,omitempty"`
}

// HostDevice is a device node.
type HostDevice struct {
	Path       string `json:"path,omitempty"`
	DeviceType string `json:"device_type,omitempty"`
	UID        int64  `json:"uid,omitempty"`
	GID        int64  `json:"gid,omitempty"`
	Major      int64  `json:"major,omitempty"`
	Minor      int64  `json:"minor,omitempty"`
}
