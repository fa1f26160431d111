package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// cgroups looks whether limits of workloads can be had.
func (d *doctor) cgroups(context.Context) Finding {
	const root = "/sys/fs/cgroup"
	if !d.exists(root + "/cgroup.controllers") {
		return fail("", "cgroups v1: limits of workloads are not kept", "boot with systemd.unified_cgroup_hierarchy=1 on the kernel's command line")
	}
	if d.Root {
		return ok("", "cgroups v2")
	}
	path := fmt.Sprintf("%s/user.slice/user-%d.slice/user@%d.service/cgroup.controllers", root, d.UID, d.UID)
	text, err := d.text(path)
	if err != nil {
		return warn("", "cgroups v2; what is delegated to "+d.User+" is not known: "+err.Error(), "see the check of systemd: its service manager does not run")
	}
	var missing []string
	for _, want := range []string{"cpu", "memory", "pids"} {
		if !slices.Contains(strings.Fields(text), want) {
			missing = append(missing, want)
		}
	}
	if len(missing) > 0 {
		return warn("", fmt.Sprintf("cgroups v2; not delegated to %s: %s", d.User, strings.Join(missing, ", ")),
			"write Delegate=cpu cpuset io memory pids below [Service] into /etc/systemd/system/user@.service.d/delegate.conf, and reboot; until then such limits of workloads are not kept")
	}
	return ok("", "cgroups v2, "+strings.Join(strings.Fields(text), " ")+" delegated to "+d.User)
}

// manyIDs is how many subordinate ids an image with ordinary users needs.
const manyIDs = 65536

// subids looks whether rootless Podman has users to give to containers.
func (d *doctor) subids(context.Context) Finding {
	if d.Root {
		return skip("", "workloads run as root")
	}
	for _, file := range []string{"/etc/subuid", "/etc/subgid"} {
		n := 0
		text, err := d.text(file)
		for line := range strings.Lines(text) {
			fields := strings.Split(strings.TrimSpace(line), ":")
			if len(fields) == 3 && (fields[0] == d.User || fields[0] == strconv.Itoa(d.UID)) {
				more, _ := strconv.Atoi(fields[2]) // nonsense counts nothing
				n += more
			}
		}
		switch {
		case err != nil && !errors.Is(err, fs.ErrNotExist):
			return warn(file, err.Error(), "run this as root")
		case n < manyIDs:
			return fail(file, fmt.Sprintf("%d subordinate ids for %s, %d are needed", n, d.User, manyIDs),
				fmt.Sprintf("`usermod --add-subuids 524288-589823 --add-subgids 524288-589823 %s`, with a range that nobody else has, and `podman system migrate` as %s", d.User, d.User))
		}
	}
	return ok("", "there are enough subordinate ids for "+d.User)
}

// containerType is what containers may write to under SELinux.
const containerType = "container_file_t"

func (d *doctor) selinux(context.Context) Finding {
	mode, err := d.text("/sys/fs/selinux/enforce")
	if err != nil {
		return skip("", "this kernel runs without SELinux")
	}
	word := "permissive"
	if mode == "1" {
		word = "enforcing"
	}
	volumes := filepath.Join(d.StateDir, "volumes")
	context, err := d.Label(volumes)
	relabel := fmt.Sprintf("`semanage fcontext -a -t %s '%s(/.*)?'` and `restorecon -R %s`", containerType, volumes, volumes)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return ok("", word+"; there are no volumes yet")
	case err != nil:
		return warn("", word+"; the label of "+volumes+" is not known: "+err.Error(), relabel)
	case !strings.Contains(context, containerType) && word == "enforcing":
		return fail("", fmt.Sprintf("%s; %s is labelled %s: workloads may not write there", word, volumes, context), relabel)
	case !strings.Contains(context, containerType):
		return warn("", fmt.Sprintf("%s; %s is labelled %s", word, volumes, context), relabel)
	}
	if wrong := d.mislabelled(volumes); len(wrong) > 0 {
		found := fmt.Sprintf("%s; %s: workloads may not use what is in there", word, strings.Join(wrong, ", "))
		restore := "`restorecon -R " + volumes + "`, or start the workload anew, which has Podman label its volume"
		if word == "enforcing" {
			return fail("", found, restore)
		}
		return warn("", found, restore)
	}
	if !d.labelsKnown(volumes) {
		return warn("", fmt.Sprintf("%s; volumes are labelled %s, which no policy knows: restorecon, or a system that is labelled anew, takes it away", word, context),
			"install the package flotta-agent-selinux, or "+relabel)
	}
	return ok("", word+"; volumes are labelled "+context)
}

// maxNamed is how many volumes are named; the others will have the same cause.
const maxNamed = 3

// mislabelled names volumes that containers may not write to, with their labels.
func (d *doctor) mislabelled(volumes string) []string {
	entries, err := fs.ReadDir(d.Files, strings.TrimPrefix(volumes, "/"))
	if err != nil {
		return nil // a label could be read there: it vanished, or is not ours to list
	}
	var out []string
	for _, e := range entries {
		path := filepath.Join(volumes, e.Name())
		context, err := d.Label(path)
		if err != nil || strings.Contains(context, containerType) || !e.IsDir() {
			continue
		}
		if len(out) == maxNamed {
			return append(out, "and others")
		}
		out = append(out, path+" is labelled "+context)
	}
	return out
}

// labelsKnown reports whether the policy says what volumes are labelled with, as
// far as that can be read.
func (d *doctor) labelsKnown(volumes string) bool {
	kind := "targeted"
	config, _ := d.text("/etc/selinux/config")
	for line := range strings.Lines(config) {
		if value, found := strings.CutPrefix(strings.TrimSpace(line), "SELINUXTYPE="); found {
			kind = strings.TrimSpace(value)
		}
	}
	folder := filepath.Join("/etc/selinux", filepath.Base(kind), "contexts/files")
	readable := false
	for _, file := range []string{"file_contexts", "file_contexts.local"} {
		text, err := d.text(filepath.Join(folder, file))
		readable = readable || err == nil
		if strings.Contains(text, volumes) {
			return true
		}
	}
	return !readable
}

// Parts of a disk that should be free, and must be.
const (
	littleRoom = 0.10
	noRoom     = 0.02
)

// disks looks at the room where the device keeps what it cannot do without.
func (d *doctor) disks(context.Context) []Finding {
	var out []Finding
	for _, path := range []string{d.StateDir, d.ContainerStore} {
		if path != "" {
			out = append(out, d.disk(path))
		}
	}
	return out
}

func (d *doctor) disk(path string) Finding {
	room, err := d.Room(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return warn(path, "there is no such folder yet", "it comes with the first start of the agent, or the first container; if it was there before, look for a disk that is not mounted")
	case err != nil:
		return fail(path, "cannot be looked at: "+err.Error(), "look for a disk that is broken or not mounted: dmesg, findmnt")
	case room.Total == 0:
		return ok(path, "its file system does not count room")
	}
	free := float64(room.Free) / float64(room.Total)
	found := fmt.Sprintf("%.0f%% of %.1f GiB is free", 100*free, float64(room.Total)/(1<<30))
	if room.Inodes > 0 {
		inodes := float64(room.FreeInodes) / float64(room.Inodes)
		found += fmt.Sprintf(", %.0f%% of the inodes", 100*inodes)
		free = min(free, inodes)
	}
	const advice = "`du -xh --max-depth=2 " + "%s | sort -h | tail` shows what takes it; images go by themselves (images.gc-high), the journal with `journalctl --vacuum-size`"
	switch {
	case free < noRoom:
		return fail(path, found, fmt.Sprintf(advice, path))
	case free < littleRoom:
		return warn(path, found, fmt.Sprintf(advice, path))
	}
	return ok(path, found)
}

// maxFolders bounds how many folders are counted.
const maxFolders = 1 << 20

// inotify looks whether the kernel lets the agent watch all volumes: each folder
// takes a watch.
func (d *doctor) inotify(ctx context.Context) Finding {
	const settings = "/proc/sys/fs/inotify/"
	limits := map[string]int{}
	for _, name := range []string{"max_user_watches", "max_user_instances"} {
		text, err := d.text(settings + name)
		n, perr := strconv.Atoi(text)
		if err = errors.Join(err, perr); err != nil {
			return warn("", "the limits are not known: "+err.Error(), "changes in volumes may be seen late only: whole volumes are looked at every 15 minutes")
		}
		limits[name] = n
	}
	folders, err := d.folders(ctx, filepath.Join(d.StateDir, "volumes"))
	watches := limits["max_user_watches"]
	found := fmt.Sprintf("volumes have %d folders, %d can be watched", folders, watches)
	const raise = "write fs.inotify.%s = %d into /etc/sysctl.d/90-flotta.conf and run `sysctl --system`"
	switch {
	case err != nil:
		return warn("", found+", as far as they could be counted: "+err.Error(), "run this as root, or look for a volume that hangs")
	case folders > watches:
		return fail("", found+": changes in the others are seen late", fmt.Sprintf(raise, "max_user_watches", roundUp(2*folders)))
	case folders*10 > watches*8:
		return warn("", found, fmt.Sprintf(raise, "max_user_watches", roundUp(2*folders)))
	case limits["max_user_instances"] < 64:
		return warn("", fmt.Sprintf("only %d programs of a user can watch files", limits["max_user_instances"]), fmt.Sprintf(raise, "max_user_instances", 128))
	}
	return ok("", found)
}

// folders counts those below dir.
func (d *doctor) folders(ctx context.Context, dir string) (n int, err error) {
	err = fs.WalkDir(d.Files, strings.TrimPrefix(dir, "/"), func(_ string, e fs.DirEntry, err error) error {
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, fs.ErrNotExist): // it went away meanwhile
			return nil
		case err != nil:
			return err
		case e.IsDir():
			n++
		}
		if n >= maxFolders {
			return fs.SkipAll
		}
		return nil
	})
	return n, err
}

// roundUp returns the next power of two.
func roundUp(n int) int {
	out := 1
	for out < n {
		out *= 2
	}
	return out
}

// nftables looks whether ports of workloads can be opened.
func (d *doctor) nftables(ctx context.Context) Finding {
	out, err := d.Command(ctx, "nft", "list", "tables")
	switch {
	case errors.Is(err, exec.ErrNotFound):
		return warn("", "there is no nft: the agent opens no port", "install nftables, unless nothing on this machine filters packets")
	case err != nil:
		return warn("", "nft does not work: "+err.Error(), "run this as root; does the kernel have nf_tables?")
	case strings.Contains(out, "table inet flotta"):
		return ok("", "the agent's table is there")
	}
	return ok("", "works; the agent has no table, because no workload needs a port")
}
