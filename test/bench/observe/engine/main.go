// Command engine is the agent's way of metrics, or that of logs, and nothing
// else, for measurements. It reads pages of the host's own network as those of
// workloads, or a file as the log of a container. A line "flush" on its standard
// input has everything delivered without pauses.
package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"

	"github.com/project-flotta/flotta-agent/internal/containers"
	"github.com/project-flotta/flotta-agent/internal/desired"
	"github.com/project-flotta/flotta-agent/internal/logs"
	"github.com/project-flotta/flotta-agent/internal/metrics"
	"github.com/project-flotta/flotta-agent/internal/metrics/collect"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

const device = "device-1"

type settings struct {
	dir, receiver, file     string
	port, targets, interval int
	spool                   int64
}

// flusher is what delivers.
type flusher interface {
	Flush(ctx context.Context) error
}

func main() {
	var c settings
	flag.StringVar(&c.dir, "dir", "", "folder of the spool, absolute")
	flag.StringVar(&c.receiver, "receiver", "", "of metrics: a URL; of logs: host:port")
	flag.StringVar(&c.file, "file", "", "log of a container, by the driver k8s-file; empty: metrics")
	flag.IntVar(&c.port, "port", 0, "where the pages /0, /1 ... are")
	flag.IntVar(&c.targets, "targets", 0, "how many pages there are")
	flag.IntVar(&c.interval, "interval", 1, "seconds between two reads of a page")
	flag.Int64Var(&c.spool, "spool", 0, "bytes that the spool of logs may have; 0: as the agent's default")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	if err := c.run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "engine:", err)
		os.Exit(1)
	}
}

func (c settings) run(ctx context.Context) error {
	if c.file != "" {
		return c.logs(ctx)
	}
	return c.metrics(ctx)
}

// warnings go to the standard error.
func warnings() *slog.Logger {
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
}

// told is a desired state, or containers, that never change.
type told struct {
	snapshot *desired.Snapshot
	list     []containers.Container
}

type inventory struct{ told }

func (t told) Current() *desired.Snapshot                   { return t.snapshot }
func (i inventory) Current() ([]containers.Container, bool) { return i.list, true }
func (i inventory) Changed() <-chan struct{}                { return nil }

// together runs all until ctx ends.
func together(ctx context.Context, f ...func(context.Context) error) error {
	errs := make([]error, len(f))
	var all sync.WaitGroup
	for i, run := range f {
		all.Go(func() { errs[i] = run(ctx) })
	}
	all.Wait()
	return errors.Join(errs...)
}

func (c settings) metrics(ctx context.Context) error {
	state := desired.State{DeviceID: device, Metrics: &protocol.MetricsConfiguration{
		System: &protocol.ComponentMetricsConfiguration{Disabled: true}, Receiver: &protocol.MetricsReceiverConfiguration{URL: c.receiver},
	}}
	t := told{}
	for i := range c.targets {
		name := fmt.Sprintf("w%d", i)
		state.Workloads = append(state.Workloads, desired.Workload{Name: name, PodSpec: []byte(`{"containers":[{"name":"app"}]}`), Metrics: &protocol.WorkloadMetrics{
			Port: int32(c.port), Path: fmt.Sprintf("/%d", i), Interval: int32(c.interval), //nolint:gosec // small
		}})
		t.list = append(t.list, containers.Container{ID: name, Name: name + "-app", Workload: name, Container: "app", Running: true, HostNetwork: true})
	}
	t.snapshot = desired.NewSnapshot(state, "1")
	delivery, err := metrics.New(metrics.Config{Dir: c.dir, Desired: t, UserAgent: "flotta-agent/bench", Log: warnings()})
	if err != nil {
		return err
	}
	if err := delivery.Open(); err != nil {
		return err
	}
	collector, err := collect.New(collect.Config{Desired: t, Containers: inventory{t}, DeviceID: device, Put: delivery.Put, Log: warnings()})
	if err != nil {
		return err
	}
	go hear(ctx, delivery)
	return errors.Join(together(ctx, delivery.Run, collector.Run), delivery.Close())
}

func (c settings) logs(ctx context.Context) error {
	t := told{
		snapshot: desired.NewSnapshot(desired.State{
			DeviceID: device,
			LogCollection: map[string]protocol.LogsCollectionInformation{
				"main": {Kind: "syslog", SyslogConfig: &protocol.SyslogConfig{Address: c.receiver, Protocol: "tcp"}},
			},
			Workloads: []desired.Workload{{Name: "shop", LogTarget: "main", PodSpec: []byte(`{"containers":[{"name":"app"}]}`)}},
		}, "1"),
		list: []containers.Container{{
			ID: "c1", Name: "shop-app", Workload: "shop", Container: "app", Running: true, LogDriver: "k8s-file", LogPath: c.file,
		}},
	}
	engine, err := logs.New(logs.Config{
		Desired: t, Containers: inventory{t}, Dir: filepath.Join(c.dir, "logs"), DeviceID: device, OwnerUID: os.Getuid(), SpoolBytes: c.spool, Log: warnings(),
		// Nothing is in the journal.
		Journalctl: func(ctx context.Context, _ ...string) *exec.Cmd { return exec.CommandContext(ctx, "sleep", "infinity") },
	})
	if err != nil {
		return err
	}
	return together(ctx, engine.Run)
}

// hear flushes for each line that comes.
func hear(ctx context.Context, f flusher) {
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		if err := f.Flush(ctx); err != nil {
			fmt.Fprintln(os.Stderr, "engine:", err)
		}
	}
}
