package mounts

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func table(t *testing.T, text string) *Table {
	t.Helper()
	file := filepath.Join(t.TempDir(), "mountinfo")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return New(file)
}

const sample = `22 1 8:2 / / rw,relatime shared:1 - ext4 /dev/sda2 rw
40 22 8:17 /data /var/mnt/my\040disk rw,nosuid shared:20 master:1 - xfs /dev/sdb1 rw,attr2
41 22 0:40 / /net rw - autofs systemd-1 rw
nonsense
42 22 0:41 / /back\134slash rw - tmpfs  rw
43 22 0:42 / relative rw - tmpfs tmpfs rw
`

func TestMounts(t *testing.T) {
	t.Parallel()
	got, err := table(t, sample).Mounts()
	if err != nil {
		t.Fatal(err)
	}
	want := []Mount{
		{Source: "/dev/sda2", Directory: "/", Type: "ext4", Options: "rw,relatime", Root: "/", Number: "8:2", FSOptions: "rw", Shared: "1"},
		{Source: "/dev/sdb1", Directory: "/var/mnt/my disk", Type: "xfs", Options: "rw,nosuid", Root: "/data", Number: "8:17", FSOptions: "rw,attr2", Shared: "20", Master: "1"},
		{Source: "systemd-1", Directory: "/net", Type: "autofs", Options: "rw", Root: "/", Number: "0:40", FSOptions: "rw"},
		{Directory: `/back\slash`, Type: "tmpfs", Options: "rw", Root: "/", Number: "0:41", FSOptions: "rw"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("mounts (-want +got):\n%s", diff)
	}
}

func TestMounted(t *testing.T) {
	t.Parallel()
	root, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	disk := filepath.Join(root, "var", "disk")
	if err := os.MkdirAll(disk, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("var", filepath.Join(root, "link")); err != nil {
		t.Fatal(err)
	}
	tab := table(t, sample+fmt.Sprintf("50 22 8:18 / %s rw - ext4 /dev/sdc1 rw\n", strings.ReplaceAll(disk, " ", `\040`)))
	for dir, want := range map[string]bool{
		"/": true, "/var/mnt/my disk": true, "/var/mnt/my disk/": true, "/var/mnt/../mnt/my disk": true,
		"/var/mnt/my": false, "/var/mnt/my disk/below": false, "/var": false, `/var/mnt/my\040disk`: false,
		"/net": true, disk: true, filepath.Join(root, "link", "disk"): true, filepath.Join(root, "link"): false,
		filepath.Join(root, "none"): false,
	} {
		if got, err := tab.Mounted(dir); got != want || err != nil {
			t.Errorf("%s is mounted: %v, %v; want %v", dir, got, err, want)
		}
	}
}

func TestOwnMounts(t *testing.T) {
	t.Parallel()
	tab := New(Default)
	if there, err := tab.Mounted("/proc"); !there || err != nil {
		t.Errorf("/proc is mounted: %v, %v", there, err)
	}
	if there, err := tab.Mounted(t.TempDir()); there || err != nil {
		t.Errorf("a fresh folder is mounted: %v, %v", there, err)
	}
}

func TestNoTable(t *testing.T) {
	t.Parallel()
	tab := New(filepath.Join(t.TempDir(), "none"))
	if _, err := tab.Mounted("/"); err == nil {
		t.Error("a table that is not there was read")
	}
	if err := tab.Watch(t.Context(), func() {}); err == nil {
		t.Error("a table that is not there was watched")
	}
}

func TestWatchEnds(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	began, ended := make(chan struct{}, 100), make(chan error, 1)
	go func() {
		ended <- New(Default).Watch(ctx, func() {
			select {
			case began <- struct{}{}:
			default: // somebody mounts a lot on this machine
			}
		})
	}()
	<-began
	cancel()
	select {
	case err := <-ended:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("it goes on watching")
	}
}

func FuzzParse(f *testing.F) {
	f.Add(sample)
	f.Add(`1 2 0:1 / /a\0401\04 rw - x y`)
	f.Fuzz(func(t *testing.T, text string) {
		list, err := parse(strings.NewReader(text))
		if err != nil && len(text) < maxLine {
			t.Errorf("parse: %v", err)
		}
		for _, m := range list {
			if !strings.HasPrefix(m.Directory, "/") || len(m.Directory) > len(text) {
				t.Errorf("mount at %q", m.Directory)
			}
		}
	})
}
