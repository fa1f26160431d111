package device

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// makeCgroup makes a control group that processes can be put into.
func makeCgroup(path string) error {
	if err := os.Mkdir(path, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("make cgroup: %w", err)
	}
	// A new group of the v1 cpuset controller has neither CPUs nor memory.
	for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
		value, err := os.ReadFile(filepath.Join(filepath.Dir(path), file))
		if err != nil {
			continue
		}
		if err := os.WriteFile(filepath.Join(path, file), value, 0o644); err != nil {
			return fmt.Errorf("make cgroup: %w", err)
		}
	}
	return nil
}

// emptyCgroup removes the groups below one, which a boot leaves behind.
func emptyCgroup(path string) {
	entries, _ := os.ReadDir(path)
	for _, e := range entries {
		if e.IsDir() {
			child := filepath.Join(path, e.Name())
			emptyCgroup(child)
			_ = os.Remove(child)
		}
	}
}

// killCgroup kills all that is in a v2 group at one instant. On v1 it does
// nothing: there the end of the device's systemd ends its processes.
func killCgroup(path string) {
	_ = os.WriteFile(filepath.Join(path, "cgroup.kill"), []byte("1"), 0o200)
}
