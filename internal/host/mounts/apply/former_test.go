package apply

import (
	"strings"
	"testing"

	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// TestMountOfTheFormerAgent: what the agent before this one mounted, which had no units, is
// given one, and is neither unmounted nor mounted again.
func TestMountOfTheFormerAgent(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		disk   string // that is mounted
		change func(m *protocol.Mount)
		ours   bool
	}{
		"just so":          {"ext4", func(*protocol.Mount) {}, true},
		"a slash more":     {"ext4", func(m *protocol.Mount) { m.Directory += "/" }, true},
		"another disk":     {"other", func(*protocol.Mount) {}, false},
		"other options":    {"ext4", func(m *protocol.Mount) { m.Options = "noatime" }, false},
		"another type":     {"ext4", func(m *protocol.Mount) { m.Type = "xfs" }, false},
		"somewhere else":   {"ext4", func(m *protocol.Mount) { m.Directory += "x" }, false},
		"another device":   {"ext4", func(m *protocol.Mount) { m.Device = "/dev/sdz9" }, false},
		"not by it at all": {"ext4", func(m *protocol.Mount) { *m = protocol.Mount{} }, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMemory(t)
			dir := m.folder("a")
			m.byHand(tc.disk, dir)
			before := m.mounted(dir)
			wanted := protocol.Mount{Device: m.disk("ext4"), Directory: dir, Type: "ext4"}
			made := wanted
			tc.change(&made)
			source := configured(wanted)
			for range 2 {
				r := m.reconciler(source, 0)
				r.cfg.Former = func() []protocol.Mount { return []protocol.Mount{made} }
				r.round(t.Context(), source.Current(), true)
				status := r.Status()
				if good := status.Mounts[0].Reason == ""; good != tc.ours {
					t.Fatalf("status %+v", status)
				}
			}
			if now := m.mounted(dir); now != before {
				t.Errorf("mounted is %q, was %q", now, before)
			}
			if unit := m.unit(dir); (unit != "") != tc.ours || tc.ours && !strings.Contains(unit, "nosuid") {
				t.Errorf("unit:\n%s", unit)
			}
			if tc.ours {
				m.reboot()
				if now := m.mounted(dir); !strings.HasPrefix(now, "ext4") {
					t.Errorf("after a boot %q is mounted", now)
				}
			}
		})
	}
}
