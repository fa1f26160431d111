package osupdate

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/project-flotta/flotta-agent/internal/desired"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// rig is a device: the machine, its files, and the agent's part on it, which is
// started and killed like a process. It is used inside a bubble of synctest.
type rig struct {
	t    *testing.T
	root string
	url  string // of the repository that has all commits
	log  *slog.Logger
	cfg  Config

	store *desired.Store
	r     *Reconciler
	stop  func()

	mu      sync.Mutex
	boot    int
	version int
	down    bool     // a reboot was asked for
	stuck   bool     // and does not come
	ill     string   // why the device is not healthy
	did     []string // what was done before a reboot, and after
	events  []string
	cut     int // the step at which the power is cut; 0: never
	steps   int
	dark    bool // the power was cut
}

// commits are those of a repository.
type commits struct{ url, old, new, newer string }

func newCommits(t *testing.T) commits {
	t.Helper()
	repo := repository(t)
	return commits{"file://" + repo, commit(t, repo, "old"), commit(t, repo, "new"), commit(t, repo, "newer")}
}

// newRig returns a device that runs commit old.
func newRig(t *testing.T, c commits) *rig {
	t.Helper()
	root := t.TempDir()
	linkStandIns(t, root, "rpm-ostree", "ostree")
	for _, dir := range []string{"run", "sysroot", "state", remotesDir} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	write(t, filepath.Join(root, "run/ostree-booted"), "")
	write(t, filepath.Join(root, remotesDir, "edge.conf"), "# by hand\n[remote \"edge\"]\ngpg-verify=false\nurl=file:///nowhere\n")
	x := &rig{t: t, root: root, url: c.url, log: slog.New(slog.DiscardHandler), boot: 1}
	x.change(func(m *machine) { *m = machine{Finalise: true, Deployments: []*system{{ID: c.old, Booted: true}}} })
	x.open()
	x.want(c.old, false)
	return x
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// change changes the machine behind the agent's back.
func (x *rig) change(f func(m *machine)) {
	x.t.Helper()
	m, err := loadMachine(x.root)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		x.t.Fatal(err)
	}
	if m == nil {
		m = &machine{}
	}
	f(m)
	if err := m.store(x.root); err != nil {
		x.t.Fatal(err)
	}
}

func (x *rig) machine() *machine {
	x.t.Helper()
	m, err := loadMachine(x.root)
	if err != nil {
		x.t.Fatal(err)
	}
	return m
}

func (x *rig) path(name string) string { return filepath.Join(x.root, "state", name) }

func (x *rig) open() {
	x.t.Helper()
	store, err := desired.Open(x.path("desired.json"), "edge-1", x.log)
	if err != nil {
		x.t.Fatal(err)
	}
	x.store = store
}

// configure puts a configuration into force.
func (x *rig) configure(os *protocol.OSInformation) {
	x.t.Helper()
	x.version++
	raw, err := json.Marshal(protocol.DeviceConfigurationMessage{
		DeviceID: "edge-1", Version: strconv.Itoa(x.version), Configuration: &protocol.DeviceConfiguration{OS: os},
	})
	if err == nil {
		err = x.store.Accept(raw)
	}
	if err != nil {
		x.t.Fatal(err)
	}
}

// want configures a commit of the repository that has all of them.
func (x *rig) want(commit string, auto bool) {
	x.t.Helper()
	x.configure(&protocol.OSInformation{CommitID: commit, HostedObjectsURL: x.url, AutomaticallyUpgrade: auto})
}

// passed counts the steps, and is where the power may be cut.
func (x *rig) passed(what string) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.dark {
		return errDark
	}
	x.steps++
	if x.steps == x.cut {
		x.dark = true
		return fmt.Errorf("%s: %w", what, errDark)
	}
	return nil
}

var errDark = errors.New("there is no power")

func (x *rig) record(what string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.did = append(x.did, what)
}

// done returns what was done before a reboot, and after, so far.
func (x *rig) done() []string {
	x.mu.Lock()
	defer x.mu.Unlock()
	return slices.Clone(x.did)
}

func (x *rig) task(name string) Task {
	return Task{Name: name, Timeout: 20 * time.Second, Run: func(ctx context.Context) error {
		if err := x.passed(name); err != nil {
			return err
		}
		x.record(name)
		return ctx.Err()
	}}
}

// start starts the agent's part.
func (x *rig) start() {
	x.t.Helper()
	target, err := NewHost(HostConfig{
		Root: x.root, Scratch: x.path("scratch"),
		// The race detector keeps every program for a second at its end.
		Env: []string{"GORACE=atexit_sleep_ms=0"},
	})
	if err != nil {
		x.t.Fatal(err)
	}
	cfg := x.cfg
	cfg.Desired, cfg.Path, cfg.Log = x.store, x.path("os-update.json"), x.log
	if cfg.Target == nil {
		cfg.Target = &cuttable{target, x.passed}
	}
	if cfg.Before == nil {
		cfg.Before = []Task{x.task("workloads"), x.task("sync"), x.task("heartbeat")}
	}
	cfg.Resume = func(context.Context) error { x.record("resume"); return nil }
	cfg.Reboot = func(context.Context) error {
		if err := x.passed("reboot"); err != nil {
			return err
		}
		x.mu.Lock()
		defer x.mu.Unlock()
		x.down = !x.stuck
		return nil
	}
	cfg.Healthy = func() (bool, string) {
		x.mu.Lock()
		defer x.mu.Unlock()
		return x.ill == "", x.ill
	}
	cfg.Event = func(e protocol.EventInfo) {
		x.mu.Lock()
		defer x.mu.Unlock()
		x.events = append(x.events, e.Reason)
	}
	cfg.GreenbootDir, cfg.Sysroot = filepath.Join(x.root, "greenboot"), filepath.Join(x.root, "sysroot")
	r, err := New(cfg)
	if err != nil {
		x.t.Fatal(err)
	}
	r.boot = func() (string, error) { return fmt.Sprintf("boot-%d", x.boot), nil }
	r.free = func(string) (uint64, error) { return 8 << 30, nil }
	save := r.save
	r.save = func(rec record) error { // the power may go just before and just after
		if err := x.passed("before " + string(rec.Phase)); err != nil {
			return err
		}
		if err := save(rec); err != nil {
			return err
		}
		return x.passed("after " + string(rec.Phase))
	}
	x.r = r
	ctx, cancel := context.WithCancel(x.t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	x.stop = func() {
		cancel()
		if err := <-done; err != nil {
			x.t.Error(err)
		}
		x.stop = func() {}
	}
}

// run lets the device run for that long, through all reboots that it asks for.
func (x *rig) run(d time.Duration) {
	x.t.Helper()
	for end := time.Now().Add(d); time.Now().Before(end); {
		time.Sleep(5 * time.Second)
		synctest.Wait()
		switch {
		case x.flag(&x.dark):
			x.reboot(false)
		case x.flag(&x.down):
			x.reboot(true)
		}
	}
}

func (x *rig) flag(f *bool) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return *f
}

// reboot is a reboot, in order or by a power cut.
func (x *rig) reboot(inOrder bool) {
	x.t.Helper()
	x.stop()
	x.change(func(m *machine) { m.reboot(inOrder) })
	x.boot++
	x.dark, x.down = false, false
	x.open()
	x.start()
}

// restart kills the agent's part and starts it again.
func (x *rig) restart() {
	x.t.Helper()
	x.stop()
	x.open()
	x.start()
}

func (x *rig) expect(what, booted, status string) {
	x.t.Helper()
	upgrade := x.r.Upgrade()
	if upgrade == nil {
		x.t.Fatalf("%s: nothing is reported: %+v", what, x.r.Status())
	}
	if got := x.machine().booted().ID; got != booted || upgrade.CurrentCommitID != booted || upgrade.LastUpgradeStatus != status {
		x.t.Errorf("%s: %s runs, want %s; reported %+v, want %q\n%+v", what, got, booted, *upgrade, status, x.r.Status())
	}
	if (upgrade.LastUpgradeTime == "") != (status == "") {
		x.t.Errorf("%s: reported %+v", what, *upgrade)
	}
}

// problem expects a problem with that in it; empty: none.
func (x *rig) problem(what, text string) {
	x.t.Helper()
	if got := x.r.Status().Problem; !strings.Contains(got, text) || (got == "") != (text == "") {
		x.t.Errorf("%s: problem %q, want %q", what, got, text)
	}
}

// cuttable is a Target at which the power may be cut.
type cuttable struct {
	Target
	passed func(string) error
}

func (c *cuttable) Read(ctx context.Context) (System, error) {
	if err := c.passed("read"); err != nil {
		return System{}, err
	}
	return c.Target.Read(ctx)
}

func (c *cuttable) Lookup(ctx context.Context, goal Goal) error {
	if err := c.passed("lookup"); err != nil {
		return err
	}
	return c.Target.Lookup(ctx, goal)
}

func (c *cuttable) Source(ctx context.Context, goal Goal) error {
	if err := c.passed("before source"); err != nil {
		return err
	}
	return errors.Join(c.Target.Source(ctx, goal), c.passed("after source"))
}

func (c *cuttable) Stage(ctx context.Context, goal Goal) error {
	if err := c.passed("before stage"); err != nil {
		return err
	}
	return errors.Join(c.Target.Stage(ctx, goal), c.passed("after stage"))
}
