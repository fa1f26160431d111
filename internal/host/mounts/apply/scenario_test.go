package apply

import (
	"fmt"
	"strings"
	"testing"

	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// world is a machine with disks, on which the agent lives any number of lives.
// There is one in memory, for tests without root, and one that is a booted
// device with a real systemd and real file systems: both go through the same
// scenarios, so that the one in memory cannot promise more than the other keeps.
type world interface {
	// disk is the path of a disk: "ext4" and "xfs" hold such a file system,
	// "other" holds an ext4 as well. All of them are plugged in at first.
	disk(name string) string
	plug(name string)
	unplug(name string)
	// folder is a path below an allowed folder; nothing is there at first.
	folder(name string) string
	// hold keeps a file below dir open until it is told to let go.
	hold(dir string) (release func())
	// byHand mounts a disk as an administrator does, and byUnit as one who
	// writes units; fstab adds a line for the folder.
	byHand(disk, dir string)
	byUnit(disk, dir string)
	fstab(dir string)
	// unmount is what an administrator does.
	unmount(dir string)
	// edit replaces a text in the unit of a folder, and systemd reads it.
	edit(dir, old, text string)
	// reboot is a power cut and a boot, without the agent.
	reboot()
	// apply is one round of a new life of the agent, which is killed at the
	// step of that number; 0: it is not. died says whether it was.
	apply(kill int, list ...protocol.Mount) (status Status, died bool)
	// clear is a life in which the device leaves.
	clear(kill int) (died bool, err error)
	// mounted describes what is mounted at dir, as "type options #n", where n
	// differs from mount to mount; empty: nothing is.
	mounted(dir string) string
	// unit is the text of the agent's unit for dir; empty: there is none.
	unit(dir string) string
	// remains describes everything that is left of the agent's.
	remains() string
}

// check is a scenario on its way.
type check struct {
	*testing.T
	world
}

func (c check) ext4(dir, options string) protocol.Mount {
	return protocol.Mount{Device: c.disk("ext4"), Directory: dir, Type: "ext4", Options: options}
}

func (c check) xfs(dir, options string) protocol.Mount {
	return protocol.Mount{Device: c.disk("xfs"), Directory: dir, Type: "xfs", Options: options}
}

// all is a life that is not killed.
func (c check) all(list ...protocol.Mount) Status {
	c.Helper()
	status, died := c.apply(0, list...)
	if died {
		c.Fatal("the agent died by itself")
	}
	return status
}

// good is a life after which every mount is as it is configured.
func (c check) good(list ...protocol.Mount) {
	c.Helper()
	status := c.all(list...)
	if len(status.Mounts) != len(list) {
		c.Fatalf("status of %d mounts is %+v", len(list), status.Mounts)
	}
	for _, m := range status.Mounts {
		if !m.Mounted || m.Reason != "" {
			c.Fatalf("status %+v", m)
		}
	}
	for _, m := range list {
		c.is(m.Directory, m.Type, strings.Split(m.Options, ",")...)
	}
}

// bad is a life after which that mount has that reason and a message with those
// words.
func (c check) bad(dir, reason string, words []string, list ...protocol.Mount) {
	c.Helper()
	status := c.all(list...)
	for _, m := range status.Mounts {
		if m.Directory != dir || m.Reason == "" {
			continue
		}
		if m.Reason != reason {
			c.Errorf("%s: reason %s (%s), want %s", dir, m.Reason, m.Message, reason)
		}
		for _, word := range words {
			if !strings.Contains(m.Message, word) {
				c.Errorf("%s: message %q does not hold %q", dir, m.Message, word)
			}
		}
		return
	}
	c.Errorf("nothing is wrong with %s: %+v, want %s", dir, status.Mounts, reason)
}

// is checks what is mounted.
func (c check) is(dir, kind string, options ...string) {
	c.Helper()
	fields := strings.Fields(c.mounted(dir))
	if len(fields) != 3 || fields[0] != kind {
		c.Fatalf("at %s: %q, want %s", dir, c.mounted(dir), kind)
	}
	for _, o := range append(options, "nosuid", "nodev") {
		if o != "" && !strings.Contains(","+fields[1]+",", ","+o+",") {
			c.Fatalf("at %s: %q lacks the option %s", dir, c.mounted(dir), o)
		}
	}
}

func (c check) nothing(dir string) {
	c.Helper()
	if m := c.mounted(dir); m != "" {
		c.Errorf("at %s: %q, want nothing", dir, m)
	}
}

func (c check) clean() {
	c.Helper()
	if rest := c.remains(); rest != "" {
		c.Errorf("this is left:\n%s", rest)
	}
}

// scenarios are run one after the other, each on a world of its own.
func scenarios() map[string]func(c check) {
	return map[string]func(c check){
		"mounts and stays":           mountsAndStays,
		"changes when nobody uses":   changes,
		"device vanishes":            vanishes,
		"boots without the device":   bootsWithout,
		"somebody else's":            foreign,
		"device is elsewhere":        elsewhere,
		"goes with configuration":    goes,
		"lie below each other":       nested,
		"put right":                  putRight,
		"cannot be mounted":          fails,
		"killed at every step":       killed,
		"leaves at every step":       leaves,
		"hostile configuration":      hostile,
		"two configured as one":      twice,
		"moves between two folders":  moves,
		"moves to no device":         movesToNone,
		"refused later, stays there": refusedLater,
	}
}

func mountsAndStays(c check) {
	a, b := c.folder("a"), c.folder("b b-ä")
	list := []protocol.Mount{c.ext4(a, "noatime"), c.xfs(b, "")}
	c.good(list...)
	before := c.mounted(a) + c.mounted(b)
	c.good(list...)
	if now := c.mounted(a) + c.mounted(b); now != before {
		c.Errorf("it was mounted again: %q, before %q", now, before)
	}
	c.reboot()
	c.is(a, "ext4", "noatime")
	c.is(b, "xfs")
	before = c.mounted(a)
	c.good(list...)
	if now := c.mounted(a); now != before {
		c.Errorf("it was mounted again after the boot: %q, before %q", now, before)
	}
}

func changes(c check) {
	a := c.folder("a")
	c.good(c.ext4(a, ""))
	c.good(c.ext4(a, "noexec"))
	release := c.hold(a)
	before := c.mounted(a)
	c.bad(a, ReasonBusy, []string{"in use"}, c.ext4(a, "noatime"))
	c.bad(a, ReasonBusy, nil, c.xfs(a, ""))
	if now := c.mounted(a); now != before {
		c.Errorf("what is in use was changed: %q, before %q", now, before)
	}
	if text := c.unit(a); !strings.Contains(text, "noexec") {
		c.Errorf("the unit is not about what is mounted:\n%s", text)
	}
	release()
	c.good(c.xfs(a, "noatime"))
}

func vanishes(c check) {
	a := c.folder("a")
	c.good(c.ext4(a, ""))
	c.unplug("ext4")
	c.bad(a, ReasonNoDevice, []string{c.disk("ext4")}, c.ext4(a, ""))
	c.nothing(a)
	c.plug("ext4")
	c.good(c.ext4(a, ""))
}

func bootsWithout(c check) {
	a, b := c.folder("a"), c.folder("b")
	c.good(c.ext4(a, ""), c.xfs(b, ""))
	c.unplug("ext4")
	c.reboot()
	c.nothing(a)
	c.is(b, "xfs")
	c.bad(a, ReasonNoDevice, nil, c.ext4(a, ""), c.xfs(b, ""))
	c.plug("ext4")
	c.good(c.ext4(a, ""), c.xfs(b, ""))
	c.unplug("xfs")
	// Never seen: there is no unit of it.
	none := c.folder("none")
	c.bad(none, ReasonNoDevice, nil, protocol.Mount{Device: "/dev/disk/by-label/none", Directory: none, Type: "ext4"})
	if text := c.unit(none); text != "" {
		c.Errorf("there is a unit for a device that nobody saw:\n%s", text)
	}
}

func foreign(c check) {
	a, b, d := c.folder("a"), c.folder("b"), c.folder("d")
	c.byHand("other", a)
	c.bad(a, ReasonConflict, []string{"not by this agent"}, c.ext4(a, ""))
	c.byUnit("xfs", b)
	c.bad(b, ReasonConflict, []string{"unit"}, c.ext4(b, ""))
	c.fstab(d)
	c.bad(d, ReasonConflict, []string{"/etc/fstab"}, c.ext4(d, ""))
	c.good()
	for dir, kind := range map[string]string{a: "ext4", b: "xfs"} {
		if m := c.mounted(dir); !strings.HasPrefix(m, kind) {
			c.Errorf("somebody else's at %s is %q now", dir, m)
		}
	}
	if text := c.unit(b); !strings.Contains(text, "by somebody") {
		c.Errorf("somebody else's unit is now:\n%s", text)
	}
	c.unmount(a)
	c.good(c.ext4(a, ""))
	c.byHand("other", a)
	c.bad(a, ReasonConflict, []string{"one upon the other"}, c.ext4(a, ""))
	c.bad(a, ReasonConflict, nil)
	c.unmount(a)
	c.good(c.ext4(a, ""))
	c.good()
}

func elsewhere(c check) {
	a, b := c.folder("a"), c.folder("b")
	c.byHand("ext4", a)
	c.bad(b, ReasonConflict, []string{a}, c.ext4(b, ""))
	c.nothing(b)
	c.unmount(a)
	c.good(c.ext4(b, ""))
}

func goes(c check) {
	a, b := c.folder("a"), c.folder("b")
	c.good(c.ext4(a, ""), c.xfs(b, ""))
	release := c.hold(a)
	c.bad(a, ReasonBusy, nil, c.xfs(b, ""))
	c.is(a, "ext4")
	release()
	c.good(c.xfs(b, ""))
	c.nothing(a)
	c.good()
	c.clean()
	c.reboot()
	c.nothing(a)
	c.nothing(b)
}

func nested(c check) {
	a := c.folder("a")
	list := []protocol.Mount{c.xfs(a+"/below", ""), c.ext4(a, "")}
	c.good(list...)
	c.reboot()
	c.good(list...)
	before := c.mounted(a)
	c.bad(a, ReasonBusy, []string{a + "/below"}, list[0], c.ext4(a, "noatime"))
	if now := c.mounted(a); now != before {
		c.Errorf("what lies above another one was changed: %q", now)
	}
	c.good()
	c.clean()
	c.unplug("ext4")
	c.bad(a+"/below", ReasonFailed, []string{"waits for the mount at " + a}, list...)
	c.nothing(a + "/below")
}

func putRight(c check) {
	a := c.folder("a")
	c.good(c.ext4(a, ""))
	c.unmount(a)
	c.good(c.ext4(a, ""))
	want, before := c.unit(a), c.mounted(a)
	c.edit(a, "DirectoryMode=0755", "DirectoryMode=0777")
	c.good(c.ext4(a, ""))
	if c.unit(a) != want || c.mounted(a) != before {
		c.Errorf("after an edit that makes no difference: %q, before %q\n%s", c.mounted(a), before, c.unit(a))
	}
	c.edit(a, "nosuid", "suid")
	c.good(c.ext4(a, ""))
	if c.unit(a) != want {
		c.Errorf("the unit is\n%s\nwant\n%s", c.unit(a), want)
	}
}

func fails(c check) {
	a := c.folder("a")
	wrong := protocol.Mount{Device: c.disk("ext4"), Directory: a, Type: "xfs"}
	c.bad(a, ReasonFailed, []string{"wrong fs type"}, wrong)
	c.nothing(a)
	c.reboot()
	c.nothing(a)
	c.good(c.ext4(a, ""))
}

// killed kills the agent at every step of every change. Whatever it leaves, the
// next life makes it right; and where it is a boot that comes next, that does.
func killed(c check) {
	a := c.folder("a")
	for _, boot := range []bool{false, true} {
		for _, list := range [][]protocol.Mount{{c.ext4(a, "")}, {c.ext4(a, "noatime")}, {c.xfs(a, "")}, {}} {
			for kill := 1; ; kill++ {
				_, died := c.apply(kill, list...)
				if !died {
					if kill == 1 {
						c.Fatalf("%v: there was no step", list)
					}
					break
				}
				if boot {
					c.reboot()
				}
				c.good(list...)
				if len(list) == 0 {
					c.clean()
				}
				// And back, for the next step.
				c.good(previous(c, a, list)...)
			}
			c.good(list...)
		}
		c.clean()
	}
}

// previous is what killed configures before that list.
func previous(c check, dir string, list []protocol.Mount) []protocol.Mount {
	switch {
	case len(list) == 0:
		return []protocol.Mount{c.xfs(dir, "")}
	case list[0].Type == "xfs":
		return []protocol.Mount{c.ext4(dir, "noatime")}
	case list[0].Options != "":
		return []protocol.Mount{c.ext4(dir, "")}
	}
	return nil
}

func leaves(c check) {
	a, b := c.folder("a"), c.folder("b")
	list := []protocol.Mount{c.ext4(a, ""), c.xfs(b, "")}
	for kill := 1; ; kill++ {
		c.good(list...)
		died, err := c.clear(kill)
		if !died {
			if err != nil {
				c.Errorf("leave: %v", err)
			}
			break
		}
		if _, err := c.clear(0); err != nil {
			c.Errorf("leave after step %d: %v", kill, err)
		}
		c.clean()
	}
	c.clean()
	c.good(list...)
	release := c.hold(a)
	if _, err := c.clear(0); err == nil || !strings.Contains(err.Error(), a) {
		c.Errorf("leave what is in use: %v", err)
	}
	c.is(a, "ext4")
	c.nothing(b)
	release()
	c.reboot()
	c.nothing(a)
	if _, err := c.clear(0); err != nil {
		c.Errorf("leave after the boot: %v", err)
	}
	c.clean()
}

// hostile configures what must come to nothing.
func hostile(c check) {
	a := c.folder("a")
	for i, m := range hostileMounts(c.disk("ext4"), a) {
		status := c.all(m)
		if len(status.Mounts) != 1 || status.Mounts[0].Reason != ReasonRefused || status.Mounts[0].Message == "" {
			c.Errorf("%d: %+v: status %+v", i, m, status.Mounts)
		}
		if rest := c.remains(); rest != "" {
			c.Fatalf("%d: %+v: this is there now:\n%s", i, m, rest)
		}
	}
}

func hostileMounts(disk, dir string) []protocol.Mount {
	var out []protocol.Mount
	for _, d := range []string{
		"", "/", "/etc", "/etc/", "//etc", "/mnt/../etc", "/etc/x", "/usr/local", "/var", "/var/lib", "/var/lib/containers", "/proc/1", "/run/x", "/dev/x",
		"/boot/efi", "/home/flotta", "/root", "relative", "./x", dir + "/../../etc", dir + "/./x", dir + "//x", dir + "/x\n[Mount]\nWhat=/dev/sda",
		dir + "/%n", dir + "/a\x00b", dir + "/\x1b[2J", dir + `/x\`, dir + "/x ", dir + "/" + strings.Repeat("x", 300), "/mnt", "/mnt/", dir + "/\xff", dir + "/$(id)", dir + `/"x"`,
	} {
		out = append(out, protocol.Mount{Device: disk, Directory: d, Type: "ext4"})
	}
	for _, d := range []string{
		"", "/", "/dev", "/dev/", "sda", "LABEL=data", "UUID=1", "tmpfs", "/etc/passwd", "/dev/../etc/passwd", "/dev/null", "/dev/zero", "/dev/shm/x", "/dev/fd/0", "/dev//sda",
		disk + "\nOptions=suid", disk + " ", disk + `\`, disk + "%h", disk + "\x00", "/dev/" + strings.Repeat("x", 5000), "//host/share", "host:/export",
	} {
		out = append(out, protocol.Mount{Device: d, Directory: dir, Type: "ext4"})
	}
	for _, k := range []string{"", "auto", "tmpfs", "proc", "overlay", "nfs", "cifs", "fuse.sshfs", "ext4\nOptions=suid", "ext4 ", "../ext4", "EXT4", "none", "fuseblk", "swap", "bind", "-o"} {
		out = append(out, protocol.Mount{Device: disk, Directory: dir, Type: k})
	}
	for _, o := range []string{
		"suid", "dev", "noatime,suid", "bind", "rbind", "loop", "remount", "x-systemd.requires=sshd.service", "x-systemd.automount", "X-mount.mkdir", "x-initrd.mount", "x-anything", "user", "users",
		"noatime\nForceUnmount=yes", "a b", "%h", `"`, "context=\"x\"", "x=$(id)", "journal_path=/dev/sda", "logdev=/dev/sda", "errors=panic", "shared", "rprivate", "move", "offset=1", "=", "-o", "_netdev",
		"noauto", "SUID", "Bind", "upperdir=/etc", "uhelper=x", "\x00", "\xff", strings.Repeat("a,", 1000), "noatime\\",
	} {
		out = append(out, protocol.Mount{Device: disk, Directory: dir, Type: "ext4", Options: o})
	}
	return out
}

func twice(c check) {
	a, b := c.folder("a"), c.folder("b")
	c.bad(b, ReasonRefused, []string{"before", a}, c.ext4(a, ""), c.ext4(b, ""))
	c.is(a, "ext4")
	status := c.all(c.ext4(a, ""), c.xfs(a, ""))
	c.is(a, "ext4")
	if len(status.Mounts) != 2 || !status.Mounts[0].Mounted || status.Mounts[1].Reason != ReasonRefused {
		c.Errorf("two at one folder: %+v", status.Mounts)
	}
	var many []protocol.Mount
	for i := range maxMounts + 1 {
		many = append(many, protocol.Mount{Device: fmt.Sprintf("/dev/none%d", i), Directory: c.folder(fmt.Sprint(i)), Type: "ext4"})
	}
	c.bad("(the rest)", ReasonRefused, []string{fmt.Sprint(maxMounts + 1), fmt.Sprint(maxMounts)}, many...)
}

func moves(c check) {
	a, b := c.folder("a"), c.folder("b")
	c.good(c.ext4(a, ""), c.xfs(b, ""))
	c.good(c.ext4(b, ""))
	c.nothing(a)
	c.good(c.ext4(a, ""))
	c.nothing(b)
}

// movesToNone: a device that is configured no more is not mounted while the one
// that is configured instead is away, nor at the next boot.
func movesToNone(c check) {
	a := c.folder("a")
	none := protocol.Mount{Device: "/dev/disk/by-label/none", Directory: a, Type: "ext4"}
	c.good(c.ext4(a, ""))
	release := c.hold(a)
	c.bad(a, ReasonBusy, nil, none)
	c.is(a, "ext4")
	release()
	c.bad(a, ReasonNoDevice, nil, none)
	c.clean()
	c.reboot()
	c.nothing(a)
	// Also when it was not mounted.
	c.good(c.ext4(a, ""))
	c.unmount(a)
	c.bad(a, ReasonNoDevice, nil, none)
	c.clean()
}

// refusedLater: a configuration that makes no sense for a folder leaves there
// what is there, as a bad workload does.
func refusedLater(c check) {
	a := c.folder("a")
	c.good(c.ext4(a, ""))
	before := c.mounted(a)
	c.bad(a, ReasonRefused, []string{"suid"}, c.ext4(a, "suid"))
	if now := c.mounted(a); now != before {
		c.Errorf("it is %q, before %q", now, before)
	}
	if c.unit(a) == "" {
		c.Error("its unit is gone")
	}
}
