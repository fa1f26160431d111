//go:build integration

package rpm

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestOverFormerPackage upgrades the package of flotta v0.2, as far as that can be seen
// without a service manager: what made it run is gone, also the link that would start
// this agent beside yggd's, and its data stay.
func TestOverFormerPackage(t *testing.T) {
	t.Parallel()
	const link = "/etc/systemd/system/multi-user.target.wants/flotta-agent.service"
	top := t.TempDir()
	output(t, "rpmbuild", "-bb", "--quiet", "--define", "_topdir "+top, "testdata/former.spec")
	built, err := filepath.Glob(filepath.Join(top, "RPMS/noarch/*.rpm"))
	must(t, err)
	i := &composed{T: t, dir: t.TempDir()}
	_, changed := i.rpm(append([]string{"--nodeps", "-U"}, built...)...)
	if !slices.Contains(changed, link) {
		t.Fatalf("it is not what it stands for: %q", changed)
	}
	i.run("sh", "-c", "echo kept >/etc/yggdrasil/device/volumes/file; echo '{}' >/etc/yggdrasil/device/device-config.json")

	packages := pack(t, older, "")
	said, changed := i.rpm(append([]string{"--nodeps", "-U"}, packages...)...)
	want := append(strings.Fields(output(t, "rpm", "-qpl", packages[0])), users...)
	want = append(want, "/etc/yggdrasil/device/volumes/file", "/etc/yggdrasil/device/device-config.json")
	i.expect("upgraded", said, changed, want)
	// An upgrade of this agent leaves it as an administrator has it.
	i.run("ln", "-s", "/usr/lib/systemd/system/flotta-agent.service", link)
	said, changed = i.rpm(append([]string{"--nodeps", "-U"}, pack(t, newer, "")...)...)
	i.expect("upgraded once more", said, changed, append(want, link))
}
