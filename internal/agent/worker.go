package agent

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/project-flotta/flotta-agent/internal/datasync"
	"github.com/project-flotta/flotta-agent/internal/heartbeat"
	"github.com/project-flotta/flotta-agent/internal/host/facts"
	"github.com/project-flotta/flotta-agent/internal/host/firewall"
	"github.com/project-flotta/flotta-agent/internal/identity"
	"github.com/project-flotta/flotta-agent/internal/podman"
	"github.com/project-flotta/flotta-agent/internal/systemd"
	"github.com/project-flotta/flotta-agent/internal/transport/yggdrasil"
	"github.com/project-flotta/flotta-agent/internal/workload"
	"github.com/project-flotta/flotta-agent/internal/workload/adapter"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// WorkerEnv is what yggd puts into the environment of a worker.
type WorkerEnv struct {
	SocketAddr string // YGG_SOCKET_ADDR
	ConfigDir  string // YGG_CONFIG_DIR
	ClientID   string // YGG_CLIENT_ID
	Version    string // of this program; told to yggd
	// Level is that of the log, to be changed while the agent runs; nil: it
	// stays as it is.
	Level *slog.LevelVar
}

const (
	// yggd's own record of the worker of the directive "device".
	yggdPIDFile = "/var/run/yggdrasil/workers/device.pid"

	// A killed yggd may leave its worker behind; the new one's worker waits for
	// that one to notice.
	lockWait = 45 * time.Second

	// Events are short: this is weeks of them, in a share of the disk that
	// nobody misses.
	maxEventBytes = 8 << 20
	maxEventAge   = 30 * 24 * time.Hour
)

// RunWorker runs the agent as a worker of yggd until ctx ends.
func RunWorker(ctx context.Context, cfg Config, env WorkerEnv, log *slog.Logger) (err error) {
	carrier, err := yggdrasil.New(yggdrasil.Config{
		SocketAddr: env.SocketAddr,
		ConfigDir:  env.ConfigDir,
		ClientID:   env.ClientID,
		PIDFile:    yggdPIDFile,
		Features:   map[string]string{"version": env.Version},
		Log:        component(log, "yggdrasil"),
	})
	if err != nil {
		return err
	}
	defer closing(&err, carrier)
	settings, err := carrier.Settings(ctx)
	if err != nil {
		return err
	}
	d := device{cfg: cfg, settings: settings, carrier: carrier, version: env.Version, level: env.Level, step: workload.CrashPoint(), log: log}
	if d.rebirth, err = d.yggd(); err != nil {
		return err
	}
	d.unnoticed = func(ctx context.Context) {
		if err := d.rebirth.restart(ctx); err != nil && ctx.Err() == nil {
			d.log.Warn("restart yggd: it may go on with the certificate before", "err", err)
		}
	}
	return d.run(ctx)
}

// heartbeat is what the control plane is told.
func (d *device) heartbeat(report *reporting) (*heartbeat.Reporter, error) {
	return heartbeat.New(heartbeat.Config{
		Sender:    d.carrier,
		Desired:   d.store,
		Events:    d.events,
		Collect:   report.collect,
		Delivered: report.delivered,
		Ready:     report.who.Registered(),
		Hardware:  func(bool) *protocol.HardwareInfo { return hardware() },
		// Neither of the two knows the other.
		Unauthorized: report.who.Unauthorized,
		Recovered:    report.recovered,
		Log:          component(d.log, "heartbeat"),
	})
}

// yggd is the way to have this process's yggd restarted.
func (d *device) yggd() (rebirth, error) {
	system, err := systemd.New(systemd.Config{Socket: systemd.SystemSocket})
	if err != nil {
		return rebirth{}, err
	}
	pid := os.Getppid()
	return rebirth{
		path: restartRecord(d.cfg), current: processName(pid),
		restart: func(ctx context.Context) error {
			unit, err := serviceOf(pid)
			if err != nil {
				return err
			}
			defer system.Close()
			return system.TryRestart(ctx, unit)
		},
	}, nil
}

// restartRecord is where it is noted that somebody has to be restarted after a
// departure.
func restartRecord(cfg Config) string { return filepath.Join(cfg.StateDir, "yggd-restart.json") }

func (d *device) identity(emit func(protocol.EventInfo)) (*identity.Device, error) {
	return identity.New(identity.Config{
		Settings:  d.settings,
		Sender:    d.carrier,
		TagsFile:  d.cfg.TagsFile,
		Hardware:  hardware,
		Retry:     time.Duration(d.cfg.Identity.Retry),
		RenewAt:   d.cfg.Identity.RenewAt,
		Unnoticed: d.unnoticed,
		Held:      func() bool { return !d.store.Current().State().Managed() },
		Log:       component(d.log, "identity"),
		Event:     emit,
	})
}

// departure builds what clears a device that is no longer managed.
func (d *device) departure(parts *reporting, observe observing) *departure {
	return &departure{
		store:     d.store,
		deliver:   func(ctx context.Context) error { return together(ctx, parts.sync.Flush, observe.deliver) },
		follow:    parts.sync.Follow,
		workloads: parts.workloads,
		events:    d.events,
		surrender: parts.who.Surrender,
		rebirth:   d.rebirth,
		timeout:   time.Duration(d.cfg.Sync.FinalTimeout),
		purges:    append(observe.purges(), purge{"images", parts.workloads.PurgeImages}, purge{"record of what was applied", d.purgeApplied}),
		volumes:   d.volumes(),
		step:      d.step,
		again:     make(chan struct{}, 1),
		log:       component(d.log, "departure"),
	}
}

// retirement builds what removes the volumes of removed workloads.
func (d *device) retirement(parts *reporting, emit func(protocol.EventInfo)) *retirement {
	return &retirement{
		store:     d.store,
		deliver:   parts.sync.Deliver,
		stamp:     parts.sync.Stamp,
		workloads: parts.workloads,
		manifests: filepath.Join(d.cfg.StateDir, "workloads"),
		volumes:   d.volumes(),
		retention: d.cfg.Volumes.Retention.Duration(),
		event:     emit,
		changed:   func() { parts.reporter.Wake() },
		step:      d.step,
		removal:   make(chan struct{}, 1),
		log:       component(d.log, "retirement"),
	}
}

func (d *device) volumes() volumes { return volumes{dir: filepath.Join(d.cfg.StateDir, "volumes")} }

func (d *device) workloads(owner account, emit func(protocol.EventInfo)) (*workload.Reconciler, error) {
	pods, err := podman.New(podman.Config{Socket: owner.podmanSocket()})
	if err != nil {
		return nil, err
	}
	manager, err := systemd.New(systemd.Config{Socket: owner.managerSocket()})
	if err != nil {
		return nil, err
	}
	units, err := adapter.NewUnits(adapter.UnitsConfig{Client: manager, DropIns: owner.dropIns()})
	if err != nil {
		return nil, err
	}
	return workload.New(workload.Config{
		Desired: d.store,
		Runtime: adapter.NewPods(pods),

		Predecessor: d.former,

		Units:    units,
		StateDir: d.cfg.StateDir,
		Host:     adapter.NewHost(adapter.HostConfig{UID: owner.uid, GID: owner.gid}),
		UID:      owner.uid,
		GID:      owner.gid,
		Resync:   time.Duration(d.cfg.Runtime.Resync),
		Settle:   time.Duration(d.cfg.Runtime.Settle),
		// A containerPort without hostPort is a note, as in Kubernetes: Podman 4
		// would publish it, and two workloads with one port would collide.
		HideContainerPorts: true,
		Images: workload.ImageConfig{
			PullStall: time.Duration(d.cfg.Images.PullStall),
			GCHigh:    d.cfg.Images.GCHigh, GCLow: d.cfg.Images.GCLow,
			GCInterval: time.Duration(d.cfg.Images.GCInterval),
			GCMinAge:   time.Duration(d.cfg.Images.GCMinAge),
		},
		MaintenanceDirs: []string{maintenanceEtc, maintenanceRun},
		Step:            d.step,
		Log:             component(d.log, "workload"),
		Event:           emit,
	})
}

// firewall builds what keeps the ports of the workloads open.
func (d *device) firewall(parts *reporting, emit func(protocol.EventInfo)) (*firewall.Reconciler, error) {
	return firewall.New(firewall.Config{
		Openings: func() ([]firewall.Opening, bool) {
			return openings(parts.workloads.Status(), d.store.Current().State().Workloads)
		},
		Changed: parts.workloads.Changed,
		Resync:  time.Duration(d.cfg.Runtime.Resync),
		Event:   emit,
		Log:     component(d.log, "firewall"),
	})
}

func (d *device) sync(owner account, emit func(protocol.EventInfo)) (*datasync.Engine, error) {
	cfg := datasync.Config{
		Desired:    d.store,
		VolumesDir: filepath.Join(d.cfg.StateDir, "volumes"),
		IndexPath:  filepath.Join(d.cfg.StateDir, "datasync.db"),
		Owner:      &datasync.Owner{UID: owner.uid, GID: owner.gid},
		Log:        component(d.log, "datasync"),
		Event:      emit,
	}
	d.cfg.Sync.engine(&cfg)
	return datasync.New(cfg)
}

func hardware() *protocol.HardwareInfo {
	info := facts.Collect("/")
	return &info
}

func component(log *slog.Logger, name string) *slog.Logger { return log.With("component", name) }

// closing adds the error of a deferred Close to err.
func closing(err *error, c io.Closer) { *err = errors.Join(*err, c.Close()) }
