package facts

import (
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

const mountinfo = `21 1 8:2 / / rw,relatime shared:1 - ext4 /dev/sda2 rw,errors=remount-ro
22 21 0:20 / /proc rw,nosuid - proc proc rw
23 21 8:17 / /mnt/my\040data rw,noatime shared:5 master:2 - xfs /dev/sdb1 rw
24 21 8:17 /dir /var/lib/x rw - xfs /dev/sdb1 rw
25 21 7:0 / /snap/x ro - squashfs /dev/loop0 ro
26 21 0:40 / /merged rw - overlay overlay rw,lowerdir=/a
27 21 8:1 / /boot/efi rw - vfat /dev/sda1 rw
broken line
`

const pciIDs = `# Version: 2026.01.01
10de  NVIDIA Corporation
	3ea0  not Intel's
8086  Intel Corporation
# a comment
	3e98  UHD Graphics 630
	3ea0  WhiskeyLake-U GT2
		1028 089e  Inspiron 5482
ffff  Illegal Vendor ID
`

// fixture makes a tree with files and, by a leading ->, links.
func fixture(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, content := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		var err error
		if target, ok := strings.CutPrefix(content, "->"); ok {
			err = os.Symlink(target, path)
		} else {
			err = os.WriteFile(path, []byte(content), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func edgeBox() map[string]string {
	return map[string]string{
		"proc/sys/kernel/hostname": "edge-1\n",
		"proc/cmdline":             "quiet BOOTIF=01-52-54-00-AA-BB-CC ro\n",
		"proc/cpuinfo": "processor\t: 0\nmodel name\t: Intel(R)  Atom\ncpu MHz\t\t: 799.99\nflags\t\t: sse fpu\n\n" +
			"processor\t: 1\nmodel name\t: Intel(R)  Atom\ncpu MHz\t\t: 1200\nflags\t\t: sse fpu\n",
		"sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq": "1910000\n",
		"proc/meminfo": "MemFree: 1 kB\nMemTotal:        3900000 kB\n",
		"sys/devices/system/memory/block_size_bytes": "8000000\n",
		"sys/devices/system/memory/memory0/online":   "1\n",
		"sys/devices/system/memory/memory1/online":   "0\n",
		"sys/devices/system/memory/memory2/online":   "1\n",
		"proc/self/mountinfo":                        mountinfo,
		"sys/class/dmi/id/sys_vendor":                "Dell Inc.\n",
		"sys/class/dmi/id/product_name":              "Edge Gateway 3001  \n",
		"sys/class/dmi/id/product_serial":            "ABC\x00\x01\n",
		"sys/firmware/efi/runtime":                   "",
		"sys/block/sda/size":                         "2000\n",
		"sys/block/sda/queue/rotational":             "1\n",
		"sys/block/sda/device":                       "->../../devices/pci0/0:0:0:0",
		"sys/devices/pci0/0:0:0:0/vendor":            "ATA     \n",
		"sys/devices/pci0/0:0:0:0/model":             "ST1000\n",
		"sys/devices/pci0/0:0:0:0/wwid":              "naa.5\n",
		"sys/block/mmcblk0/size":                     "1000\n",
		"sys/block/mmcblk0/queue/rotational":         "0\n",
		"sys/block/mmcblk0/device/serial":            "0x1234\n",
		"sys/block/loop0/size":                       "8\n",
		"sys/block/sdz/size":                         "0\n",
		"dev/disk/by-id/ata-ST1000":                  "->../../sda",
		"dev/disk/by-path/pci-0000:00":               "->../../sda",
		"sys/class/net/eth0/flags":                   "0x1003\n",
		"sys/class/net/eth0/address":                 "52:54:00:aa:bb:cc\n",
		"sys/class/net/eth0/mtu":                     "1500\n",
		"sys/class/net/eth0/speed":                   "-1\n",
		"sys/class/net/eth0/carrier":                 "1\n",
		"sys/class/net/eth0/device/vendor":           "0x8086\n",
		"sys/class/net/lo/flags":                     "0x9\n",
		"sys/class/net/veth12/flags":                 "0x1003\n",
		"sys/class/net/bonding_masters":              "bond0\n",
		"sys/bus/pci/devices/0000:00:02.0/class":     "0x030000\n",
		"sys/bus/pci/devices/0000:00:02.0/vendor":    "0x8086\n",
		"sys/bus/pci/devices/0000:00:02.0/device":    "0x3ea0\n",
		"sys/bus/pci/devices/0000:00:03.0/class":     "0x020000\n",
		"usr/share/misc/pci.ids":                     pciIDs,
		"dev/video0":                                 "no device node",
	}
}

func TestCollectFixture(t *testing.T) {
	t.Parallel()
	want := protocol.HardwareInfo{
		Hostname: "edge-1",
		CPU: &protocol.CPU{
			Count: 2, Frequency: 1910, Flags: []string{"fpu", "sse"}, ModelName: "Intel(R) Atom", Architecture: architecture(),
		},
		Memory:       &protocol.Memory{PhysicalBytes: 3900000 * 1024, UsableBytes: 3900000 * 1024},
		SystemVendor: &protocol.SystemVendor{Manufacturer: "Dell Inc.", ProductName: "Edge Gateway 3001", SerialNumber: "ABC"},
		Boot:         &protocol.Boot{CurrentBootMode: "uefi", PXEInterface: "eth0"},
		Disks: []protocol.Disk{
			{
				ID: "/dev/mmcblk0", DriveType: "SSD", Name: "mmcblk0", Path: "/dev/mmcblk0", Serial: "0x1234", SizeBytes: 512000,
			},
			{
				ID: "/dev/disk/by-id/ata-ST1000", ByID: "/dev/disk/by-id/ata-ST1000", ByPath: "/dev/disk/by-path/pci-0000:00",
				DriveType: "HDD", Name: "sda", Path: "/dev/sda", Vendor: "ATA", Model: "ST1000", WWN: "naa.5", HCTL: "0:0:0:0", SizeBytes: 1024000,
			},
		},
		Interfaces: []protocol.Interface{{
			Name: "eth0", MACAddress: "52:54:00:aa:bb:cc", MTU: 1500, HasCarrier: true, Vendor: "0x8086",
			Flags: []string{"up", "broadcast", "multicast"}, IPv4Addresses: []string{}, IPv6Addresses: []string{},
		}},
		GPUs: []protocol.GPU{{
			Address: "0000:00:02.0", VendorID: "8086", DeviceID: "3ea0", Vendor: "Intel Corporation", Name: "WhiskeyLake-U GT2",
		}},
		HostDevices: []protocol.HostDevice{},
		Mounts: []protocol.Mount{
			{Device: "/dev/sda2", Directory: "/", Type: "ext4", Options: "rw,relatime"},
			{Device: "/dev/sda1", Directory: "/boot/efi", Type: "vfat", Options: "rw"},
			{Device: "/dev/sdb1", Directory: "/mnt/my data", Type: "xfs", Options: "rw,noatime"},
		},
	}
	if diff := cmp.Diff(want, Collect(fixture(t, edgeBox()))); diff != "" {
		t.Error(diff)
	}
}

func TestPhysicalMemoryIsWhatIsOnline(t *testing.T) {
	t.Parallel()
	files := edgeBox()
	files["proc/meminfo"] = "MemTotal: 100 kB\n"
	if m := Collect(fixture(t, files)).Memory; m.PhysicalBytes != 2*0x8000000 || m.UsableBytes != 102400 {
		t.Errorf("memory %+v", m)
	}
}

// TestCollectNothing: no file at all is no error, and no array is null.
func TestCollectNothing(t *testing.T) {
	t.Parallel()
	data, err := json.Marshal(Collect(t.TempDir()))
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(data), "null") {
		t.Errorf("a null in %s", data)
	}
}

func TestCollectHostileTree(t *testing.T) {
	t.Parallel()
	files := edgeBox()
	for name, content := range files {
		if !strings.HasPrefix(content, "->") {
			files[name] = strings.Repeat("\xff\x00: 99999999999999999999999\n", 500)
		}
	}
	root := fixture(t, files)
	if _, err := json.Marshal(Collect(root)); err != nil {
		t.Error(err)
	}
	// Folders where files should be, and the other way round.
	if err := os.RemoveAll(filepath.Join(root, "proc/cpuinfo")); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(root, "proc/cpuinfo"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(root, "sys/block")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "sys/block"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if got := Collect(root); got.CPU.Count != 0 || len(got.Disks) != 0 {
		t.Errorf("%+v", got)
	}
}

func TestParseCPUOfOtherMachines(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		text string
		want protocol.CPU
	}{
		"arm64": {
			"processor\t: 0\nBogoMIPS\t: 108.00\nFeatures\t: fp asimd\n\nprocessor\t: 1\nFeatures\t: fp asimd\n",
			protocol.CPU{Count: 2, Flags: []string{"asimd", "fp"}},
		},
		"arm": {
			"Processor\t: ARMv7 Processor rev 4 (v7l)\nprocessor\t: 0\nprocessor\t: 1\nFeatures\t: neon\n",
			protocol.CPU{Count: 2, ModelName: "ARMv7 Processor rev 4 (v7l)", Flags: []string{"neon"}},
		},
		"power": {
			"processor\t: 0\ncpu\t\t: POWER9\nclock\t\t: 2300.000000MHz\n",
			protocol.CPU{Count: 1, ModelName: "POWER9", Frequency: 2300, Flags: []string{}},
		},
		"hostile": {"cpu MHz: Inf\ncpu MHz: NaN\ncpu MHz: -1\nflags:\n:::\n", protocol.CPU{Flags: []string{}}},
	} {
		if diff := cmp.Diff(&c.want, parseCPU(c.text)); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

// TestCollectThisMachine checks that what is said of a real machine can be true,
// and that saying it twice says the same.
func TestCollectThisMachine(t *testing.T) {
	t.Parallel()
	got := Collect("/")
	name, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	switch {
	case got.Hostname != name:
		t.Errorf("hostname %q, want %q", got.Hostname, name)
	case got.CPU.Count < 1 || got.CPU.Count > 4096 || got.CPU.Architecture == "":
		t.Errorf("cpu %+v", got.CPU)
	case got.Memory.UsableBytes < 64<<20 || got.Memory.PhysicalBytes < got.Memory.UsableBytes:
		t.Errorf("memory %+v", got.Memory)
	case !slices.Contains([]string{"bios", "uefi"}, got.Boot.CurrentBootMode):
		t.Errorf("boot %+v", got.Boot)
	}
	for _, d := range got.HostDevices {
		info, err := os.Lstat(d.Path)
		if err != nil || info.Mode()&os.ModeDevice == 0 || (info.Mode()&os.ModeCharDevice != 0) != (d.DeviceType == "char") || strings.HasPrefix(d.Path, "/dev/tty0") {
			t.Errorf("device %+v: %v", d, err)
		}
	}
	for _, i := range got.Interfaces {
		if i.Name == "lo" || i.MTU < 68 {
			t.Errorf("interface %+v", i)
		}
	}
	for _, d := range got.Disks {
		if d.SizeBytes < 512 || !strings.HasPrefix(d.Path, "/dev/") {
			t.Errorf("disk %+v", d)
		}
	}
	if diff := cmp.Diff(got, Collect("/")); diff != "" {
		t.Errorf("twice is not the same: %s", diff)
	}
}

func FuzzParsers(f *testing.F) {
	f.Add(mountinfo)
	f.Add(edgeBox()["proc/cpuinfo"])
	f.Add("MemTotal: 9223372036854775807 kB\n")
	f.Add(pciIDs)
	f.Add("BOOTIF=01-52-54-00-AA-BB-CC")
	f.Add("1 2 3 4 \\777\\04\\ 6 - x /dev/\\134")
	f.Fuzz(func(t *testing.T, text string) {
		cpu := parseCPU(text)
		if cpu.Count < 0 || math.IsNaN(cpu.Frequency) || math.IsInf(cpu.Frequency, 0) || !utf8.ValidString(cpu.ModelName) {
			t.Errorf("cpu %+v", cpu)
		}
		if n := parseMemTotal(text); n < 0 {
			t.Errorf("memory %d", n)
		}
		for _, m := range parseMounts(text) {
			if !utf8.ValidString(m.Directory) || !strings.HasPrefix(m.Device, "/dev/") {
				t.Errorf("mount %+v", m)
			}
		}
		if _, err := json.Marshal(parseMounts(text)); err != nil {
			t.Error(err)
		}
		if vendor, device := pciNames(text, "8086", "3ea0"); !utf8.ValidString(vendor) || !utf8.ValidString(device) {
			t.Errorf("%q, %q", vendor, device)
		}
		_ = parseBootif(text)
		_ = parseFlags(text)
		_ = isHCTL(text)
		if c := clean(text); strings.ContainsAny(c, "\n\x00") {
			t.Errorf("clean left %q", c)
		}
	})
}
