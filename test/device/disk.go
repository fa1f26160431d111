package device

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
)

// ballast is the file that fills a disk.
const ballast = ".ballast"

// FillDisk writes into the folder until no byte is free; FreeDisk undoes it. The
// folder is one of Config.Limits, because any other one is on the host's disk.
func (d *Device) FillDisk(ctx context.Context, folder string) error {
	if !slices.Contains(d.limits, filepath.Clean(folder)) {
		return fmt.Errorf("fill disk of %s: %s is not a limited folder", d.name, folder)
	}
	// In large steps first, and then byte by byte what they left.
	const fill = `for size in 1M 4k 1; do dd if=/dev/zero bs=$size 2>/dev/null; done >>"$1"; [ -s "$1" ] && sync -f "$1"`
	_, err := d.Run(ctx, "/bin/sh", "-c", fill, "fill", filepath.Join(folder, ballast))
	return err
}

// FreeDisk removes what FillDisk wrote.
func (d *Device) FreeDisk(ctx context.Context, folder string) error {
	_, err := d.Run(ctx, "rm", "-f", filepath.Join(folder, ballast))
	return err
}
