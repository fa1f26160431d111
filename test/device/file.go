package device

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Path returns where the host finds a file of the device. While the device is
// off, that is only for what has changed since it was new. A symlink on the
// device that is absolute leads astray here: ReadFile and the others follow it
// as the device does.
func (d *Device) Path(path string) string {
	if leader := d.Leader(); leader != 0 {
		return fmt.Sprintf("/proc/%d/root%s", leader, filepath.Clean("/"+path))
	}
	base, rest := d.layer(path)
	return filepath.Join(base, rest)
}

// layer splits a path of a device that is off into the folder of its state that
// the path lies in, and the rest.
func (d *Device) layer(path string) (base, rest string) {
	path = filepath.Clean("/" + path)
	for mount, sub := range disks() {
		if rest, ok := strings.CutPrefix(path+"/", mount+"/"); ok {
			return filepath.Join(d.dir, sub), filepath.Clean("/" + rest)
		}
	}
	return filepath.Join(d.dir, "upper"), path
}

// open opens a file of the device, on or off, with every symlink in its path
// taken as the device takes it. It must not be used to reach a Limits folder of
// a device that is off.
func (d *Device) open(path string, flags int, mode fs.FileMode) (*os.File, error) {
	base, rest := "", filepath.Clean("/"+path)
	if leader := d.Leader(); leader != 0 {
		base = fmt.Sprintf("/proc/%d/root", leader)
	} else {
		base, rest = d.layer(path)
	}
	root, err := unix.Open(base, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: base, Err: err}
	}
	defer func() { _ = unix.Close(root) }()
	how := &unix.OpenHow{Flags: uint64(flags | unix.O_CLOEXEC), Resolve: unix.RESOLVE_IN_ROOT} //nolint:gosec // flags are positive
	if flags&unix.O_CREAT != 0 {
		how.Mode = uint64(mode.Perm())
		if err := mkdirIn(root, filepath.Dir(rest)); err != nil {
			return nil, &fs.PathError{Op: "mkdir", Path: filepath.Dir(path), Err: err}
		}
	}
	fd, err := unix.Openat2(root, rest, how)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

// mkdirIn makes the folders of a path that do not exist, for root and readable.
func mkdirIn(root int, folder string) error {
	if folder == "/" {
		return nil
	}
	if err := mkdirIn(root, filepath.Dir(folder)); err != nil {
		return err
	}
	parent, err := unix.Openat2(root, filepath.Dir(folder), &unix.OpenHow{
		Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT,
	})
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(parent) }()
	if err := unix.Mkdirat(parent, filepath.Base(folder), 0o755); err != nil && !errors.Is(err, unix.EEXIST) {
		return err
	}
	return nil
}

// ReadFile reads a file of the device. While the device is off, it finds only
// what has changed since the device was new.
func (d *Device) ReadFile(path string) ([]byte, error) {
	f, err := d.open(path, unix.O_RDONLY, 0)
	if err != nil {
		return nil, fmt.Errorf("read file on %s: %w", d.name, err)
	}
	defer func() { _ = f.Close() }()
	return io.ReadAll(f)
}

// WriteFile writes a file of the device, and its folder where there is none;
// both belong to root.
func (d *Device) WriteFile(path string, data []byte, mode fs.FileMode) error {
	f, err := d.open(path, unix.O_WRONLY|unix.O_CREAT|unix.O_TRUNC, mode)
	if err == nil {
		_, err = f.Write(data)
		err = errors.Join(err, f.Chmod(mode), f.Close())
	}
	if err != nil {
		return fmt.Errorf("write file on %s: %w", d.name, err)
	}
	return nil
}

// CopyIn copies a file of the host onto the device, like WriteFile.
func (d *Device) CopyIn(source, path string, mode fs.FileMode) error {
	in, err := os.Open(source)
	if err != nil {
		return fmt.Errorf("copy to %s: %w", d.name, err)
	}
	defer func() { _ = in.Close() }()
	f, err := d.open(path, unix.O_WRONLY|unix.O_CREAT|unix.O_TRUNC, mode)
	if err == nil {
		_, err = io.Copy(f, in)
		err = errors.Join(err, f.Chmod(mode), f.Close())
	}
	if err != nil {
		return fmt.Errorf("copy to %s: %w", d.name, err)
	}
	return nil
}

// CopyOut copies a file of the device to the host.
func (d *Device) CopyOut(path, target string) error {
	f, err := d.open(path, unix.O_RDONLY, 0)
	if err != nil {
		return fmt.Errorf("copy from %s: %w", d.name, err)
	}
	defer func() { _ = f.Close() }()
	out, err := os.Create(target)
	if err != nil {
		return fmt.Errorf("copy from %s: %w", d.name, err)
	}
	if _, err = io.Copy(out, f); err != nil {
		return errors.Join(fmt.Errorf("copy from %s: %w", d.name, err), out.Close())
	}
	return out.Close()
}
