package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/project-flotta/flotta-agent/internal/datasync"
	"github.com/project-flotta/flotta-agent/internal/desired"
	"github.com/project-flotta/flotta-agent/internal/diskq"
	"github.com/project-flotta/flotta-agent/internal/identity"
	"github.com/project-flotta/flotta-agent/internal/workload"
	"github.com/project-flotta/flotta-agent/internal/workload/workloadtest"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// host is a device whose disk and workloads outlive the agents on it.
type host struct {
	t     *testing.T
	dir   string
	world *workloadtest.World
	yggd  int // number of the yggd that runs

	mu         sync.Mutex
	done       []string // what happened, in order
	unreturned error
	hang       bool // deliveries last until their end
	occurred   []protocol.EventInfo
	bucket     *bucket
	retention  time.Duration

	// Of the agent that runs.
	early   func() // what happens between the start of an agent and that of its parts
	store   *desired.Store
	events  *diskq.Queue
	leave   *departure
	retire  *retirement
	stop    func()
	crashAt string
	dead    bool
}

func newHost(t *testing.T) *host {
	t.Helper()
	dir := t.TempDir()
	h := &host{t: t, dir: dir, world: workloadtest.NewWorld(dir), bucket: newBucket(), retention: 3 * time.Hour}
	h.world.Publish("good:1", workloadtest.Good)
	return h
}

func (h *host) note(what string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.done = append(h.done, what)
}

// all returns what happened.
func (h *host) all() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return strings.Join(h.done, " ")
}

func (h *host) saw(what string) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := 0
	for _, d := range h.done {
		if d == what {
			n++
		}
	}
	return n
}

// start starts an agent that dies at a step; empty: at none.
func (h *host) start(crashAt string) {
	h.t.Helper()
	log := slog.New(slog.DiscardHandler)
	var err error
	if h.store, err = desired.Open(filepath.Join(h.dir, "desired.json"), "dev", log); err != nil {
		h.t.Fatal(err)
	}
	if h.events, err = diskq.Open(diskq.Config{Dir: filepath.Join(h.dir, "events")}); err != nil {
		h.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	h.crashAt, h.dead = crashAt, false
	step := func(s string) {
		h.mu.Lock()
		dies := s == h.crashAt || h.dead
		h.dead = dies
		h.mu.Unlock()
		if dies {
			cancel()
			runtime.Goexit()
		}
	}
	r, err := workload.New(workload.Config{
		Desired: h.store, Runtime: h.world, Units: workloadtest.Units{World: h.world},
		Log: log, StateDir: h.dir, UID: -1, GID: -1, Step: step,
	})
	if err != nil {
		h.t.Fatal(err)
	}
	volumes := volumes{dir: filepath.Join(h.dir, "volumes")}
	engine, err := datasync.New(datasync.Config{
		Desired: h.store, VolumesDir: volumes.dir, IndexPath: filepath.Join(h.dir, "datasync.db"),
		Interval: time.Hour, Settle: -1, ReserveBytes: -1, Log: log,
		Walk: -1, // waiting for the kernel's notifications would keep the bubble's clock from moving
		Open: func(desired.Storage) (datasync.Store, error) { return h.bucket, nil },
	})
	if err != nil {
		h.t.Fatal(err)
	}
	h.retire = &retirement{
		store: h.store, deliver: engine.Deliver, stamp: engine.Stamp, workloads: r, step: step, log: log,
		manifests: filepath.Join(h.dir, "workloads"), volumes: volumes, retention: h.retention,
		event: h.event, changed: func() {}, removal: make(chan struct{}, 1),
	}
	h.leave = &departure{
		store: h.store, events: h.events, workloads: r, step: step, log: log,
		again: make(chan struct{}, 1), timeout: time.Minute, volumes: volumes,
		purges:    []purge{{"images", func(context.Context) error { h.note("purge"); return errors.New("podman is away") }}},
		deliver:   h.deliver(engine.Flush),
		follow:    engine.Follow,
		surrender: func() error { h.note("surrender"); return h.returned() },
		rebirth: rebirth{
			path: filepath.Join(h.dir, "yggd-restart.json"), current: fmt.Sprint("yggd ", h.yggd),
			restart: func(context.Context) error { h.note("restart"); return nil },
		},
	}
	if h.early != nil {
		h.early()
	}
	var tasks sync.WaitGroup
	tasks.Go(func() { _ = r.Run(ctx) })
	tasks.Go(func() {
		if err := engine.Run(ctx); err != nil {
			h.t.Errorf("sync: %v", err)
		}
	})
	tasks.Go(func() { _ = h.retire.Run(ctx) })
	tasks.Go(func() { _ = h.leave.Run(ctx) })
	h.stop = func() {
		cancel()
		tasks.Wait()
		if err := h.events.Close(); err != nil {
			h.t.Error(err)
		}
	}
}

// deliver looks at what is there to be delivered.
func (h *host) deliver(flush func(context.Context) error) func(context.Context) error {
	return func(ctx context.Context) error {
		h.note("deliver")
		if len(h.store.Current().State().Workloads) == 0 {
			h.note("nothing to deliver")
		}
		if h.world.Digest("w") == "" {
			h.note("delivered after the removal")
		}
		if h.hang {
			<-ctx.Done()
			return ctx.Err()
		}
		return flush(ctx)
	}
}

func (h *host) event(e protocol.EventInfo) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.occurred = append(h.occurred, e)
}

func (h *host) returned() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.unreturned
}

func (h *host) died() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.dead
}

// deploy has a workload with a secret run.
func (h *host) deploy() {
	h.t.Helper()
	raw, err := json.Marshal(protocol.DeviceConfigurationMessage{
		DeviceID: "dev", Version: "1", Configuration: &protocol.DeviceConfiguration{},
		Workloads: []protocol.Workload{{Name: "w", Specification: "containers: [{name: c, image: 'good:1', envFrom: [{secretRef: {name: s}}]}]"}},
		Secrets:   []protocol.Secret{{Name: "s", Data: `{"k":"dg=="}`}},
	})
	if err != nil {
		h.t.Fatal(err)
	}
	if err := h.store.Accept(raw); err != nil {
		h.t.Fatal(err)
	}
	time.Sleep(time.Minute)
	synctest.Wait()
	if h.world.Digest("w") == "" {
		h.t.Fatal("the workload does not run")
	}
	if err := h.events.Append([]byte(`{"reason":"Old"}`)); err != nil {
		h.t.Fatal(err)
	}
}

// left says what a device that has left still has.
func (h *host) left() string {
	var left []string
	pods, enabled, secrets := h.world.Left()
	left = slices.Concat(left, pods, enabled, secrets)
	for _, file := range []string{"desired.json", "yggd-restart.json"} {
		if _, err := os.Stat(filepath.Join(h.dir, file)); err == nil {
			left = append(left, file)
		}
	}
	if entries, err := os.ReadDir(filepath.Join(h.dir, "workloads")); err == nil && len(entries) > 0 {
		left = append(left, "workload folders")
	}
	if n := h.events.Stats().Entries; n > 0 {
		left = append(left, fmt.Sprint(n, " events"))
	}
	if h.saw("surrender") == 0 {
		left = append(left, "the credential")
	}
	return strings.Join(left, ", ")
}

func TestDepartureInOrder(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newHost(t)
		h.start("")
		h.deploy()
		for range 3 {
			h.leave.begin() // yggd says it to every worker, and after each restart
		}
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		want := "deliver purge surrender restart"
		if got := h.all(); got != want {
			t.Errorf("done %q, want %q", got, want)
		}
		h.stop()
		h.yggd++
		h.start("")
		defer func() { h.stop() }()
		time.Sleep(time.Minute)
		synctest.Wait()
		if left := h.left(); left != "" {
			t.Errorf("left: %s", left)
		}
		if h.saw("restart") != 1 || h.saw("deliver") != 1 {
			t.Errorf("done %q, want nothing more under another yggd", h.all())
		}
		if _, err := os.Stat(filepath.Join(h.dir, "volumes", "w")); err != nil {
			t.Errorf("the volume: %v", err)
		}
		h.deploy() // and it can be managed again
	})
}

func TestDepartureKilledAtEachStep(t *testing.T) {
	t.Parallel()
	for _, at := range []string{
		stepLeaving, stepDelivered, stepWithdrawn, stepRemoved, stepLast, stepGivenUp, stepPurged,
		stepSpoolGone, stepSurrender, stepMarked, stepForgotten, stepEnded, stepSent, stepRecorded,
		"remove-begin", "remove-disabled", "remove-stopped", "remove-pod", "removed",
	} {
		for _, reboot := range []bool{false, true} {
			t.Run(fmt.Sprint(at, " reboot ", reboot), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) { departureKilled(t, at, reboot) })
			})
		}
	}
}

func departureKilled(t *testing.T, at string, reboot bool) {
	h := newHost(t)
	h.start(at)
	h.deploy()
	h.leave.begin()
	time.Sleep(time.Minute)
	synctest.Wait()
	if !h.died() {
		t.Fatal("it passed no such step")
	}
	h.stop()
	if reboot {
		h.world.PowerCut()
		h.yggd++
	}
	// Nobody says again that the device is to leave, and the next
	// configuration comes when it is approved anew.
	h.start("")
	time.Sleep(5 * time.Minute)
	synctest.Wait()
	// The yggd that was told to disconnect is mute until it is restarted.
	if !reboot && h.saw("restart") == 0 {
		t.Error("yggd was not restarted")
	}
	h.stop()
	h.yggd++
	h.start("")
	time.Sleep(time.Minute)
	synctest.Wait()
	defer func() { h.stop() }()
	if left := h.left(); left != "" {
		t.Errorf("left: %s", left)
	}
	if h.saw("deliver") == 0 || h.saw("nothing to deliver")+h.saw("delivered after the removal") > 0 {
		t.Errorf("done %q, want a delivery before the removal", h.all())
	}
	if !h.store.Current().State().Managed() {
		t.Error("the device is still leaving")
	}
}

func TestDepartureDoesNotWaitForABucketForEver(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newHost(t)
		h.hang = true
		h.start("")
		defer func() { h.stop() }()
		h.deploy()
		h.leave.begin()
		time.Sleep(59 * time.Second)
		synctest.Wait()
		if h.world.Digest("w") == "" {
			t.Error("removed before the end of the delivery")
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if h.saw("restart") != 1 {
			t.Errorf("done %q", h.all())
		}
	})
}

func TestDepartureIsHeldUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newHost(t)
		h.unreturned = errors.New("read-only file system")
		h.start("")
		defer func() { h.stop() }()
		h.deploy()
		h.world.SetDown(true) // Podman does not answer
		h.leave.begin()
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if h.saw("surrender") != 0 {
			t.Error("the credential was given back while workloads were there")
		}
		h.world.SetDown(false)
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if n := h.saw("surrender"); n < 10 || h.saw("restart") != 0 {
			t.Errorf("done %q, want to be tried again", h.all())
		}
		h.mu.Lock()
		h.unreturned = nil
		h.mu.Unlock()
		time.Sleep(time.Minute)
		synctest.Wait()
		if h.saw("restart") != 1 {
			t.Errorf("done %q", h.all())
		}
	})
}

func TestDepartureWithoutARegisterCredentialStaysAway(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newHost(t)
		h.unreturned = fmt.Errorf("no file: %w", identity.ErrNoRegisterCredential)
		h.start("")
		defer func() { h.stop() }()
		h.deploy()
		h.leave.begin()
		time.Sleep(time.Hour)
		synctest.Wait()
		if h.saw("surrender") != 1 || h.saw("restart") != 0 || h.store.Current().State().Managed() {
			t.Errorf("done %q, want to wait for somebody", h.all())
		}
		if pods, _, _ := h.world.Left(); len(pods) > 0 {
			t.Error("workloads are left")
		}
	})
}

// The disk that takes nothing at the one moment at which yggd says that the
// device is not managed must not keep it managed.
func TestDepartureBeginsWhenTheDiskTakesIt(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newHost(t)
		h.start("")
		defer func() { h.stop() }()
		h.deploy()
		file := filepath.Join(h.dir, "desired.json")
		if err := errors.Join(os.Remove(file), os.MkdirAll(filepath.Join(file, "in the way"), 0o700)); err != nil {
			t.Fatal(err)
		}
		h.leave.begin()
		time.Sleep(30 * time.Second)
		synctest.Wait()
		if !h.store.Current().State().Managed() {
			t.Fatal("leaving, and not on disk")
		}
		if err := os.RemoveAll(file); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		if h.saw("restart") != 1 {
			t.Errorf("done %q", h.all())
		}
	})
}

func TestMuteYggdIsRestartedUntilAnotherOneRuns(t *testing.T) {
	t.Parallel()
	restarts := 0
	r := rebirth{
		path: filepath.Join(t.TempDir(), "restart.json"), current: "first",
		restart: func(context.Context) error { restarts++; return nil },
	}
	finish := func(want int) {
		t.Helper()
		if err := r.finish(t.Context()); err != nil || restarts != want {
			t.Errorf("restarts %d, %v; want %d", restarts, err, want)
		}
	}
	finish(0)
	if err := r.mark(); err != nil {
		t.Fatal(err)
	}
	finish(1)
	finish(2)
	r.current = "second"
	finish(2)
	r.current = "first"
	finish(2)
	if err := os.WriteFile(r.path, []byte("damaged"), 0o600); err != nil {
		t.Fatal(err)
	}
	finish(2)
	if _, err := os.Stat(r.path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("damaged record: %v, want it gone", err)
	}
}

func TestUnitOfAProcess(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"0::/system.slice/yggd.service\n":                                      "yggd.service",
		"0::/system.slice/rhcd.service/inner\n":                                "rhcd.service",
		"12:cpu:/x.service\n1:name=systemd:/system.slice/yggd.service\n0::/\n": "yggd.service",
		"0::/machine.slice/a.service/payload/system.slice/yggd.service\n":      "yggd.service",
		"0::/user.slice/user-0.slice/session-1.scope\n":                        "",
		"0::/user.slice/user-1.slice/user@1.service/app.slice/yggd.service\n":  "",
		"0::/user.slice/user-1.slice/user@1.service/init.scope\n":              "",
		"0::/\n": "", "": "", "nonsense": "", "0::": "", "0::..": "",
	} {
		if got := decodeCgroup(text); got != want {
			t.Errorf("%q: unit %q, want %q", text, got, want)
		}
	}
}

func FuzzDecodeCgroup(f *testing.F) {
	f.Add("0::/system.slice/yggd.service\n")
	f.Fuzz(func(t *testing.T, text string) {
		if unit := decodeCgroup(text); strings.ContainsAny(unit, "/\n") {
			t.Errorf("unit %q", unit)
		}
	})
}

func TestProcessName(t *testing.T) {
	t.Parallel()
	self, parent := processName(os.Getpid()), processName(os.Getppid())
	if self == parent || self != processName(os.Getpid()) {
		t.Errorf("names %q and %q", self, parent)
	}
	if startTime(os.Getpid()) == "" || startTime(-1) != "" {
		t.Errorf("start times %q and %q", startTime(os.Getpid()), startTime(-1))
	}
}
