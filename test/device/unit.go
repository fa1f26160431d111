package device

import _ "embed" // the units.

//go:embed units/device-cgroups.service
var cgroupUnit []byte

//go:embed units/device-released.service
var releasedUnit []byte

//go:embed released.sh
var released []byte

//go:embed units/yggd.service
var yggdUnit []byte

// YggdUnit is a unit for a yggd at /usr/sbin/yggd that keeps its files in the
// system's folders: for Config.Files at /etc/systemd/system/yggd.service.
func YggdUnit() File { return File{Content: yggdUnit} }
