package apply

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// filesystems is where the kernel says which file systems it knows.
type filesystems struct {
	known   string // as /proc/filesystems
	modules string // folder of the modules of the kernel that runs
}

func newFilesystems() filesystems {
	var name unix.Utsname
	_ = unix.Uname(&name) // which cannot fail
	return filesystems{"/proc/filesystems", filepath.Join("/lib/modules", unix.ByteSliceToString(name.Release[:]))}
}

// check says what is wrong with a type: it has to be one that the kernel mounts
// from block devices, by itself or after it loaded a module.
func (f filesystems) check(kind string) error {
	switch {
	case kind == "":
		return errors.New("it is empty; name the file system on the device, such as ext4 or xfs")
	case len(kind) > 32 || strings.Trim(kind, lower+digits+"_-") != "" || !strings.Contains(lower, kind[:1]):
		return errors.New("it is not the name of a file system")
	case kind == "fuseblk" || kind == "auto" || kind == "swap":
		return errors.New("it is not a file system of the kernel's")
	}
	text, err := os.ReadFile(f.known)
	if err != nil {
		return fmt.Errorf("look for file systems: %w", err)
	}
	switch onDevice, known := knows(text, kind); {
	case onDevice:
		return nil
	case known && kind != "btrfs": // which is on devices, and has numbers of its own
		return errors.New("it is not a file system of block devices")
	case known:
		return nil
	}
	if slices.Contains(onDevices(), kind) && f.module(kind) {
		return nil
	}
	return errors.New("the kernel does not know it as a file system of block devices, and has no module for it")
}

// onDevices are the file systems that the kernel may have to load a module for.
// A module does not say whether its file system is on devices.
func onDevices() []string {
	return []string{
		"affs", "befs", "btrfs", "erofs", "exfat", "ext2", "ext3", "ext4", "f2fs", "hfs", "hfsplus", "iso9660", "jfs", "minix", "msdos",
		"nilfs2", "ntfs", "ntfs3", "reiserfs", "romfs", "squashfs", "udf", "ufs", "vfat", "xfs",
	}
}

// knows looks for a type in the text of /proc/filesystems, which says nodev of
// those that are on no device.
func knows(text []byte, kind string) (onDevice, known bool) {
	for line := range strings.Lines(string(text)) {
		flag, name, found := strings.Cut(strings.TrimRight(line, "\n"), "\t")
		if found && name == kind {
			return flag == "", true
		}
	}
	return false, false
}

// neverWritten are the file systems that are read-only by their nature.
func neverWritten() []string { return []string{"cramfs", "erofs", "iso9660", "romfs", "squashfs"} }

// module reports whether there is a module of that file system: its alias is
// what the kernel asks for when it is to mount one.
func (f filesystems) module(kind string) bool {
	file, err := os.Open(filepath.Join(f.modules, "modules.alias"))
	if err != nil {
		return false // a kernel without modules
	}
	defer func() { _ = file.Close() }()
	want := []byte("alias fs-" + kind + " ")
	for lines := bufio.NewScanner(file); lines.Scan(); {
		if bytes.HasPrefix(lines.Bytes(), want) {
			return true
		}
	}
	return false
}
