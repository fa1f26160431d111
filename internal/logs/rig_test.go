package logs

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/project-flotta/flotta-agent/internal/containers"
	"github.com/project-flotta/flotta-agent/internal/desired"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// eventually waits for something that is about to happen.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(60 * time.Second); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within a minute: %s", what)
		}
	}
}

// inventory is a list of containers that a test changes.
type inventory struct {
	mu    sync.Mutex
	list  []containers.Container
	known bool
	next  chan struct{}
}

func newInventory(list ...containers.Container) *inventory {
	return &inventory{list: list, known: true, next: make(chan struct{})}
}

func (i *inventory) Current() ([]containers.Container, bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.list, i.known
}

func (i *inventory) Changed() <-chan struct{} {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.next
}

func (i *inventory) set(list ...containers.Container) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.list, i.known = list, true
	close(i.next)
	i.next = make(chan struct{})
}

// told is a desired state that a test changes.
type told struct {
	mu  sync.Mutex
	now *desired.Snapshot
	n   int
}

func newTold(state desired.State) *told {
	return &told{now: desired.NewSnapshot(state, "1")}
}

func (d *told) Current() *desired.Snapshot {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.now
}

// collects is a state in which workloads send their logs to the target "main".
func collects(target protocol.LogsCollectionInformation, workloads ...string) desired.State {
	state := desired.State{LogCollection: map[string]protocol.LogsCollectionInformation{"main": target}}
	for _, name := range workloads {
		state.Workloads = append(state.Workloads, desired.Workload{
			Name: name, LogTarget: "main", PodSpec: []byte(`{"containers":[{"name":"app"}]}`),
		})
	}
	return state
}

func tcpTarget(address string) protocol.LogsCollectionInformation {
	return protocol.LogsCollectionInformation{Kind: "syslog", SyslogConfig: &protocol.SyslogConfig{Address: address}}
}

// fileContainer is a container of the driver k8s-file whose log is in dir.
func fileContainer(dir, workload, id string) containers.Container {
	return containers.Container{
		ID: id, Name: workload + "-app", Workload: workload, Container: "app", Running: true,
		LogDriver: "k8s-file", LogPath: filepath.Join(dir, id+".log"),
	}
}

// write appends records to a k8s-file log, as conmon does.
func write(t testing.TB, path string, from, to int) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for i := from; i < to; i++ {
		if _, err := fmt.Fprintf(f, "%s stdout F line %d\n", time.Now().UTC().Format(time.RFC3339Nano), i); err != nil {
			t.Fatal(err)
		}
	}
}

// noJournal stands in for journalctl where the journal is not what is tested: it
// follows nothing.
func noJournal(ctx context.Context, _ ...string) *exec.Cmd {
	return exec.CommandContext(ctx, "sleep", "infinity")
}

// testConfig is of an engine that reads files only.
func testConfig(t testing.TB, d *told, i *inventory) Config {
	t.Helper()
	return Config{
		Desired: d, Containers: i, Dir: filepath.Join(t.TempDir(), "logs"), DeviceID: "device-1", OwnerUID: os.Getuid(),
		Journalctl: noJournal, retry: 50 * time.Millisecond,
	}
}

// start runs an engine until the returned function is called.
func start(t testing.TB, cfg Config) (*Engine, func()) {
	t.Helper()
	e, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	var once sync.Once
	stop := func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				t.Errorf("run: %v", err)
			}
		})
	}
	t.Cleanup(stop)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("status of the engine: %+v", e.Status())
		}
	})
	return e, stop
}
