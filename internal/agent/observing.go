package agent

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/project-flotta/flotta-agent/internal/console"
	"github.com/project-flotta/flotta-agent/internal/containers"
	"github.com/project-flotta/flotta-agent/internal/desired"
	"github.com/project-flotta/flotta-agent/internal/logs"
	"github.com/project-flotta/flotta-agent/internal/metrics"
	"github.com/project-flotta/flotta-agent/internal/metrics/collect"
	"github.com/project-flotta/flotta-agent/internal/metrics/scrape"
	"github.com/project-flotta/flotta-agent/internal/metrics/series"
	"github.com/project-flotta/flotta-agent/internal/podman"
	"github.com/project-flotta/flotta-agent/internal/systemd"
	"github.com/project-flotta/flotta-agent/internal/workload/manifest"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// exporterUnits are what distributions call the unit of their node exporter, in
// the order of asking.
var exporterUnits = []string{"node_exporter.service", "prometheus-node-exporter.service", "node-exporter.service"}

// observing is what reads from the containers that run, and delivers that.
type observing struct {
	running *containers.Watcher
	measure measuring
	logs    *logs.Engine
	wanted  func() (bool, <-chan struct{}) // whether containers are read; closed when that may change
}

// measuring is what reads metrics, and what delivers them.
type measuring struct {
	collector *collect.Engine
	delivery  *metrics.Engine
}

// observing builds the observers, with their spools open.
func (d *device) observing(owner account, parts *reporting, emit func(protocol.EventInfo)) (o observing, err error) {
	if o.running, err = d.containers(owner); err != nil {
		return o, err
	}
	if o.measure, err = d.metrics(o.running, parts, emit); err != nil {
		return o, err
	}
	o.logs, err = logs.New(logs.Config{
		Desired: d.store, Containers: o.running, DeviceID: d.settings.DeviceID, OwnerUID: owner.uid,
		Dir: filepath.Join(d.cfg.StateDir, "logs"), SpoolBytes: int64(d.cfg.Logs.Spool), SpoolAge: d.cfg.Logs.SpoolAge.Duration(),
		Log: component(d.log, "logs"), Event: emit,
	})
	o.wanted = func() (bool, <-chan struct{}) {
		now := d.store.Current()
		return o.logs.HasRead() || readsContainers(now.State()), now.Superseded()
	}
	return o, err
}

// watch begins when somebody reads from containers: until then Podman is asked
// nothing for it. It does not end before ctx, as there may be last lines.
func (o observing) watch(ctx context.Context) error {
	for {
		wanted, changed := o.wanted()
		if wanted {
			return o.running.Run(ctx)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil
		}
	}
}

// readsContainers reports whether a workload has metrics or logs to be read.
func readsContainers(s desired.State) bool {
	return slices.ContainsFunc(s.Workloads, func(w desired.Workload) bool { return w.Metrics != nil || w.LogTarget != "" })
}

// tasks starts what delivers first, so that it stops last.
func (o observing) tasks() []task {
	return []task{
		{name: "metrics delivery", run: o.measure.delivery.Run},
		{name: "logs", run: o.logs.Run},
		{name: "containers", run: o.watch},
		{name: "metrics", run: o.measure.collector.Run},
	}
}

// lastWords is how long a device that leaves tries to deliver its metrics and
// logs: nothing of them is worth more of a delay.
const lastWords = 20 * time.Second

// deliver delivers what was measured and what was logged until now.
func (o observing) deliver(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, lastWords)
	defer cancel()
	return together(ctx, o.logs.Flush, func(ctx context.Context) error {
		if err := o.measure.delivery.Flush(ctx); !errors.Is(err, metrics.ErrNoReceiver) {
			return err
		}
		return nil
	})
}

// together runs all of them at the same time, to their ends.
func together(ctx context.Context, all ...func(context.Context) error) error {
	errs := make([]error, len(all))
	var running sync.WaitGroup
	for i, run := range all {
		running.Go(func() { errs[i] = run(ctx) })
	}
	running.Wait()
	return errors.Join(errs...)
}

// purges drop what waits, for a device that is no longer managed.
func (o observing) purges() []purge {
	return []purge{
		{"metrics", func(context.Context) error { return o.measure.delivery.Forget() }},
		{"logs", func(context.Context) error { return o.logs.Forget() }},
	}
}

// queues are what waits to be delivered.
func (o observing) queues() []console.Queue {
	m := o.measure.delivery.Status()
	measured := consoleQueue("metrics", m.Queue)
	measured.Dropped.Damage += m.Damaged
	measured.Dropped.Refused = m.Refused + m.TooOld
	out := []console.Queue{measured}
	for _, t := range o.logs.Status().Targets {
		out = append(out, consoleQueue("logs to "+t.Name, t.Queue))
	}
	return out
}

// problems are what lasts until somebody changes something.
func (o observing) problems() []string {
	var out []string
	for _, p := range o.measure.delivery.Status().Problems {
		out = append(out, "metrics: "+p.Reason+": "+p.Message)
	}
	for _, p := range o.measure.collector.Status().Problems {
		out = append(out, "metrics: "+p.Reason+": "+p.Message)
	}
	for _, p := range o.logs.Status().Problems {
		out = append(out, "logs: "+p.Reason+": "+p.Message)
	}
	return out
}

// containers builds the list that those who read from containers share.
func (d *device) containers(owner account) (*containers.Watcher, error) {
	client, err := podman.New(podman.Config{Socket: owner.podmanSocket()})
	if err != nil {
		return nil, err
	}
	return containers.New(containers.Config{
		Podman: client, Label: manifest.LabelWorkload, Log: component(d.log, "containers"),
	})
}

// metrics builds the way of metrics from their targets to the receiver.
func (d *device) metrics(running *containers.Watcher, parts *reporting, emit func(protocol.EventInfo)) (measuring, error) {
	delivery, err := metrics.New(metrics.Config{
		Dir: filepath.Join(d.cfg.StateDir, "metrics"), Desired: d.store, UserAgent: "flotta-agent/" + d.version,
		Log: component(d.log, "metrics"), Event: emit,
	})
	if err != nil {
		return measuring{}, err
	}
	if err := delivery.Open(); err != nil {
		component(d.log, "metrics").Error("spool cannot be opened, will try again", "err", err) // when it runs
	}
	d.opened = append(d.opened, delivery)
	system, err := systemd.New(systemd.Config{Socket: systemd.SystemSocket})
	if err != nil {
		return measuring{}, err
	}
	collector, err := collect.New(collect.Config{
		Desired: d.store, Containers: running, DeviceID: d.settings.DeviceID,
		Put:          func(ctx context.Context, samples []series.Sample) error { return delivery.Put(ctx, samples) },
		NodeExporter: d.cfg.Metrics.NodeExporterURL, NodeExporterUnit: d.cfg.Metrics.unit(), Units: exporters{system},
		DataTransfer: func(context.Context) (scrape.Page, error) { return page(parts.told()), nil },
		Self: func(context.Context) (scrape.Page, error) {
			told := parts.told()
			told.DataSync = nil // has a target of its own
			return page(told), nil
		},
		Log: component(d.log, "metrics"),
	})
	return measuring{collector, delivery}, err
}

func page(d console.Document) scrape.Page { return scrape.Page{Text: string(console.Metrics(d))} }

// exporters starts units of the system.
type exporters struct{ manager *systemd.Client }

// EnableAndStart starts a unit now and at every boot; anyUnit stands for the first
// that is installed.
func (e exporters) EnableAndStart(ctx context.Context, name string) error {
	names := []string{name}
	if name == anyUnit {
		names = exporterUnits
	}
	for _, name := range names {
		err := e.manager.Enable(ctx, name)
		if err == nil {
			err = e.manager.Start(ctx, name)
		}
		if !errors.Is(err, systemd.ErrNotFound) {
			return err
		}
	}
	return fmt.Errorf("%s: %w", strings.Join(names, ", "), collect.ErrNoUnit)
}
