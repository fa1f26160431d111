//go:build integration

package rpm

import (
	"path/filepath"
	"strings"
	"testing"
)

// containers is the one type of container-selinux that counts here, for a policy
// without containers, such as Debian's.
const containers = `semodule -l -s "$0" | grep -qx container || {
	echo "(type container_file_t)(roletype object_r container_file_t)" >/tmp/container.cil
	semodule -n -s "$0" -i /tmp/container.cil
}`

// TestSELinux installs the labels into the policy that the machine has, through
// the package's scriptlets, and looks up what files would be labelled with. No
// kernel with SELinux is needed for that.
func TestSELinux(t *testing.T) {
	t.Parallel()
	const mine = "/var/local/yggdrasil/device/volumes/web/file"
	store := strings.TrimSpace(output(t, "sh", "-c", `. /etc/selinux/config; echo "$SELINUXTYPE"`))
	i := &composed{T: t, dir: t.TempDir()}

	i.run("sh", "-c", containers, store)
	said, changed := i.rpm(append([]string{"--nodeps", "-U"}, pack(t, older, "-selinux")...)...)
	// A policy can have users that a machine has not, and says so.
	if strings.Contains(said, "flotta") || strings.Contains(said, "scriptlet") {
		t.Errorf("said %q", said)
	}
	contexts := filepath.Join("/etc/selinux", store, "contexts/files/file_contexts")
	found := false
	for _, path := range changed {
		found = found || path == contexts
	}
	if !found {
		t.Fatalf("the labels are in no list: %q has no %s", changed, contexts)
	}
	contexts = filepath.Join(i.dir, "upper", contexts)
	for path, want := range map[string]bool{
		mine: true, filepath.Dir(mine): true, "/var/local/yggdrasil/device/volumes": true,
		"/var/local/yggdrasil/device/workloads/web.shop/files-0123abcd":             true,
		"/var/local/yggdrasil/device/workloads/web.shop/files-0123abcd/conf/a/file": true,
		"/var/local/yggdrasil/device/workloads/web":                                 false,
		"/var/local/yggdrasil/device/workloads/web/auth.json":                       false,
		"/var/local/yggdrasil/device/workloads/web/manifest.yaml":                   false,
		"/var/local/yggdrasil/device/volumes.old":                                   false,
	} {
		label := output(t, "matchpathcon", "-n", "-f", contexts, path)
		if is := strings.Contains(label, ":container_file_t:s0"); is != want {
			t.Errorf("label of %s is %s", path, label)
		}
	}

	i.rpm("--nodeps", "-e", "flotta-agent-selinux")
	if label := output(t, "matchpathcon", "-n", "-f", contexts, mine); strings.Contains(label, "container_file_t") {
		t.Errorf("after the package, the label of %s is still %s", mine, label)
	}
}
