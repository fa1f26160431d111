package apply

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/project-flotta/flotta-agent/internal/host/mounts"
)

// process is one of a /proc that is made up.
type process struct {
	pid       int
	comm      string
	namespace string
	cgroup    string
	links     map[string]string
	mounts    string
}

func procOf(t *testing.T, list ...process) string {
	t.Helper()
	proc := t.TempDir()
	for _, p := range list {
		dir := filepath.Join(proc, fmt.Sprint(p.pid))
		must(t, os.MkdirAll(filepath.Join(dir, "fd"), 0o755))
		must(t, os.MkdirAll(filepath.Join(dir, "ns"), 0o755))
		if p.namespace != "" {
			must(t, os.Symlink(p.namespace, filepath.Join(dir, "ns/mnt")))
		}
		for name, text := range map[string]string{"comm": p.comm + "\n", "cgroup": p.cgroup, "mountinfo": p.mounts} {
			must(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
		}
		for name, to := range p.links {
			must(t, os.Symlink(to, filepath.Join(dir, name)))
		}
	}
	must(t, os.Symlink("1", filepath.Join(proc, "self")))
	return proc
}

func TestHolders(t *testing.T) {
	t.Parallel()
	const own, other, service, container, after = "mnt:[1]", "mnt:[2]", "mnt:[3]", "mnt:[4]", "mnt:[5]"
	m := mounts.Mount{Directory: "/mnt/a", Number: "8:17", Type: "ext4", Shared: "7"}
	const follows = "50 1 8:17 / /mnt/a rw master:7 - ext4 /dev/sdb1 rw\n"
	proc := procOf(t,
		process{pid: 1, comm: "systemd", namespace: own, links: map[string]string{"cwd": "/", "fd/0": "/mnt/ab"}},
		process{pid: 2, comm: "kthreadd"},
		process{pid: 10, comm: "sleep", namespace: own, cgroup: "0::/user.slice/user-0.slice/session-1.scope\n", links: map[string]string{"cwd": "/mnt/a"}},
		process{pid: 11, comm: "cat", namespace: own, cgroup: "0::/system.slice/cat.service\n", links: map[string]string{"fd/3": "/mnt/a/x (deleted)"}},
		process{pid: 12, comm: "innocent", namespace: own, links: map[string]string{"cwd": "/mnt", "fd/3": "socket:[1]"}},
		// Services with a namespace of their own see the mount, and lose it with us.
		process{pid: 20, comm: "idle", namespace: service, mounts: follows},
		process{pid: 21, comm: "b\x1b[2Jsy", namespace: service, mounts: follows, links: map[string]string{"exe": "/mnt/a/bin/busy"}},
		// A container keeps what was mounted into it.
		process{
			pid: 30, comm: "app", namespace: container, mounts: "60 1 8:17 / /data rw - ext4 /dev/sdb1 rw\n",
			cgroup: "1:cpu:/x.service\n0::/user.slice/user-998.slice/user@998.service/flotta.slice/flotta-workload@web.service/libpod-1.scope\n",
		},
		process{pid: 31, comm: "child", namespace: container, mounts: "60 1 8:17 / /data rw - ext4 /dev/sdb1 rw\n"},
		process{pid: 40, comm: "stranger", namespace: other, mounts: "70 1 8:18 / /mnt/a rw - ext4 /dev/sdc1 rw\n", links: map[string]string{"cwd": "/mnt/a"}},
		process{pid: 50, comm: "pod", namespace: after, mounts: "60 1 8:17 / /mnt/a rw - ext4 /dev/sdb1 rw\n", cgroup: "0::/machine.slice/libpod-2.scope\n"},
	)
	got := holdersIn(proc)(m, []mounts.Mount{m, {Directory: "/mnt/a/below"}, {Directory: "/mnt/ab"}})
	want := []string{
		"the mount at /mnt/a/below", "sleep (process 10 of session-1.scope)", "cat (process 11 of cat.service)", "b\ufffd[2Jsy (process 21)",
		"app (process 30 of flotta-workload@web.service)", "pod (process 50 of libpod-2.scope)",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("holders (-want +got):\n%s", diff)
	}
	if text := some(got); !strings.HasSuffix(text, "cat.service) and 3 more") {
		t.Errorf("some of them: %s", text)
	}
	if got := holdersIn(filepath.Join(proc, "none"))(m, nil); len(got) != 0 {
		t.Errorf("without processes: %q", got)
	}
}

// TestOwnHolder looks for this process in the real /proc.
func TestOwnHolder(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	f, err := os.Create(filepath.Join(dir, "held"))
	must(t, err)
	defer func() { _ = f.Close() }()
	m := mounts.Mount{Directory: dir, Number: "0:0", Type: "none"}
	want := fmt.Sprintf("(process %d", os.Getpid())
	if got := some(holdersIn("/proc")(m, nil)); !strings.Contains(got, want) {
		t.Errorf("holders %q, want %q among them", got, want)
	}
}
