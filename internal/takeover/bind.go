package takeover

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/coreos/go-systemd/v22/unit"

	"github.com/project-flotta/flotta-agent/internal/durable"
)

// System is the service manager of the system. A *systemd.Client is one.
type System interface {
	Reload(ctx context.Context) error
	Enable(ctx context.Context, units ...string) error
	Start(ctx context.Context, unit string) error
}

// bindText is the unit that mounts the volumes at boot, before anybody's service manager
// starts a workload. A boot does not fail with it.
const bindText = `# flotta-agent: the volumes of flotta v0.2, which are on another file system
[Unit]
Description=Volumes of edge workloads, as flotta v0.2 made them
Before=local-fs.target

[Mount]
What=%s
Where=%s
Type=none
Options=bind

[Install]
WantedBy=local-fs.target
`

// bindVolumes makes one folder be seen in the place of the other, now and after every
// boot.
func (t *Takeover) bindVolumes(ctx context.Context, from, to string) error {
	name := unit.UnitNamePathEscape(to) + ".mount"
	path := filepath.Join(t.cfg.SystemUnits, name)
	want := fmt.Appendf(nil, bindText, from, to)
	if have, err := os.ReadFile(path); err == nil && bytes.Equal(have, want) && oneFolder(from, to) && len(t.now().Volumes) == 0 {
		return nil
	}
	if err := durable.WriteFile(path, want, 0o644); err != nil {
		return err
	}
	t.step("takeover-bind-written")
	if err := t.cfg.System.Reload(ctx); err != nil {
		return err
	}
	if err := t.cfg.System.Enable(ctx, name); err != nil {
		return err
	}
	t.step("takeover-bind-enabled")
	if !oneFolder(from, to) {
		if err := t.cfg.System.Start(ctx, name); err != nil {
			return err
		}
	}
	if !oneFolder(from, to) {
		return fmt.Errorf("%s is not seen at %s, although %s mounts it", from, to, name)
	}
	t.cfg.Log.Info("volumes of flotta v0.2 stay where they are, and are mounted", "from", from, "path", to, "unit", name)
	return t.update(func(r *record) { r.Volumes = nil })
}
