package apply

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/project-flotta/flotta-agent/internal/desired"
	"github.com/project-flotta/flotta-agent/internal/host/mounts"
	"github.com/project-flotta/flotta-agent/internal/systemd"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// memory is a world without root: systemd and the kernel's mounts are in
// memory; unit files and folders are real.
type memory struct {
	t     *testing.T
	root  string // folders are below it
	units string // unit folder

	mu      sync.Mutex
	numbers map[string]string // of the disks, by path
	kinds   map[string]string // file systems on the disks, by number
	plugged map[string]bool   // by path
	table   []mounts.Mount
	count   int               // of mounts ever
	loaded  map[string]string // text of a unit, as of the last reload
	enabled map[string]bool
	held    map[string]bool // folders
	lines   []string        // of fstab
	said    map[string]string
	states  map[string]string // of units that are no mounts
	needed  map[string][]string
	starts  int // how often something was started
	looks   int // how often a mount was looked at closely
}

func newMemory(t *testing.T) *memory {
	m := &memory{
		t: t, root: t.TempDir(), units: t.TempDir(), numbers: map[string]string{}, kinds: map[string]string{}, plugged: map[string]bool{},
		loaded: map[string]string{}, enabled: map[string]bool{}, held: map[string]bool{}, said: map[string]string{},
		states: map[string]string{}, needed: map[string][]string{},
	}
	if seen, err := filepath.EvalSymlinks(m.root); err == nil {
		m.root = seen
	}
	for i, name := range []string{"ext4", "xfs", "other"} {
		path, number := m.disk(name), fmt.Sprintf("7:%d", i)
		m.numbers[path], m.plugged[path], m.kinds[number] = number, true, strings.ReplaceAll(name, "other", "ext4")
	}
	return m
}

func (m *memory) disk(name string) string   { return "/dev/disk/by-label/" + name }
func (m *memory) folder(name string) string { return filepath.Join(m.root, name) }

// lock is to be called and deferred at once: it returns what unlocks.
func (m *memory) lock() func() {
	m.mu.Lock()
	return m.mu.Unlock
}

func (m *memory) plug(name string) {
	defer m.lock()()
	m.plugged[m.disk(name)] = true
}

// unplug does what systemd does when a device goes: it unmounts.
func (m *memory) unplug(name string) {
	defer m.lock()()
	delete(m.plugged, m.disk(name))
	m.table = slices.DeleteFunc(m.table, func(e mounts.Mount) bool { return e.Number == m.numbers[m.disk(name)] && !m.held[e.Directory] })
}

func (m *memory) hold(dir string) func() {
	defer m.lock()()
	m.held[dir] = true
	return func() {
		defer m.lock()()
		delete(m.held, dir)
	}
}

func (m *memory) byHand(disk, dir string) {
	defer m.lock()()
	number := m.numbers[m.disk(disk)]
	m.add(m.disk(disk), dir, number, m.kinds[number], "rw")
}

func (m *memory) add(device, dir, number, kind, options string) {
	m.count++
	m.table = append(m.table, mounts.Mount{
		Source: device, Directory: dir, Type: kind, Number: number, Root: "/", Options: options, FSOptions: "rw", Shared: fmt.Sprint(m.count),
	})
}

func (m *memory) byUnit(disk, dir string) {
	text := "# by somebody\n[Mount]\nWhat=" + m.disk(disk) + "\n"
	m.must(os.WriteFile(filepath.Join(m.units, unitName(dir)), []byte(text), 0o600))
	m.must(m.Reload(m.t.Context()))
	m.byHand(disk, dir)
}

func (m *memory) fstab(dir string) {
	defer m.lock()()
	m.lines = append(m.lines, "/dev/sdz1\t"+strings.ReplaceAll(dir, " ", `\040`)+"\text4 defaults 0 0")
}

func (m *memory) unmount(dir string) {
	defer m.lock()()
	for i, e := range slices.Backward(m.table) {
		if e.Directory == dir {
			m.table = slices.Delete(m.table, i, i+1)
			return
		}
	}
	m.t.Fatalf("nothing is mounted at %s", dir)
}

func (m *memory) edit(dir, old, text string) {
	path := filepath.Join(m.units, unitName(dir))
	raw, err := os.ReadFile(path)
	m.must(err)
	if !strings.Contains(string(raw), old) {
		m.t.Fatalf("%s does not hold %s", path, old)
	}
	m.must(os.WriteFile(path, []byte(strings.ReplaceAll(string(raw), old, text)), 0o600))
	m.must(m.Reload(m.t.Context()))
}

func (m *memory) reboot() {
	m.mu.Lock()
	m.table, m.held = nil, map[string]bool{}
	m.mu.Unlock()
	m.must(m.Reload(m.t.Context()))
	var names []string
	for name := range m.enabled {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		_ = m.Start(m.t.Context(), name)
	}
}

func (m *memory) must(err error) {
	m.t.Helper()
	if err != nil {
		m.t.Fatal(err)
	}
}

// kernel is what the Reconciler sees of it.
func (m *memory) kernel() kernel {
	return kernel{
		table: func() ([]mounts.Mount, error) {
			defer m.lock()()
			return slices.Clone(m.table), nil
		},
		watch: func(ctx context.Context, changed func()) error {
			changed()
			<-ctx.Done()
			return nil
		},
		device: func(path string) (string, error) {
			defer m.lock()()
			switch {
			case path == "/dev/null" || path == "/dev/zero":
				return "", errors.New("it is not a block device")
			case m.plugged[path]:
				return m.numbers[path], nil
			}
			return "", errAbsent
		},
		present: func(number string) bool {
			defer m.lock()()
			for path, n := range m.numbers {
				if n == number && m.plugged[path] {
					return true
				}
			}
			return false
		},
		filesystem: filesystems{known: "testdata/filesystems", modules: "testdata"}.check,
		fstab: func() []string {
			defer m.lock()()
			m.looks++
			return fstab([]byte(strings.Join(m.lines, "\n")))
		},
		holders: func(e mounts.Mount, table []mounts.Mount) []string {
			defer m.lock()()
			out := holdersIn("testdata/none")(e, table)
			if m.held[e.Directory] {
				out = append(out, "sleep (process 1)")
			}
			return out
		},
		rules: func(Config) rules { return rules{allowed: []string{m.root}, protected: []string{"/etc", "/usr"}} },
	}
}

// killedHere ends a life at a step.
type killedHere struct{}

func (m *memory) reconciler(source Desired, kill int) *Reconciler {
	r, err := New(Config{Desired: source, Manager: m, Log: slog.New(slog.DiscardHandler), UnitDir: m.units, Before: "user@1000.service"})
	m.must(err)
	r.kernel = m.kernel()
	steps := 0
	r.step = func(string) {
		if steps++; steps == kill {
			panic(killedHere{})
		}
	}
	return r
}

type told struct{ snapshot *desired.Snapshot }

func (f told) Current() *desired.Snapshot { return f.snapshot }

func configured(list ...protocol.Mount) told {
	return told{desired.NewSnapshot(desired.State{Mounts: list}, "digest")}
}

func (m *memory) live(kill int, source Desired, f func(r *Reconciler)) (died bool) {
	defer func() {
		if p := recover(); p != nil {
			if _, expected := p.(killedHere); !expected {
				panic(p)
			}
			died = true
		}
	}()
	f(m.reconciler(source, kill))
	return false
}

func (m *memory) apply(kill int, list ...protocol.Mount) (status Status, died bool) {
	source := configured(list...)
	died = m.live(kill, source, func(r *Reconciler) {
		r.round(m.t.Context(), source.Current(), true)
		status = r.Status()
	})
	return status, died
}

func (m *memory) clear(kill int) (died bool, err error) {
	died = m.live(kill, configured(), func(r *Reconciler) { err = r.Clear(m.t.Context()) })
	return died, err
}

func (m *memory) mounted(dir string) string {
	defer m.lock()()
	top, n := at(m.table, dir)
	if n == 0 {
		return ""
	}
	return fmt.Sprintf("%s %s #%s", top.Type, top.Options, top.Shared)
}

func (m *memory) unit(dir string) string {
	text, _ := os.ReadFile(filepath.Join(m.units, unitName(dir)))
	return string(text)
}

func (m *memory) remains() string {
	defer m.lock()()
	var b strings.Builder
	for _, e := range m.table {
		fmt.Fprintf(&b, "%s at %s\n", e.Source, e.Directory)
	}
	entries, err := os.ReadDir(m.units)
	m.must(err)
	for _, e := range entries {
		b.WriteString(e.Name() + "\n")
	}
	for name := range m.enabled {
		b.WriteString(name + " is enabled\n")
	}
	return b.String()
}

// From here on, it is systemd.

func (m *memory) Unit(_ context.Context, name string) (systemd.Unit, error) {
	defer m.lock()()
	u := systemd.Unit{UnitStatus: systemd.UnitStatus{Name: name, ActiveState: "inactive"}, NeededBy: m.needed[name]}
	if state, other := m.states[name]; other {
		u.ActiveState = state
		return u, nil
	}
	if _, n := at(m.table, whereOf(name)); n > 0 {
		u.ActiveState = "active"
	}
	text, loaded := m.loaded[name]
	if !loaded && u.ActiveState == "inactive" {
		return u, systemd.ErrNotFound
	}
	if loaded {
		u.Fragment = filepath.Join(m.units, name)
	}
	u.FileState = "disabled"
	if m.enabled[name] {
		u.FileState = "enabled"
	}
	disk, _ := os.ReadFile(filepath.Join(m.units, name))
	u.NeedReload = string(disk) != text
	return u, nil
}

func (m *memory) Start(_ context.Context, name string) error {
	defer m.lock()()
	m.starts++
	u, ok := parse([]byte(m.loaded[name]))
	if !ok {
		return systemd.ErrNotFound
	}
	if _, n := at(m.table, whereOf(name)); n > 0 {
		return nil
	}
	number := m.numbers[u.device]
	switch {
	case !m.plugged[u.device]:
		return &systemd.JobError{Unit: name, Result: "timeout"}
	case m.kinds[number] != u.kind:
		m.said[name] = "mount: wrong fs type, bad option, bad superblock"
		return &systemd.JobError{Unit: name, Result: "failed"}
	}
	options := strings.ReplaceAll(u.options, ",nofail", "")
	m.add(u.device, u.where, number, u.kind, options)
	return nil
}

func (m *memory) Stop(_ context.Context, name string) error {
	defer m.lock()()
	dir := whereOf(name)
	if m.held[dir] {
		return &systemd.JobError{Unit: name, Result: "failed"}
	}
	for i, e := range slices.Backward(m.table) {
		if e.Directory == dir {
			m.table = slices.Delete(m.table, i, i+1)
			break
		}
	}
	return nil
}

func (m *memory) Enable(ctx context.Context, names ...string) error {
	for _, name := range names {
		if _, err := os.Stat(filepath.Join(m.units, name)); err != nil {
			return err
		}
		m.mu.Lock()
		m.enabled[name] = true
		m.mu.Unlock()
	}
	return m.Reload(ctx)
}

func (m *memory) Disable(ctx context.Context, names ...string) error {
	for _, name := range names {
		m.mu.Lock()
		delete(m.enabled, name)
		m.mu.Unlock()
	}
	return m.Reload(ctx)
}

func (m *memory) Reload(context.Context) error {
	defer m.lock()()
	m.loaded = map[string]string{}
	entries, err := os.ReadDir(m.units)
	for _, e := range entries {
		text, _ := os.ReadFile(filepath.Join(m.units, e.Name()))
		m.loaded[e.Name()] = string(text)
	}
	return err
}

func (m *memory) ResetFailed(context.Context, string) error { return nil }

func (m *memory) Output(_ context.Context, name string, _ time.Time, _ int) ([]string, error) {
	return []string{m.said[name]}, nil
}

func TestScenariosInMemory(t *testing.T) {
	t.Parallel()
	for name, scenario := range scenarios() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			scenario(check{t, newMemory(t)})
		})
	}
}
