package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/project-flotta/flotta-agent/internal/datasync"
	"github.com/project-flotta/flotta-agent/internal/desired"
	"github.com/project-flotta/flotta-agent/internal/diskq"
	"github.com/project-flotta/flotta-agent/internal/durable"
	"github.com/project-flotta/flotta-agent/internal/heartbeat"
	"github.com/project-flotta/flotta-agent/internal/host/facts"
	"github.com/project-flotta/flotta-agent/internal/host/firewall"
	"github.com/project-flotta/flotta-agent/internal/identity"
	"github.com/project-flotta/flotta-agent/internal/podman"
	"github.com/project-flotta/flotta-agent/internal/systemd"
	"github.com/project-flotta/flotta-agent/internal/transport"
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

// run owns the state folder and runs the device on any transport.
func (d *device) run(ctx context.Context) (err error) {
	cfg, log := d.cfg, d.log
	if err := os.MkdirAll(cfg.StateDir, 0o755); err != nil {
		return fmt.Errorf("make state folder: %w", err)
	}
	lock, err := lockState(ctx, cfg.StateDir)
	if err != nil {
		return err
	}
	defer closing(&err, lock)
	if err := durable.Sweep(cfg.StateDir); err != nil {
		log.Warn("leftovers of an earlier run stay", "err", err)
	}
	d.store, err = desired.Open(filepath.Join(cfg.StateDir, "desired.json"), d.settings.DeviceID, component(log, "desired"))
	if err != nil {
		return err
	}
	d.events, err = diskq.Open(diskq.Config{
		Dir: filepath.Join(cfg.StateDir, "events"), MaxBytes: maxEventBytes, MaxAge: maxEventAge, Log: component(log, "events"),
	})
	if err != nil {
		return err
	}
	defer closing(&err, d.events)
	defer func() {
		for _, c := range slices.Backward(d.opened) {
			closing(&err, c)
		}
	}()
	tasks, err := d.tasks()
	if err != nil {
		return err
	}
	return supervise(ctx, tasks...)
}

// device is one managed device while it is put together.
type device struct {
	cfg      Config
	settings transport.Settings
	carrier  transport.Transport
	store    *desired.Store
	events   *diskq.Queue
	opened   []io.Closer  // by tasks; closed when they have ended
	step     func(string) // nil but in tests of crashes
	version  string       // of this program
	level    *slog.LevelVar
	log      *slog.Logger

	rebirth rebirth // lets the device start anew after its departure
	// unnoticed is called when the transport may not see a new certificate; nil:
	// it always does.
	unnoticed func(context.Context)
	service   *service // nil: somebody else supervises this process
}

// tasks builds the components, in the order of their start: what reports comes
// first and so stops last, what brings work in comes last and stops first.
func (d *device) tasks() ([]task, error) {
	report := &reporting{store: d.store}
	emit := func(e protocol.EventInfo) { report.reporter.Event(e) }
	who, err := d.identity(emit)
	if err != nil {
		return nil, err
	}
	report.who = who
	owner, err := runtimeAccount(d.cfg.Runtime)
	if err != nil {
		return nil, err
	}
	if report.workloads, err = d.workloads(owner, emit); err != nil {
		return nil, err
	}
	if report.sync, err = d.sync(owner, emit); err != nil {
		return nil, err
	}
	retire := d.retirement(report, emit)
	ports, err := d.firewall(report, emit)
	if err != nil {
		return nil, err
	}
	observe, err := d.observing(owner, report, emit)
	if err != nil {
		return nil, err
	}
	disks, err := d.mounts(owner, emit)
	if err != nil {
		return nil, err
	}
	report.others = func() []string {
		return slices.Concat(retire.Problems(), ports.Problems(), disks.Problems(), observe.problems())
	}
	report.queues, report.recovered = observe.queues, observe.measure.delivery.Retry
	if report.reporter, err = d.heartbeat(report); err != nil {
		return nil, err
	}
	if report.system, err = d.osUpdate(owner, report, observe, emit); err != nil {
		return nil, err
	}
	local, err := d.console(owner, report)
	if err != nil {
		return nil, err
	}
	leave := d.departure(report, observe)
	leave.purges = append(leave.purges, purge{"firewall", ports.Clear}, purge{"mounts", disks.Clear}, purge{"updates of the operating system", report.system.Clear})
	inbox := &inbox{store: d.store, wake: report.reporter.Wake, leave: leave.begin, log: component(d.log, "inbox")}
	last := d.cfg.Sync.StopTimeout.Duration()
	reports := append(local, []task{
		{name: "heartbeat", run: report.reporter.Run},
		{name: "status", run: report.wakeOnChange},
		{name: "status of mounts", run: wakeOn(disks.Changed, report.reporter.Wake)},
		{name: "status of the operating system", run: wakeOn(report.system.Changed, report.reporter.Wake)},
		{name: "podman", run: d.listening(owner)},
	}...)
	return slices.Concat(reports, observe.tasks(), []task{
		{name: "mounts", run: disks.Run},
		{name: "workload", run: report.workloads.Run},
		{
			name: "datasync", last: last,
			run: lastSync(report.sync.Run, report.sync.Drain, last, component(d.log, "datasync")),
		},
		{name: "retirement", run: retire.Run},
		{name: "firewall", run: ports.Run},
		{name: "osupdate", run: report.system.Run},
		{name: "identity", run: who.Run},
		{name: "departure", run: leave.Run},
		{name: "transport", run: func(ctx context.Context) error { return d.carrier.Run(ctx, inbox) }},
	}, d.supervised(report)), nil
}

// supervised is the task that tells systemd that the agent lives. It starts last:
// then everything is there.
func (d *device) supervised(report *reporting) []task {
	if d.service == nil {
		return nil
	}
	loops := []loop{
		{"workload", report.workloads.Alive},
		{"datasync", report.sync.Alive},
		{"heartbeat", report.reporter.Alive},
	}
	return []task{{name: "watchdog", run: func(ctx context.Context) error { return d.service.run(ctx, loops) }}}
}

// heartbeat is what the control plane is told.
func (d *device) heartbeat(report *reporting) (*heartbeat.Reporter, error) {
	return heartbeat.New(heartbeat.Config{
		Sender:   d.carrier,
		Desired:  d.store,
		Events:   d.events,
		Collect:  report.collect,
		Ready:    report.who.Registered(),
		Hardware: func(bool) *protocol.HardwareInfo { return hardware() },
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
		Desired:  d.store,
		Runtime:  adapter.NewPods(pods),
		Units:    units,
		StateDir: d.cfg.StateDir,
		Host:     adapter.NewHost(),
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

// lockState makes this process the only agent on the state folder.
func lockState(ctx context.Context, dir string) (io.Closer, error) {
	ctx, cancel := context.WithTimeout(ctx, lockWait)
	defer cancel()
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for {
		lock, err := durable.Lock(filepath.Join(dir, "agent.lock"))
		var held *durable.LockedError
		if err == nil || !errors.As(err, &held) {
			return lock, err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, fmt.Errorf("another agent runs: %w", err)
		}
	}
}

func hardware() *protocol.HardwareInfo {
	info := facts.Collect("/")
	return &info
}

func component(log *slog.Logger, name string) *slog.Logger { return log.With("component", name) }

// closing adds the error of a deferred Close to err.
func closing(err *error, c io.Closer) { *err = errors.Join(*err, c.Close()) }
