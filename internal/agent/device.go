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

	"github.com/project-flotta/flotta-agent/internal/desired"
	"github.com/project-flotta/flotta-agent/internal/diskq"
	"github.com/project-flotta/flotta-agent/internal/durable"
	"github.com/project-flotta/flotta-agent/internal/host/firewall"
	"github.com/project-flotta/flotta-agent/internal/host/mounts/apply"
	"github.com/project-flotta/flotta-agent/internal/takeover"
	"github.com/project-flotta/flotta-agent/internal/transport"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

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
	if d.former, err = d.takeOver(ctx); err != nil {
		return err
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
	former    *takeover.Takeover
}

// components are those of a device that refer to each other.
type components struct {
	report  *reporting
	retire  *retirement
	ports   *firewall.Reconciler
	disks   *apply.Reconciler
	observe observing
	owner   account
}

// components builds what manages the device and what it reports.
func (d *device) components(emit func(protocol.EventInfo), report *reporting) (c components, err error) {
	c.report = report
	if report.who, err = d.identity(emit); err != nil {
		return c, err
	}
	if c.owner, err = runtimeAccount(d.cfg.Runtime); err != nil {
		return c, err
	}
	if report.workloads, err = d.workloads(c.owner, emit); err != nil {
		return c, err
	}
	if report.sync, err = d.sync(c.owner, emit); err != nil {
		return c, err
	}
	c.retire = d.retirement(report, emit)
	if c.ports, err = d.firewall(report, emit); err != nil {
		return c, err
	}
	if c.observe, err = d.observing(c.owner, report, emit); err != nil {
		return c, err
	}
	if c.disks, err = d.mounts(c.owner, emit); err != nil {
		return c, err
	}
	if report.playbooks, err = d.playbooks(report, emit); err != nil {
		return c, err
	}
	report.others = func() []string {
		return slices.Concat(c.retire.Problems(), c.ports.Problems(), c.disks.Problems(), report.playbooks.Problems(), c.observe.problems())
	}
	report.queues, report.recovered = c.observe.queues, c.observe.measure.delivery.Retry
	if report.reporter, err = d.heartbeat(report); err != nil {
		return c, err
	}
	report.system, err = d.osUpdate(c.owner, report, c.observe, emit)
	return c, err
}

// tasks builds the components, in the order of their start: what reports comes
// first and so stops last, what brings work in comes last and stops first.
func (d *device) tasks() ([]task, error) {
	report := &reporting{store: d.store}
	c, err := d.components(func(e protocol.EventInfo) { report.reporter.Event(e) }, report)
	if err != nil {
		return nil, err
	}
	local, err := d.console(c.owner, report)
	if err != nil {
		return nil, err
	}
	leave := d.departure(report, c.observe)
	leave.purges = append(leave.purges,
		purge{"firewall", c.ports.Clear}, purge{"mounts", c.disks.Clear}, purge{"configuration of flotta v0.2", d.former.Forget},
		purge{"updates of the operating system", report.system.Clear}, purge{"playbooks", report.playbooks.Clear})
	inbox := &inbox{store: d.store, wake: report.reporter.Wake, leave: leave.begin, log: component(d.log, "inbox")}
	last := d.cfg.Sync.StopTimeout.Duration()
	reports := append(local, []task{
		{name: "heartbeat", run: report.reporter.Run},
		{name: "status", run: report.wakeOnChange},
		{name: "status of mounts", run: wakeOn(c.disks.Changed, report.reporter.Wake)},
		{name: "status of the operating system", run: wakeOn(report.system.Changed, report.reporter.Wake)},
		{name: "status of playbooks", run: wakeOn(report.playbooks.Changed, report.reporter.Wake)},
		{name: "podman", run: d.listening(c.owner)},
	}...)
	return slices.Concat(reports, c.observe.tasks(), []task{
		{name: "mounts", run: c.disks.Run},
		{name: "workload", run: report.workloads.Run},
		d.handingOver(report),
		{
			name: "datasync", last: last,
			run: lastSync(report.sync.Run, report.sync.Drain, last, component(d.log, "datasync")),
		},
		{name: "retirement", run: c.retire.Run},
		{name: "firewall", run: c.ports.Run},
		{name: "osupdate", run: report.system.Run},
		{name: "playbooks", run: report.playbooks.Run},
		{name: "identity", run: report.who.Run},
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
		{"playbooks", report.playbooks.Alive},
	}
	return []task{{name: "watchdog", run: func(ctx context.Context) error { return d.service.run(ctx, loops) }}}
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
