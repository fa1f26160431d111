package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/project-flotta/flotta-agent/internal/console"
	"github.com/project-flotta/flotta-agent/internal/datasync"
	"github.com/project-flotta/flotta-agent/internal/desired"
	"github.com/project-flotta/flotta-agent/internal/diskq"
	"github.com/project-flotta/flotta-agent/internal/workload"
)

// local is what the person at the device is told beside what the components
// publish.
type local struct {
	version, deviceID string
	started           time.Time
	server, certFile  string
	desiredFile       string
	events            *diskq.Queue
	places            []console.Storage
	system            console.OS
	applied           *applied
	level             *slog.LevelVar // nil: it cannot be changed
}

// console is what the person at the device asks, and what it takes to answer.
func (d *device) console(owner account, report *reporting) ([]task, error) {
	here := local{
		version: d.version, deviceID: d.settings.DeviceID, started: time.Now().UTC().Truncate(time.Second),
		server: d.settings.Server, certFile: d.settings.CertFile,
		desiredFile: filepath.Join(d.cfg.StateDir, "desired.json"),
		events:      d.events,
		places:      storagePlaces(d.cfg, owner),
		system:      operatingSystem("/"),
		applied:     &applied{path: d.appliedPath(), log: component(d.log, "console")},
		level:       d.level,
	}
	report.device = func() console.Document { return report.document(here) }
	report.told = func() console.Document {
		d := report.device()
		d.Problems = append(d.Problems, report.osProblems()...)
		return d
	}
	server, err := console.New(console.Config{
		Group:   owner.gid,
		Collect: report.told,
		Sync:    report.synchronise,
		Level:   d.level,

		MetricsAddress: d.cfg.Console.MetricsAddress,

		Log: component(d.log, "console"),
	})
	if err != nil {
		return nil, err
	}
	return []task{
		{name: "console", run: server.Run},
		{name: "applied", run: func(ctx context.Context) error { return here.applied.run(ctx, report.workloads, d.store.Current) }},
	}, nil
}

// appliedPath is where it is kept when a configuration was applied.
func (d *device) appliedPath() string { return filepath.Join(d.cfg.StateDir, "applied.json") }

func (d *device) purgeApplied(context.Context) error {
	if err := os.Remove(d.appliedPath()); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// document returns what the person at the device is told at this moment.
func (r *reporting) document(here local) console.Document {
	workloads := r.workloads.Status()
	now := r.store.Current()
	d := document(workloads, r.sync.Status(), now)
	d.Version, d.Device.ID, d.Started = here.version, here.deviceID, here.started
	d.Device.Phase = phase(now.State(), r.who.Registered())
	d.Device.Certificate = certificateIn(here.certFile)
	beat := r.reporter.Status()
	d.Connection = console.Connection{Server: here.server, LastContact: beat.LastSuccess, LastAttempt: beat.LastAttempt, Error: beat.Err}
	if info, err := os.Stat(here.desiredFile); err == nil && d.Configuration.Version != "" {
		d.Configuration.Received = info.ModTime().UTC()
	}
	d.Configuration.Applied = here.applied.at(now.Digest())
	d.Queues = []console.Queue{consoleQueue("events", here.events.Stats())}
	if r.queues != nil {
		d.Queues = append(d.Queues, r.queues()...)
	}
	d.Storage = measured(here.places)
	d.OS = here.system
	if r.system != nil {
		system := r.system.Status()
		d.OS.Commit, d.OS.Update = system.Current, system.Note
	}
	if r.playbooks != nil {
		for _, p := range r.playbooks.Latest() {
			d.Playbooks = append(d.Playbooks, console.Playbook{
				Name: p.Name, State: p.Status, Reason: p.Reason, Message: p.Message, Since: p.LastDataUpload.Time,
			})
		}
	}
	if here.level != nil {
		d.LogLevel = strings.ToLower(here.level.Level().String())
	}
	if rejection, ok := r.store.Rejected(); ok {
		d.Problems = append(d.Problems, fmt.Sprintf("configuration %q is refused: %s", rejection.Version, rejection.Reason))
	}
	if c := d.Device.Certificate; c != nil && time.Now().After(c.Expires) {
		d.Problems = append(d.Problems, "the device's certificate has expired: run flotta-agent doctor")
	}
	d.Problems = append(d.Problems, storageProblems(d.Storage)...)
	d.Problems = append(d.Problems, r.problems()...)
	return d
}

// phase says how far the device is known to the control plane.
func phase(state desired.State, registered <-chan struct{}) string {
	if !state.Managed() {
		return console.PhaseLeaving
	}
	select {
	case <-registered:
		return console.PhaseManaged
	default:
		return console.PhaseRegistering
	}
}

// document says what the components publish.
func document(workloads workload.Status, sync datasync.Status, now *desired.Snapshot) console.Document {
	state := now.State()
	d := console.Document{
		Configuration: console.Configuration{
			Version: state.Version, Digest: now.Digest(),
			Settled: workloads.Settled && workloads.ConfigDigest == now.Digest(),
		},
		Problems: slices.Concat(state.Problems, syncProblems(sync)),
		DataSync: consoleSync(sync, time.Now()),
	}
	for _, w := range workloads.Workloads {
		d.Workloads = append(d.Workloads, consoleWorkload(w))
	}
	return d
}

func consoleWorkload(w workload.State) console.Workload {
	out := console.Workload{
		Name: w.Name, Phase: w.Phase, Reason: w.Reason, Message: w.Message,
		DesiredDigest: w.Desired, AppliedDigest: w.Applied,
		Restarts: w.Restarts, Since: w.Since, Notes: w.Notes,
	}
	for _, i := range w.Images {
		out.Images = append(out.Images, console.Image(i))
	}
	for _, p := range w.HostPorts {
		out.HostPorts = append(out.HostPorts, console.Port{Protocol: p.Protocol, IP: p.IP, Port: int(p.Port)})
	}
	return out
}
