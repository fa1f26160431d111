package apply

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// errAbsent says that there is no such device now; there may be one later.
var errAbsent = errors.New("the device is not there")

// notDevices are folders below /dev that hold no devices, but files that anybody
// may make: mount would take one of those for the image of a disk.
func notDevices() []string {
	return []string{"/dev/shm", "/dev/mqueue", "/dev/pts", "/dev/hugepages", "/dev/fd", "/dev/net", "/dev/.lxc"}
}

// checkDevice says what is wrong with the name of a device.
func checkDevice(path string) error {
	switch {
	case path == "":
		return errors.New("it is empty; name a block device, such as one below /dev/disk/by-uuid")
	case !strings.HasPrefix(path, "/dev/"):
		return errors.New("it is not below /dev; name a block device, such as one below /dev/disk/by-uuid")
	case len(path) > maxPath:
		return fmt.Errorf("it has more than %d bytes", maxPath)
	case path != filepath.Clean(path):
		return errors.New("it holds . or .. or an empty part, or ends with a slash")
	case strings.HasSuffix(path, `\`):
		return errors.New("it ends with a backslash")
	}
	for _, dir := range notDevices() {
		if within(path, dir) {
			return fmt.Errorf("%s holds no block devices", dir)
		}
	}
	// udev writes what else can be in a name as a backslash, an x and two digits.
	if i := strings.IndexFunc(path, func(r rune) bool { return r != '\\' && r != '#' && (!inPath(r) || r == ' ') }); i >= 0 {
		r, _ := utf8.DecodeRuneInString(path[i:])
		return fmt.Errorf("it holds %q; udev writes such a character as \\x and its two hexadecimal digits", r)
	}
	return nil
}

// blockDevice returns the number of the block device at path, such as 8:17;
// errAbsent when there is nothing.
func blockDevice(path string) (string, error) {
	seen, err := filepath.EvalSymlinks(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", errAbsent
	}
	if err != nil {
		return "", fmt.Errorf("look at device: %w", err)
	}
	if seen != path {
		if err := checkDevice(seen); err != nil {
			return "", fmt.Errorf("it leads to %.80q: %w", seen, err)
		}
	}
	var info unix.Stat_t
	switch err := unix.Stat(seen, &info); {
	case errors.Is(err, unix.ENOENT):
		return "", errAbsent
	case err != nil:
		return "", fmt.Errorf("look at device %s: %w", seen, err)
	case info.Mode&unix.S_IFMT != unix.S_IFBLK:
		return "", errors.New("it is not a block device")
	}
	return fmt.Sprintf("%d:%d", unix.Major(info.Rdev), unix.Minor(info.Rdev)), nil
}
