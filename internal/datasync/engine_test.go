package datasync

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/project-flotta/flotta-agent/internal/desired"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

func TestMain(m *testing.M) {
	if path := os.Getenv(crashVar); path != "" {
		crashChild(path)
		return
	}
	goleak.VerifyTestMain(m)
}

// configuration is what a device is told, as far as this package cares.
type configuration struct {
	storage   protocol.S3StorageConfiguration
	workloads []protocol.Workload
	interval  int64 // of heartbeats: something that is no business of ours
}

// tell publishes a configuration through the real owner of the desired state.
func (b *bench) tell(c configuration) {
	b.t.Helper()
	b.version++
	m := protocol.DeviceConfigurationMessage{
		DeviceID: "device", Version: strconv.Itoa(b.version), Workloads: c.workloads,
		Configuration: &protocol.DeviceConfiguration{
			Heartbeat: &protocol.HeartbeatConfiguration{PeriodSeconds: c.interval},
		},
	}
	if c.storage.BucketName != "" {
		m.Configuration.Storage = &protocol.StorageConfiguration{S3: &c.storage}
	}
	raw, err := json.Marshal(m)
	if err != nil {
		b.t.Fatal(err)
	}
	if err := b.desired.Accept(raw); err != nil {
		b.t.Fatal(err)
	}
}

func encoded(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

// bench is an engine with everything around it.
type bench struct {
	t       testing.TB
	dir     string
	volumes string
	desired *desired.Store
	version int
	engine  *Engine
	stop    func()

	mu     sync.Mutex
	events []protocol.EventInfo
}

const testWorkload = "os-stats"

// paths is a configuration with one workload.
func paths(out, in []protocol.DataPath) configuration {
	return configuration{
		storage: protocol.S3StorageConfiguration{
			BucketHost: "store.invalid", BucketPort: 443, BucketName: "bucket",
			AWSAccessKeyID: encoded("key"), AWSSecretAccessKey: encoded("secret"),
		},
		workloads: []protocol.Workload{workloadOf(testWorkload, out, in)},
	}
}

func workloadOf(name string, out, in []protocol.DataPath) protocol.Workload {
	return protocol.Workload{
		Name: name, Specification: "containers: [{name: c, image: i}]",
		Data: &protocol.DataConfiguration{Egress: out, Ingress: in},
	}
}

// up and down are the data paths of most tests.
func up() []protocol.DataPath   { return []protocol.DataPath{{Source: "out", Target: "up"}} }
func down() []protocol.DataPath { return []protocol.DataPath{{Source: "down", Target: "in"}} }

// newBench starts an engine that makes cycles only when it is asked to.
func newBench(t testing.TB, store Store, told configuration, change func(*Config)) *bench {
	t.Helper()
	b := &bench{t: t, dir: t.TempDir()}
	b.volumes = filepath.Join(b.dir, "volumes")
	var err error
	b.desired, err = desired.Open(filepath.Join(b.dir, "desired.json"), "device", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	b.tell(told)
	cfg := Config{
		Desired: b.desired, VolumesDir: b.volumes, IndexPath: filepath.Join(b.dir, "datasync.db"),
		Interval: 24 * time.Hour, Settle: -1, ReserveBytes: -1,
		Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
		Event: func(e protocol.EventInfo) {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.events = append(b.events, e)
		},
	}
	if store != nil {
		cfg.Open = func(desired.Storage) (Store, error) { return store, nil }
	}
	if change != nil {
		change(&cfg)
	}
	b.start(cfg)
	t.Cleanup(func() { b.stop() })
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	b.must(b.engine.Follow(ctx))
	// The first cycle is made at once, and would race with the test otherwise.
	for _, w := range told.workloads {
		if w.Name == testWorkload && len(w.Data.Egress) > 0 {
			_ = b.sync(egress)
		}
		if w.Name == testWorkload && len(w.Data.Ingress) > 0 {
			_ = b.sync(ingress)
		}
	}
	return b
}

func (b *bench) start(cfg Config) {
	b.t.Helper()
	engine, err := New(cfg)
	if err != nil {
		b.t.Fatal(err)
	}
	b.engine = engine
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- engine.Run(ctx) }()
	var stopped atomic.Bool
	b.stop = func() {
		if stopped.Swap(true) {
			return
		}
		cancel()
		if err := <-done; err != nil {
			b.t.Errorf("run: %v", err)
		}
	}
	b.t.Helper()
}

// restart stops the engine and starts it again on the same folders.
func (b *bench) restart() {
	b.t.Helper()
	b.stop()
	b.start(b.engine.cfg)
}

// sync makes one cycle in a direction. What is there at the call is seen by it.
func (b *bench) sync(d direction) error {
	b.t.Helper()
	key := groupKey{testWorkload, d}
	eventually(b.t, "the group runs", func() bool {
		b.engine.mu.Lock()
		defer b.engine.mu.Unlock()
		return b.engine.groups[key] != nil
	})
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	return b.engine.syncNow(ctx, key)
}

func (b *bench) mustSync(d direction) {
	b.t.Helper()
	if err := b.sync(d); err != nil {
		b.t.Fatal(err)
	}
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("after 30 s still not: %s", what)
		}
	}
}

// path returns where a file of the workload is on the device.
func (b *bench) path(name string) string { return filepath.Join(b.volumes, testWorkload, name) }

func (b *bench) write(name, data string) {
	b.t.Helper()
	path := b.path(name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		b.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(data), 0o644); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) read(name string) string {
	b.t.Helper()
	data, err := os.ReadFile(b.path(name))
	if err != nil {
		b.t.Fatal(err)
	}
	return string(data)
}

// status returns one direction's state of the test's workload.
func (b *bench) status(d direction) DirectionStatus {
	for _, w := range b.engine.Status().Workloads {
		if w.Name == testWorkload && d == egress {
			return w.Egress
		} else if w.Name == testWorkload {
			return w.Ingress
		}
	}
	return DirectionStatus{}
}

// reported returns how many events have the reason and contain the text.
func (b *bench) reported(reason, text string) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := 0
	for _, e := range b.events {
		if e.Reason == reason && strings.Contains(e.Message, text) {
			n++
		}
	}
	return n
}

// files returns the regular files below a folder of the workload, with contents.
func (b *bench) files(dir string) map[string]string {
	b.t.Helper()
	out := map[string]string{}
	root := b.path(dir)
	err := filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(path)
		rel, _ := filepath.Rel(root, path)
		out[rel] = string(data)
		return err
	})
	if err != nil && !os.IsNotExist(err) {
		b.t.Fatal(err)
	}
	return out
}
