package devnode

import (
	"context"
	"encoding/binary"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// root is a file system with the accounts of a device: flotta (995) is in its own
// group, and in those that members of the files name.
func root(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	all := map[string]string{
		"etc/passwd": "root:x:0:0::/root:/bin/sh\nflotta:x:995:995::/var/home/flotta:/sbin/nologin\n",
		"etc/group":  "root:x:0:\nflotta:x:995:\ndialout:x:20:\n",
	}
	maps.Copy(all, files)
	for path, text := range all {
		path = filepath.Join(dir, path)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// running are the files of a service manager with these supplementary groups.
func running(tree, groups string) map[string]string {
	return map[string]string{
		"sys/fs/cgroup/" + tree + "user.slice/user-995.slice/user@995.service/init.scope/cgroup.procs": "77\n78\n",
		"proc/77/status": "Name:\tsystemd\nUid:\t995\t995\t995\t995\nGroups:\t" + groups + " \nNStgid:\t77\n",
	}
}

func with(parts ...map[string]string) map[string]string {
	out := map[string]string{}
	for _, m := range parts {
		maps.Copy(out, m)
	}
	return out
}

func TestDenied(t *testing.T) {
	t.Parallel()
	member := map[string]string{"etc/group": "root:x:0:\nflotta:x:995:\ndialout:x:20:anna,flotta\n"}
	serial := node{uid: 0, gid: 20, mode: 0o660}
	for name, c := range map[string]struct {
		files map[string]string
		node  node
		alone bool // the groups of the service manager are not kept
		want  string
	}{
		"everybody":           {node: node{mode: 0o666}},
		"owner":               {node: node{uid: 995, mode: 0o600}},
		"own group":           {node: node{gid: 995, mode: 0o060}},
		"only to write":       {node: node{mode: 0o002}},
		"another group":       {node: serial, want: "may not open device /dev/ttyS9, which belongs to root:dialout with mode 0660; put it into that group: usermod -aG dialout flotta && systemctl restart user@995.service"},
		"root alone":          {node: node{mode: 0o600}, want: `belongs to root:root with mode 0600; give it to flotta by a rule in /etc/udev/rules.d, such as KERNEL=="ttyS9", OWNER="flotta"`},
		"group of root":       {node: node{mode: 0o660}, want: "KERNEL=="},
		"a closed group":      {node: node{gid: 20, mode: 0o600}, want: "KERNEL=="},
		"unknown owner":       {node: node{uid: 4242, gid: 20, mode: 0o660}, want: "belongs to 4242:dialout"},
		"owner who may not":   {node: node{uid: 995, mode: 0o066}, want: "KERNEL=="},
		"member":              {files: with(member, running("", "20")), node: serial},
		"member, v1":          {files: with(member, running("systemd/", "20")), node: serial},
		"member, hybrid":      {files: with(member, running("unified/", "999 20")), node: serial},
		"member, no manager":  {files: member, node: serial},
		"member since":        {files: with(member, running("", "999")), node: serial, want: "flotta is in a group that may since its service manager was started: systemctl restart user@995.service"},
		"member, groups lost": {files: with(member, running("", "20")), node: serial, alone: true, want: "the pod does not keep"},
		"group of an image": {
			files: map[string]string{"etc/group": "flotta:x:995:\n", "usr/lib/group": "dialout:x:20:\n"}, node: serial,
			want: "group: grep ^dialout: /usr/lib/group >>/etc/group && usermod -aG dialout flotta",
		},
		"listed by its access list": {node: node{gid: 20, mode: 0o660, acl: []aclEntry{
			{tag: aclOwner, perm: 6}, {tag: aclUser, perm: 6, id: 995}, {tag: aclOwningGroup, perm: 0}, {tag: aclMask, perm: 6}, {tag: aclOther},
		}}},
		"listed and masked": {node: node{gid: 20, mode: 0o600, acl: []aclEntry{
			{tag: aclOwner, perm: 6}, {tag: aclUser, perm: 6, id: 995}, {tag: aclOwningGroup, perm: 6}, {tag: aclMask}, {tag: aclOther, perm: 6},
		}}, want: "KERNEL=="},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			table := New(Config{UID: 995, GID: 995, Root: root(t, c.files)})
			problem := table.denied(Use{Path: "/dev/ttyS9", Group: !c.alone}, c.node)
			switch {
			case c.want == "" && problem != nil:
				t.Errorf("denied: %v", problem)
			case c.want != "" && (problem == nil || problem.Missing || !strings.Contains(problem.Text, c.want)):
				t.Errorf("got %+v, want %q", problem, c.want)
			}
		})
	}
}

func TestCheck(t *testing.T) {
	t.Parallel()
	dir := root(t, map[string]string{"dev/file": ""})
	for name, to := range map[string]string{"null": "/dev/null", "lost": "nowhere"} {
		if err := os.Symlink(to, filepath.Join(dir, "dev", name)); err != nil {
			t.Fatal(err)
		}
	}
	table := New(Config{UID: 995, GID: 995, Root: dir})
	for _, c := range []struct {
		use  Use
		want string
	}{
		{use: Use{Path: "/dev/null"}},
		{use: Use{Path: "/dev/null", Kind: Character}},
		{use: Use{Path: "/dev/null", Kind: Block}, want: "/dev/null is no block device"},
		{use: Use{Path: "/dev/none"}, want: "device /dev/none is not there"},
		{use: Use{Path: "/dev/lost"}, want: "device /dev/lost is not there"},
		{use: Use{Path: "/dev/file"}, want: "/dev/file is no device"},
		{use: Use{Path: "/dev/file/below"}, want: "device /dev/file/below cannot be looked at: not a directory"},
		{use: Use{Path: "/dev"}, want: "/dev is no device"},
	} {
		err := table.Check(c.use)
		problem, _ := errors.AsType[*Problem](err)
		if c.want == "" && err != nil || c.want != "" && (problem == nil || !problem.Missing || problem.Text != c.want) {
			t.Errorf("%+v: %v, want %q", c.use, err, c.want)
		}
	}
}

// TestWatch has a device appear and vanish.
func TestWatch(t *testing.T) {
	t.Parallel()
	dir := root(t, map[string]string{"dev/other": ""})
	table := New(Config{UID: 995, GID: 995, Root: dir, Poll: time.Millisecond})
	ctx, stop := context.WithTimeout(t.Context(), 20*time.Second)
	defer stop()
	changed, done := make(chan struct{}, 100), make(chan struct{})
	go func() {
		defer close(done)
		table.Watch(ctx, func() { changed <- struct{}{} })
	}()
	use := Use{Path: "/dev/null"}
	if err := table.Check(use); err == nil {
		t.Fatal("it is there")
	}
	link := filepath.Join(dir, "dev/null")
	for range 3 {
		if err := os.Symlink("/dev/null", link); err != nil {
			t.Fatal(err)
		}
		<-changed
		if err := table.Check(use); err != nil {
			t.Error(err)
		}
		if err := os.Remove(link); err != nil {
			t.Fatal(err)
		}
		<-changed
	}
	stop()
	<-done
	if len(changed) > 0 {
		t.Errorf("told %d times too often", len(changed))
	}
	if table.moved(time.Now().Add(2 * forgetAfter)); len(table.asked) > 0 {
		t.Error("it is watched for ever")
	}
}

func attribute(entries []aclEntry) []byte {
	raw := binary.LittleEndian.AppendUint32(nil, 2)
	for _, e := range entries {
		raw = binary.LittleEndian.AppendUint16(raw, uint16(e.tag))
		raw = binary.LittleEndian.AppendUint16(raw, uint16(e.perm))
		raw = binary.LittleEndian.AppendUint32(raw, e.id)
	}
	return raw
}

func FuzzParseACL(f *testing.F) {
	f.Add(attribute([]aclEntry{{tag: aclOwner, perm: 6}, {tag: aclUser, perm: 4, id: 995}, {tag: aclOther}}))
	f.Add([]byte{2, 0, 0, 0, 1})
	f.Fuzz(func(t *testing.T, raw []byte) {
		entries := parseACL(raw)
		if len(entries) > 0 && len(entries)*8+4 != len(raw) {
			t.Errorf("%d entries of %d bytes", len(entries), len(raw))
		}
		node{acl: entries}.opens(who{uid: 995, gid: 995, groups: []uint32{20}})
	})
}
