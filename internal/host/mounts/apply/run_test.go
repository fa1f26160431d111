package apply

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/project-flotta/flotta-agent/internal/desired"
	"github.com/project-flotta/flotta-agent/internal/durable"
	"github.com/project-flotta/flotta-agent/internal/host/mounts"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// running is a Reconciler that runs in a bubble, on a world in memory.
type running struct {
	check
	m *memory
	r *Reconciler

	current atomic.Pointer[desired.Snapshot]
	wake    chan struct{}
	events  []string
}

func (r *running) Current() *desired.Snapshot { return r.current.Load() }

func run(t *testing.T, f func(r *running)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		m := newMemory(t)
		r := &running{check: check{t, m}, m: m, wake: make(chan struct{})}
		r.current.Store(desired.NewSnapshot(desired.State{}, ""))
		r.r = m.reconciler(r, 0)
		r.r.cfg.Event = func(e protocol.EventInfo) {
			defer m.lock()()
			r.events = append(r.events, e.Reason)
		}
		r.r.kernel.watch = func(ctx context.Context, changed func()) error {
			for {
				changed()
				select {
				case <-r.wake:
				case <-ctx.Done():
					return nil
				}
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- r.r.Run(ctx) }()
		synctest.Wait()
		f(r)
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("it ended with %v", err)
		}
	})
}

// pass lets that much time pass.
func (r *running) pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func (r *running) configure(list ...protocol.Mount) {
	r.current.Store(desired.NewSnapshot(desired.State{Mounts: list}, "digest"))
}

// seen is how often a mount was looked at closely.
func (r *running) seen() int {
	defer r.m.lock()()
	return r.m.looks
}

// told are the reasons of the events so far.
func (r *running) told() []string {
	defer r.m.lock()()
	return slices.Clone(r.events)
}

func (r *running) problem() string { return strings.Join(r.r.Problems(), "; ") }

func TestRunNoticesDevices(t *testing.T) {
	t.Parallel()
	run(t, func(r *running) {
		a := r.folder("a")
		r.unplug("ext4")
		r.configure(r.ext4(a, ""))
		changed := r.r.Changed()
		r.pass(time.Minute)
		if !strings.Contains(r.problem(), "is not there") {
			t.Fatalf("problem %q", r.problem())
		}
		select {
		case <-changed:
		default:
			t.Error("nobody was told")
		}
		looks := r.seen()
		r.pass(50 * time.Second)
		if r.seen() != looks {
			t.Errorf("it looked at everything %d times for a device that is not there", r.seen()-looks)
		}
		r.plug("ext4")
		r.pass(devicePoll)
		r.is(a, "ext4")
		if r.problem() != "" {
			t.Errorf("problem %q", r.problem())
		}
		// It goes with a change of the table, which is told.
		r.unplug("ext4")
		r.wake <- struct{}{}
		synctest.Wait()
		if !strings.Contains(r.problem(), "is not there") {
			t.Errorf("problem %q", r.problem())
		}
		if want := []string{ReasonNoDevice, reasonMounted, ReasonNoDevice}; !slices.Equal(r.told(), want) {
			t.Errorf("events %q, want %q", r.told(), want)
		}
	})
}

func TestRunLooksSeldom(t *testing.T) {
	t.Parallel()
	run(t, func(r *running) {
		a := r.folder("a")
		r.configure(r.ext4(a, ""))
		r.pass(time.Minute)
		r.is(a, "ext4")
		looks := r.seen()
		// Others mount and unmount all the time.
		for range 100 {
			r.wake <- struct{}{}
			synctest.Wait()
		}
		if r.seen() != looks {
			t.Errorf("it looked at everything %d times", r.seen()-looks)
		}
		r.pass(10 * time.Minute)
		if n := r.seen() - looks; n < 9 || n > 11 {
			t.Errorf("it looked at everything %d times in 10 minutes", n)
		}
		// By hand, and told.
		r.unmount(a)
		r.wake <- struct{}{}
		synctest.Wait()
		r.is(a, "ext4")
	})
}

func TestRunRepeatsWhatFails(t *testing.T) {
	t.Parallel()
	run(t, func(r *running) {
		a := r.folder("a")
		wrong := protocol.Mount{Device: r.disk("ext4"), Directory: a, Type: "xfs"}
		r.configure(wrong)
		r.pass(time.Hour)
		r.m.mu.Lock()
		n := r.m.starts
		r.m.mu.Unlock()
		if n < 12 || n > 30 {
			t.Errorf("%d attempts in an hour", n)
		}
		if want := []string{ReasonFailed}; !slices.Equal(r.told(), want) {
			t.Errorf("events %q, want %q", r.told(), want)
		}
		r.m.mu.Lock()
		r.m.kinds[r.m.numbers[r.disk("ext4")]] = "xfs"
		r.m.mu.Unlock()
		r.pass(longPause)
		r.is(a, "xfs")
		if len(r.r.attempts) != 0 {
			t.Errorf("it remembers %v", r.r.attempts)
		}
	})
}

func TestNothingWhileUnmanaged(t *testing.T) {
	t.Parallel()
	for name, s := range map[string]*desired.Snapshot{
		"nothing told": desired.NewSnapshot(desired.State{}, ""),
		"leaving":      desired.NewSnapshot(desired.State{Leaving: true}, "digest"),
		"withdrawn":    desired.NewSnapshot(desired.State{Withdrawn: true}, "digest"),
	} {
		c := check{t, newMemory(t)}
		a := c.folder("a")
		c.good(c.ext4(a, ""))
		r := c.world.(*memory).reconciler(told{s}, 0)
		r.round(t.Context(), s, true)
		if c.is(a, "ext4"); c.unit(a) == "" {
			t.Errorf("%s: the unit is gone", name)
		}
	}
}

func TestReadOnlyIsSaid(t *testing.T) {
	t.Parallel()
	m := newMemory(t)
	c := check{t, m}
	a := c.folder("a")
	c.good(c.ext4(a, ""))
	m.table[0].FSOptions = "ro,errors=remount-ro"
	status := c.all(c.ext4(a, ""))
	if s := status.Mounts[0]; s.Reason != ReasonReadOnly || !s.Mounted || !strings.Contains(s.Message, "fsck") {
		t.Errorf("status %+v", s)
	}
	m.table[0].Options = "ro,nosuid,nodev"
	m.edit(a, "Options=", "Options=ro,")
	c.good(c.ext4(a, "ro"))
	// Nobody wonders about a file system that is never written to.
	number := m.numbers[m.disk("other")]
	m.kinds[number] = "squashfs"
	b := c.folder("b")
	image := protocol.Mount{Device: m.disk("other"), Directory: b, Type: "squashfs"}
	c.good(c.ext4(a, "ro"), image)
	m.table[1].FSOptions = "ro"
	c.good(c.ext4(a, "ro"), image)
}

// TestHeldDeviceVanishes: what somebody holds stays, although its device is
// gone, until that has ended; and a device that comes back under another number
// is mounted then.
func TestHeldDeviceVanishes(t *testing.T) {
	t.Parallel()
	m := newMemory(t)
	c := check{t, m}
	a := c.folder("a")
	c.good(c.ext4(a, ""))
	release := c.hold(a)
	c.unplug("ext4")
	c.bad(a, ReasonBusy, []string{"sleep (process 1)"}, c.ext4(a, ""))
	m.numbers[c.disk("ext4")] = "7:9"
	m.kinds["7:9"] = "ext4"
	c.plug("ext4")
	c.bad(a, ReasonBusy, nil, c.ext4(a, ""))
	release()
	c.good(c.ext4(a, ""))
	if top, _ := at(m.table, a); top.Number != "7:9" {
		t.Errorf("mounted is %+v", top)
	}
	// Its name alone goes, or names another disk.
	m.numbers["/dev/loop9"], m.plugged["/dev/loop9"] = "7:9", true
	c.unplug("ext4") // which takes the mount along
	m.byHand("ext4", a)
	c.bad(a, ReasonNoDevice, []string{"until the next boot"}, c.ext4(a, ""))
	m.numbers[c.disk("ext4")] = "7:2"
	c.plug("ext4")
	c.bad(a, ReasonConflict, nil, c.ext4(a, ""))
	c.bad(a, ReasonConflict, nil, c.ext4(a, "noatime"))
	// And what is in place of a mount that is configured no more, is not ours.
	c.good()
	c.isOn(a, "7:9")
}

func (c check) isOn(dir, number string) {
	c.Helper()
	if top, _ := at(c.world.(*memory).table, dir); top.Number != number {
		c.Errorf("at %s: %+v, want %s", dir, top, number)
	}
}

// TestFolderIsRefusedLater: what is mounted behind a link stays when its folder
// is no longer one at which something may be mounted.
func TestFolderIsRefusedLater(t *testing.T) {
	t.Parallel()
	m := newMemory(t)
	c := check{t, m}
	must(t, os.Mkdir(c.folder("real"), 0o755))
	must(t, os.Symlink("real", c.folder("link")))
	inLink, inReal := c.folder("link/x"), c.folder("real/x")
	if s := c.all(c.ext4(inLink, "")); !s.Mounts[0].Mounted {
		t.Fatalf("status %+v", s)
	}
	c.is(inReal, "ext4")
	must(t, os.Chmod(c.folder("real"), 0o777))
	c.bad(inLink, ReasonRefused, []string{"chmod"}, c.ext4(inLink, ""))
	c.is(inReal, "ext4")
	// And where the way to it can no longer be followed, but its name is known.
	c.bad(inReal, ReasonRefused, []string{"chmod"}, c.ext4(inReal, ""))
	c.is(inReal, "ext4")
}

// TestSaidOnce: of two entries that look alike, each is spoken of once.
func TestSaidOnce(t *testing.T) {
	t.Parallel()
	m := newMemory(t)
	c := check{t, m}
	a, b := c.folder("a"), c.folder("b")
	var source told
	r := m.reconciler(&source, 0)
	var events []string
	r.cfg.Event = func(e protocol.EventInfo) { events = append(events, e.Reason) }
	for _, list := range [][]protocol.Mount{
		{c.ext4(a, ""), c.ext4(a, "")},
		{c.ext4(a, ""), c.ext4(a, ""), c.xfs(b, "")},
		{c.ext4(a, ""), c.ext4(a, "")},
	} {
		source = configured(list...)
		r.round(t.Context(), source.Current(), true)
	}
	if want := []string{reasonMounted, ReasonRefused, reasonMounted, reasonUnmounted}; !slices.Equal(events, want) {
		t.Errorf("events %q, want %q", events, want)
	}
}

// TestUnitsThatNeedIt: systemd would stop them together with the mount.
func TestUnitsThatNeedIt(t *testing.T) {
	t.Parallel()
	m := newMemory(t)
	c := check{t, m}
	a := c.folder("a")
	c.good(c.ext4(a, ""))
	m.needed[unitName(a)] = []string{"old.service", "db.service"}
	m.states["old.service"], m.states["db.service"] = "inactive", "active"
	c.bad(a, ReasonBusy, []string{"the unit db.service"})
	c.is(a, "ext4")
	m.states["db.service"] = "failed"
	c.good()
	c.clean()
}

// TestSystemIsAway: without systemd nothing happens, and that is said.
func TestSystemIsAway(t *testing.T) {
	t.Parallel()
	m := newMemory(t)
	c := check{t, m}
	a := c.folder("a")
	c.good(c.ext4(a, ""))
	source := configured(c.ext4(a, "noatime"))
	r := m.reconciler(source, 0)
	r.kernel.table = func() ([]mounts.Mount, error) { return nil, errors.New("no table") }
	r.round(t.Context(), source.Current(), true)
	if p := r.Problems(); len(p) != 1 || !strings.Contains(p[0], "no table") {
		t.Errorf("problems %q", p)
	}
	c.is(a, "ext4")
	c.good(c.ext4(a, ""))
}

func TestLeftoversAreSwept(t *testing.T) {
	t.Parallel()
	m := newMemory(t)
	path := filepath.Join(m.units, durable.TempPrefix+"1")
	must(t, os.WriteFile(path, nil, 0o600))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	must(t, m.reconciler(configured(), 0).Run(ctx))
	if _, err := os.Stat(path); err == nil {
		t.Error("what a crash left is still there")
	}
}

// TestUnitCannotBeWritten: then nothing is mounted, and that is said.
func TestUnitCannotBeWritten(t *testing.T) {
	t.Parallel()
	m := newMemory(t)
	c := check{t, m}
	a := c.folder("a")
	source := configured(c.ext4(a, ""))
	r := m.reconciler(source, 0)
	r.cfg.UnitDir = filepath.Join(m.units, "none")
	r.round(t.Context(), source.Current(), true)
	if p := strings.Join(r.Problems(), ";"); !strings.Contains(p, "unit of the mount") {
		t.Errorf("problems %q", p)
	}
	c.nothing(a)
	c.clean()
}

// TestWatchIsRepeated: without word of mounts, it looks at every resync, and
// tries to get word again.
func TestWatchIsRepeated(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := newMemory(t)
		c := check{t, m}
		a := c.folder("a")
		r := m.reconciler(configured(c.ext4(a, "")), 0)
		watches := 0
		r.kernel.watch = func(context.Context, func()) error {
			watches++
			return errors.New("no watch")
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- r.Run(ctx) }()
		synctest.Wait()
		c.is(a, "ext4")
		c.unmount(a)
		time.Sleep(5*time.Minute + time.Second)
		synctest.Wait()
		c.is(a, "ext4")
		cancel()
		if err := <-ended; err != nil || watches != 6 {
			t.Errorf("it ended with %v after %d watches, want 6", err, watches)
		}
	})
}
