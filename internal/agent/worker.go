package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"time"

	"github.com/project-flotta/flotta-agent/internal/datasync"
	"github.com/project-flotta/flotta-agent/internal/desired"
	"github.com/project-flotta/flotta-agent/internal/diskq"
	"github.com/project-flotta/flotta-agent/internal/durable"
	"github.com/project-flotta/flotta-agent/internal/heartbeat"
	"github.com/project-flotta/flotta-agent/internal/host/facts"
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
	return run(ctx, cfg, settings, carrier, log)
}

// run owns the state folder and runs the device on any transport.
func run(ctx context.Context, cfg Config, settings transport.Settings, carrier transport.Transport, log *slog.Logger) (err error) {
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
	store, err := desired.Open(filepath.Join(cfg.StateDir, "desired.json"), settings.DeviceID, component(log, "desired"))
	if err != nil {
		return err
	}
	events, err := diskq.Open(diskq.Config{
		Dir: filepath.Join(cfg.StateDir, "events"), MaxBytes: maxEventBytes, MaxAge: maxEventAge, Log: component(log, "events"),
	})
	if err != nil {
		return err
	}
	defer closing(&err, events)
	d := device{
		cfg: cfg, settings: settings, carrier: carrier, store: store, events: events,
		step: workload.CrashPoint(), log: log,
	}
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
	step     func(string) // nil but in tests of crashes
	log      *slog.Logger
}

// tasks builds the components, in the order of their start: what reports comes
// first and so stops last, what brings work in comes last and stops first.
func (d *device) tasks() ([]task, error) {
	var report reporting
	emit := func(e protocol.EventInfo) { report.reporter.Event(e) }
	yggd, err := d.yggd()
	if err != nil {
		return nil, err
	}
	who, err := d.identity(yggd, emit)
	if err != nil {
		return nil, err
	}
	report.who = who
	owner, err := runtimeUser(d.cfg.Runtime.User)
	if err != nil {
		return nil, err
	}
	if report.workloads, err = d.workloads(owner, emit); err != nil {
		return nil, err
	}
	if report.sync, err = d.sync(owner, emit); err != nil {
		return nil, err
	}
	report.reporter, err = heartbeat.New(heartbeat.Config{
		Sender:   d.carrier,
		Desired:  d.store,
		Events:   d.events,
		Collect:  report.collect,
		Ready:    who.Registered(),
		Hardware: func(bool) *protocol.HardwareInfo { return hardware() },
		// Neither of the two knows the other.
		Unauthorized: who.Unauthorized,
		Log:          component(d.log, "heartbeat"),
	})
	if err != nil {
		return nil, err
	}
	leave := d.departure(&report, yggd)
	inbox := &inbox{store: d.store, wake: report.reporter.Wake, leave: leave.begin, log: component(d.log, "inbox")}
	return []task{
		{"heartbeat", report.reporter.Run},
		{"status", report.wakeOnChange},
		{"workload", report.workloads.Run},
		{"datasync", report.sync.Run},
		{"identity", who.Run},
		{"departure", leave.Run},
		{"transport", func(ctx context.Context) error { return d.carrier.Run(ctx, inbox) }},
	}, nil
}

// yggd is the way to have this process's yggd restarted.
func (d *device) yggd() (rebirth, error) {
	system, err := systemd.New(systemd.Config{Socket: systemd.SystemSocket})
	if err != nil {
		return rebirth{}, err
	}
	pid := os.Getppid()
	return rebirth{
		path: filepath.Join(d.cfg.StateDir, "yggd-restart.json"), current: processName(pid),
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

func (d *device) identity(yggd rebirth, emit func(protocol.EventInfo)) (*identity.Device, error) {
	return identity.New(identity.Config{
		Settings: d.settings,
		Sender:   d.carrier,
		TagsFile: d.cfg.TagsFile,
		Hardware: hardware,
		Retry:    time.Duration(d.cfg.Identity.Retry),
		RenewAt:  d.cfg.Identity.RenewAt,
		Unnoticed: func(ctx context.Context) {
			if err := yggd.restart(ctx); err != nil && ctx.Err() == nil {
				d.log.Warn("restart yggd: it may go on with the certificate before", "err", err)
			}
		},
		Held:  func() bool { return !d.store.Current().State().Managed() },
		Log:   component(d.log, "identity"),
		Event: emit,
	})
}

// departure builds what clears a device that is no longer managed.
func (d *device) departure(parts *reporting, yggd rebirth) *departure {
	return &departure{
		store:     d.store,
		deliver:   parts.sync.Flush,
		follow:    parts.sync.Follow,
		workloads: parts.workloads,
		events:    d.events,
		surrender: parts.who.Surrender,
		rebirth:   yggd,
		timeout:   time.Duration(d.cfg.Sync.FinalTimeout),
		step:      d.step,
		again:     make(chan struct{}, 1),
		log:       component(d.log, "departure"),
	}
}

func (d *device) workloads(owner account, emit func(protocol.EventInfo)) (*workload.Reconciler, error) {
	pods, err := podman.New(podman.Config{Socket: owner.podmanSocket()})
	if err != nil {
		return nil, err
	}
	units, err := systemd.New(systemd.Config{Socket: systemd.UserSocket(owner.uid)})
	if err != nil {
		return nil, err
	}
	return workload.New(workload.Config{
		Desired:  d.store,
		Runtime:  adapter.NewPods(pods),
		Units:    adapter.NewUnits(units),
		StateDir: d.cfg.StateDir,
		UID:      owner.uid,
		GID:      owner.gid,
		Resync:   time.Duration(d.cfg.Runtime.Resync),
		Settle:   time.Duration(d.cfg.Runtime.Settle),
		// A containerPort without hostPort is a note, as in Kubernetes: Podman 4
		// would publish it, and two workloads with one port would collide.
		HideContainerPorts: true,
		Step:               d.step,
		Log:                component(d.log, "workload"),
		Event:              emit,
	})
}

func (d *device) sync(owner account, emit func(protocol.EventInfo)) (*datasync.Engine, error) {
	return datasync.New(datasync.Config{
		Desired:    d.store,
		VolumesDir: filepath.Join(d.cfg.StateDir, "volumes"),
		IndexPath:  filepath.Join(d.cfg.StateDir, "datasync.db"),
		Owner:      &datasync.Owner{UID: owner.uid, GID: owner.gid},
		Interval:   time.Duration(d.cfg.Sync.Interval),
		Log:        component(d.log, "datasync"),
		Event:      emit,
	})
}

// account is a user of the host.
type account struct{ uid, gid int }

func (a account) podmanSocket() string {
	return filepath.Join("/run/user", strconv.Itoa(a.uid), "podman", "podman.sock")
}

func runtimeUser(name string) (account, error) {
	u, err := user.Lookup(name)
	if err != nil {
		return account{}, fmt.Errorf("setting runtime.user: %w; the package creates it, or run systemd-sysusers", err)
	}
	uid, uerr := strconv.Atoi(u.Uid)
	gid, gerr := strconv.Atoi(u.Gid)
	return account{uid, gid}, errors.Join(uerr, gerr)
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
