package facts

import (
	"testing"

	"golang.org/x/sys/unix"

	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

func TestHostDevice(t *testing.T) {
	t.Parallel()
	camera := unix.Stat_t{Mode: unix.S_IFCHR | 0o660, Rdev: unix.Mkdev(81, 3), Uid: 0, Gid: 44}
	want := protocol.HostDevice{Path: "/dev/video3", DeviceType: "char", GID: 44, Major: 81, Minor: 3}
	if got, told := hostDevice("video3", camera); !told || got != want {
		t.Errorf("%+v (%t), want %+v", got, told, want)
	}
	disk := unix.Stat_t{Mode: unix.S_IFBLK, Rdev: unix.Mkdev(259, 1<<20-1), Uid: 1000}
	want = protocol.HostDevice{Path: "/dev/nvme0n1p1", DeviceType: "block", UID: 1000, Major: 259, Minor: 1<<20 - 1}
	if got, told := hostDevice("nvme0n1p1", disk); !told || got != want {
		t.Errorf("%+v (%t), want %+v", got, told, want)
	}
	if _, told := hostDevice("log", unix.Stat_t{Mode: unix.S_IFSOCK}); told {
		t.Error("a socket is told of")
	}
}

func TestOrdinaryDevicesAreNotTold(t *testing.T) {
	t.Parallel()
	node := unix.Stat_t{Mode: unix.S_IFCHR}
	for name, want := range map[string]bool{
		"null": false, "tty": false, "tty63": false, "vcsa1": false, "loop7": false, "loop7p1": false, "urandom": false,
		"cpu/0/msr": false, "mapper/control": false, "net/tun": false, "fuse": false, "snd/seq": false,
		"ttyUSB0": true, "ttyACM1": true, "ttyAMA0": true, "ttyS0": true, "video0": true, "snd/pcmC0D0p": true, "dri/renderD128": true,
		"bus/usb/001/002": true, "gpiochip0": true, "i2c-1": true, "spidev0.0": true, "input/event3": true, "kvm": true,
		"nvidia0": true, "tpmrm0": true, "hidraw0": true, "nullish": true,
	} {
		if _, told := hostDevice(name, node); told != want {
			t.Errorf("%s is told of: %t", name, told)
		}
	}
}

// A serial port that nothing is behind has a node too.
func TestSerialPortWithNothingBehindIt(t *testing.T) {
	t.Parallel()
	h := host{root: fixture(t, map[string]string{"sys/class/tty/ttyS0/type": "4\n", "sys/class/tty/ttyS1/type": "0\n"})}
	for name, want := range map[string]bool{"ttyS0": true, "ttyS1": false, "ttyS2": false, "ttyUSB0": true, "video0": true} {
		if got := h.connected(name); got != want {
			t.Errorf("%s: %t", name, got)
		}
	}
}
