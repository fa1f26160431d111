package apply

import (
	"errors"
	"os"
	"os/user"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

func TestUnit(t *testing.T) {
	t.Parallel()
	options, err := checkOptions(" defaults, noatime,,noatime,nofail,uid=5")
	if err != nil {
		t.Fatal(err)
	}
	m := mount{`/dev/disk/by-label/my\x20disk`, "/var/mnt/my disk-1", "ext4", options}
	text, err := render(m, "user@998.service", 1500*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	const want = `# flotta-agent: mount of the configuration, format 1
# It is written anew when it differs, and removed with the mount. What is to be
# otherwise on this device goes into a drop-in.

[Unit]
Description=/var/mnt/my disk-1 of the device configuration
Documentation=https://project-flotta.io
Before=user@998.service
JobTimeoutSec=2

[Mount]
What=/dev/disk/by-label/my\x20disk
Where=/var/mnt/my disk-1
Type=ext4
Options=noatime,uid=5,nosuid,nodev,nofail
DirectoryMode=0755
LazyUnmount=no
ForceUnmount=no
TimeoutSec=600

[Install]
WantedBy=local-fs.target
`
	if diff := cmp.Diff(want, string(text)); diff != "" {
		t.Errorf("unit (-want +got):\n%s", diff)
	}
	if got, ours := parse(text); !ours || got != m {
		t.Errorf("parsed: %+v, %v", got, ours)
	}
	if _, ours := parse([]byte(strings.Replace(want, "#", "# #", 1))); ours {
		t.Error("a unit without our first line is ours")
	}
	if text, err := render(m, "", time.Second); err != nil || strings.Contains(string(text), "Before=") {
		t.Errorf("a unit that nothing waits for: %v\n%s", err, text)
	}
	m.options = "x\nForceUnmount=yes"
	if text, err := render(m, "", time.Second); err == nil {
		t.Errorf("rendered:\n%s", text)
	}
}

func TestUnitNames(t *testing.T) {
	t.Parallel()
	for where, want := range map[string]string{
		"/mnt/data":          "mnt-data.mount",
		"/mnt/my disk-1":     `mnt-my\x20disk\x2d1.mount`,
		"/mnt/.hidden":       "mnt-.hidden.mount",
		"/mnt/ä":             `mnt-\xc3\xa4.mount`,
		"/mnt/a@b:c+d=e,f~g": `mnt-a\x40b:c\x2bd\x3de\x2cf\x7eg.mount`,
	} {
		if got := unitName(where); got != want {
			t.Errorf("unit of %s: %s, want %s", where, got, want)
		}
		if got := whereOf(want); got != where {
			t.Errorf("folder of %s: %s, want %s", want, got, where)
		}
	}
}

func TestOptions(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"":                             always,
		"defaults":                     always,
		"ro,noexec":                    "ro,noexec," + always,
		"nosuid,nodev,rw":              "rw," + always,
		"uid=1000,gid=1000,umask=0027": "uid=1000,gid=1000,umask=0027," + always,
		"context=system_u:object_r:container_file_t:s0": "context=system_u:object_r:container_file_t:s0," + always,
		"errors=remount-ro,data=ordered":                "errors=remount-ro,data=ordered," + always,
		"subvol=/@data":                                 "subvol=/@data," + always,
	} {
		if got, err := checkOptions(text); got != want || err != nil {
			t.Errorf("%s: %q, %v; want %q", text, got, err, want)
		}
	}
	for options, want := range map[string]bool{"rw": false, "ro": true, "ro,rw": false, "rw,ro": true, "errors=remount-ro": false, "rw,emergency_ro": true} {
		if got := readOnly(options); got != want {
			t.Errorf("%s is read-only: %v", options, got)
		}
	}
}

func TestAllowed(t *testing.T) {
	t.Parallel()
	if err := CheckAllowed(DefaultAllowed()); err != nil {
		t.Errorf("the default: %v", err)
	}
	if err := CheckAllowed([]string{"/var/local/disks", "/opt", "/var/lib/flotta/volumes"}); err != nil {
		t.Error(err)
	}
	for _, dir := range []string{
		"", "/", "/etc", "/etc/disks", "/usr", "/usr/local", "/usr/local/x", "/var", "/var/lib", "/home/x", "/run/media", "/dev/x", "mnt", "/mnt/", "/mnt/..", "/mnt/../etc", "/mnt/\n", "/mnt/%h",
		"/var/lib/containers/x", "/proc", "/sys/x", "/boot", "/root", "/tmp/x", "/var/tmp",
	} {
		if err := CheckAllowed([]string{"/mnt", dir}); err == nil {
			t.Errorf("%q is allowed", dir)
		} else if dir != "" && !strings.Contains(err.Error(), strings.Split(dir, "\n")[0]) {
			t.Errorf("%q: %v", dir, err)
		}
	}
}

func TestConfig(t *testing.T) {
	t.Parallel()
	m := newMemory(t)
	good := Config{Desired: configured(), Manager: m, Log: m.reconciler(configured(), 0).cfg.Log}
	if _, err := New(good); err != nil {
		t.Error(err)
	}
	for name, change := range map[string]func(c *Config){
		"Desired":       func(c *Config) { c.Desired = nil },
		"Manager":       func(c *Config) { c.Manager = nil },
		"Log":           func(c *Config) { c.Log = nil },
		"UnitDir":       func(c *Config) { c.UnitDir = "units" },
		"allowed":       func(c *Config) { c.Allowed = []string{"/etc"} },
		"Protected":     func(c *Config) { c.Protected = []string{"x"} },
		"Before":        func(c *Config) { c.Before = "a.service\nRequires=b.service" },
		"DeviceTimeout": func(c *Config) { c.DeviceTimeout = time.Hour },
		"Resync":        func(c *Config) { c.Resync = -1 },
	} {
		c := good
		change(&c)
		if _, err := New(c); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestFolders makes a tree with links and looks where they may lead.
func TestFolders(t *testing.T) {
	t.Parallel()
	root, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	in := func(path string) string { return filepath.Join(root, path) }
	for _, dir := range []string{"mnt/a", "mnt/open/x", "other/b", "etc", "state/volumes", "mnt/sticky"} {
		must(t, os.MkdirAll(in(dir), 0o755))
	}
	must(t, os.Chmod(in("mnt/open"), 0o777))
	must(t, os.Chmod(in("mnt/sticky"), 0o1777))
	must(t, os.WriteFile(in("mnt/file"), nil, 0o600))
	for link, to := range map[string]string{
		"mnt/within": "a", "mnt/out": "../other", "mnt/etc": in("etc"), "mnt/round": "round", "mnt/etc2": "etc/../etc",
		"alias": "mnt", "mnt/state": "../state/volumes", "mnt/dangling": "nowhere/x",
	} {
		must(t, os.Symlink(to, in(link)))
	}
	r := newRules([]string{in("mnt"), in("alias")}, []string{in("etc"), in("state")})
	for dir, want := range map[string]string{
		"mnt/a": "mnt/a", "mnt/new": "mnt/new", "mnt/new/er": "mnt/new/er", "mnt/within": "mnt/a", "mnt/within/x": "mnt/a/x",
		"alias/a": "mnt/a", "alias/new": "mnt/new", "mnt/dangling": "mnt/nowhere/x", "mnt/sticky": "mnt/sticky",
	} {
		if got, err := r.resolve(in(dir), func(string) bool { return false }); got != in(want) || err != nil {
			t.Errorf("%s: %s, %v; want %s", dir, got, err, want)
		}
	}
	// What is mounted is not looked at: that could hang.
	if got, err := r.resolve(in("mnt/file"), func(dir string) bool { return dir == in("mnt/file") }); got != in("mnt/file") || err != nil {
		t.Errorf("what is mounted: %s, %v", got, err)
	}
	for dir, want := range map[string]string{
		"mnt": "not below any", "other/b": "not below any", "mnt/out/b": "it leads to", "mnt/etc": "it leads to", "mnt/etc/x": "at or below", "mnt/etc2": "at or below",
		"etc": "at or below", "": "it would hide", "mnt/round": "too many", "mnt/file": "not a folder", "mnt/file/x": "not a folder", "mnt/state": "at or below", "mnt/open/x": "chmod go-w",
		"mnt/open/x/y": "chmod go-w", "mnt/sticky/new": "chmod go-w",
	} {
		got, err := r.resolve(in(dir), func(string) bool { return false })
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %s, %v; want an error with %q", dir, got, err, want)
		}
	}
}

// TestFolderOfAnother: who owns a folder can put a link there. It is only said
// where there is another user's folder to be had.
func TestFolderOfAnother(t *testing.T) {
	t.Parallel()
	if os.Geteuid() == 0 {
		dir := filepath.Join(t.TempDir(), "theirs")
		must(t, os.Mkdir(dir, 0o755))
		must(t, os.Chown(dir, 65534, 65534))
		err := rules{allowed: []string{filepath.Dir(dir)}}.guarded(filepath.Join(dir, "x"))
		if err == nil || !strings.Contains(err.Error(), "belongs to user 65534") {
			t.Errorf("a folder of nobody: %v", err)
		}
		return
	}
	if me, err := user.Current(); err != nil || me.Uid == "0" {
		t.Fatalf("user %+v, %v", me, err)
	}
	// A user's own folders are their agent's to guard; root's are fine.
	if err := (rules{allowed: []string{"/"}}).guarded("/usr/share/x"); err != nil {
		t.Error(err)
	}
}

func TestFilesystems(t *testing.T) {
	t.Parallel()
	f := filesystems{known: "testdata/filesystems", modules: "testdata"}
	for _, kind := range []string{"ext3", "ext4", "xfs", "btrfs", "f2fs"} {
		if err := f.check(kind); err != nil {
			t.Errorf("%s: %v", kind, err)
		}
	}
	for _, kind := range []string{"", "tmpfs", "proc", "overlay", "nfs", "fuseblk", "auto", "vfat", "unix", "4", "ext4 ", "ext4\n", strings.Repeat("x", 33)} {
		if err := f.check(kind); err == nil {
			t.Errorf("%q is a file system", kind)
		}
	}
	f.known = "testdata/none"
	if err := f.check("ext4"); err == nil || !strings.Contains(err.Error(), "testdata/none") {
		t.Errorf("without the kernel's list: %v", err)
	}
	if err := newFilesystems().check("proc"); err == nil {
		t.Error("proc is on a block device")
	}
}

func TestDevices(t *testing.T) {
	t.Parallel()
	for _, path := range []string{"/dev/sda", "/dev/mapper/vg-data", `/dev/disk/by-label/my\x20disk`, "/dev/disk/by-path/pci-0000:00:1f.2-ata-1", "/dev/cciss/c0d0p1"} {
		if err := checkDevice(path); err != nil {
			t.Errorf("%s: %v", path, err)
		}
	}
	if _, err := blockDevice("/dev/null"); err == nil || errors.Is(err, errAbsent) {
		t.Errorf("/dev/null: %v", err)
	}
	if _, err := blockDevice("/dev/no-such-device"); !errors.Is(err, errAbsent) {
		t.Errorf("no device: %v", err)
	}
	link := filepath.Join(t.TempDir(), "link")
	must(t, os.Symlink("/etc/passwd", link))
	if _, err := blockDevice(link); err == nil || !strings.Contains(err.Error(), "/etc/passwd") {
		t.Errorf("a link out of /dev: %v", err)
	}
}

func TestFstab(t *testing.T) {
	t.Parallel()
	text := "# /dev/x /comment ext4\n\nUUID=1 / ext4 defaults 0 1\nLABEL=x\t/mnt/my\\040disk/ xfs\n/dev/sdb none swap\nshort\n"
	if diff := cmp.Diff([]string{"/", "/mnt/my disk"}, fstab([]byte(text))); diff != "" {
		t.Errorf("mount points (-want +got):\n%s", diff)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// FuzzMount: whatever a configuration says, it is refused, or the unit holds
// just what render was to write.
func FuzzMount(f *testing.F) {
	f.Add("/dev/sda1", "/mnt/a", "ext4", "noatime")
	for _, m := range hostileMounts("/dev/sda1", "/mnt/a") {
		f.Add(m.Device, m.Directory, m.Type, m.Options)
	}
	where := newRules(DefaultAllowed(), protectedTrees())
	f.Fuzz(func(t *testing.T, device, directory, kind, options string) {
		r := &Reconciler{cfg: Config{DeviceTimeout: time.Second}, kernel: kernel{
			filesystem: filesystems{known: "testdata/filesystems", modules: "testdata"}.check,
		}}
		target := r.check(protocol.Mount{Device: device, Directory: directory, Type: kind, Options: options}, nil, where)
		for _, text := range []string{target.shown.Device, target.shown.Directory, target.shown.Type, target.shown.Options} {
			if !utf8.ValidString(text) || len(text) > maxShown+8 || strings.ContainsAny(text, "\n\x1b\x00") {
				t.Errorf("shown: %q", text)
			}
		}
		if target.refused != nil {
			if joined(target.refused) == "" || strings.ContainsAny(joined(target.refused), "\n\x1b\x00") {
				t.Errorf("refused: %q", target.refused)
			}
			return
		}
		text, err := render(target.mount, "", time.Second)
		if err != nil {
			t.Fatalf("%+v: %v", target.mount, err)
		}
		got, ours := parse(text)
		if !ours || got != target.mount || strings.Count(string(text), "\n") != 21 || strings.Contains(string(text), "%") || strings.Contains(string(text), "\\\n") {
			t.Errorf("unit of %+v:\n%s", target.mount, text)
		}
		allowed := false
		for _, dir := range where.allowed {
			allowed = allowed || strings.HasPrefix(got.where, dir+"/")
		}
		if !allowed || !strings.HasPrefix(got.device, "/dev/") || !strings.HasSuffix(got.options, always) || whereOf(target.unit) != got.where || len(target.unit) > maxUnitName {
			t.Errorf("%s: %+v", target.unit, got)
		}
	})
}

// FuzzParse: a unit of ours that somebody edited, or that a disk damaged, is
// read without harm.
func FuzzParse(f *testing.F) {
	f.Add([]byte(header+"[Mount]\nWhat=/dev/sda\nWhere=/mnt\n[Install]\nWhat=x\n"), "mnt-a.mount")
	f.Add([]byte(header), `\x2.mount`)
	f.Fuzz(func(t *testing.T, text []byte, name string) {
		m, ours := parse(text)
		if ours != strings.HasPrefix(string(text), header) || !ours && m != (mount{}) {
			t.Errorf("ours: %v, %+v", ours, m)
		}
		if where := whereOf(name); !strings.HasPrefix(where, "/") || where != filepath.Clean(where) {
			t.Errorf("%q: %q", name, where)
		}
	})
}
