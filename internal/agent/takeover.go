package agent

import (
	"context"
	"path/filepath"

	"github.com/project-flotta/flotta-agent/internal/podman"
	"github.com/project-flotta/flotta-agent/internal/systemd"
	"github.com/project-flotta/flotta-agent/internal/takeover"
	"github.com/project-flotta/flotta-agent/internal/workload/adapter"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// Where flotta v0.2 kept its data and its worker: as a package, or as it was built by
// hand.
func formerDataDirs() []string {
	return []string{"/etc/yggdrasil/device", "/usr/local/etc/yggdrasil/device", "/var/local/yggdrasil/device"}
}

func formerWorkerDirs() []string {
	return []string{"/etc/yggdrasil/workers", "/usr/local/etc/yggdrasil/workers"}
}

const asideDir = "/etc/flotta"

// takeOver begins to take over what flotta v0.2 left on this host. It comes before all
// components, because they would find its things in their ways.
func (d *device) takeOver(ctx context.Context) (*takeover.Takeover, error) {
	owner, err := runtimeAccount(d.cfg.Runtime)
	if err != nil {
		return nil, err
	}
	pods, err := podman.New(podman.Config{Socket: owner.podmanSocket()})
	if err != nil {
		return nil, err
	}
	manager, err := systemd.New(systemd.Config{Socket: owner.managerSocket()})
	if err != nil {
		return nil, err
	}
	system, err := systemd.New(systemd.Config{Socket: systemd.SystemSocket})
	if err != nil {
		return nil, err
	}
	d.opened = append(d.opened, closer(manager.Close), closer(pods.Close))
	defer system.Close()
	cfg := takeover.Config{
		StateDir:   d.cfg.StateDir,
		DataDirs:   formerDataDirs(),
		WorkerDirs: formerWorkerDirs(),
		AsideDir:   asideDir,

		SystemUnits: adapter.SystemDropIns,

		Units:   adapter.SystemDropIns,
		Desired: d.store,
		Pods:    pods,
		Manager: manager,
		System:  system,
		Step:    d.step,
		Log:     component(d.log, "takeover"),
	}
	if owner.uid != 0 {
		cfg.Home, cfg.Units = owner.home, filepath.Join(".config", "systemd", "user")
	}
	t, err := takeover.New(cfg)
	if err != nil {
		return nil, err
	}
	return t, t.Begin(ctx)
}

// handingOver is the task that completes it.
func (d *device) handingOver(report *reporting) task {
	return task{name: "takeover", run: func(ctx context.Context) error {
		return d.former.Run(ctx, func(e protocol.EventInfo) { report.reporter.Event(e) })
	}}
}
