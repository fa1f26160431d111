//go:build integration

package logs

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/project-flotta/flotta-agent/internal/containers"
	"github.com/project-flotta/flotta-agent/internal/desired"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

func journalContainer(workload, id string) containers.Container {
	return containers.Container{
		ID: id, Name: workload + "-app", Workload: workload, Container: "app", Running: true, LogDriver: "journald",
	}
}

// texts returns what arrived of a workload.
func (r *rsyslog) texts(workload string) []string {
	var all []string
	for _, m := range r.messages() {
		if m.App == workload {
			all = append(all, m.Text)
		}
	}
	return all
}

func expectTexts(t *testing.T, r *rsyslog, workload string, want ...string) {
	t.Helper()
	eventually(t, fmt.Sprintf("%d lines of %s", len(want), workload), func() bool { return len(r.texts(workload)) >= len(want) })
	if diff := cmp.Diff(want, r.texts(workload)); diff != "" {
		t.Fatalf("lines of %s (-want +got)\n%s", workload, diff)
	}
}

func (d *told) set(state desired.State) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.n++
	d.now = desired.NewSnapshot(state, fmt.Sprint(d.n))
}

// TestJournalBegins looks where reading begins: with the first line of a
// container that runs, and at the journal's end for one that is yet to come.
func TestJournalBegins(t *testing.T) {
	t.Parallel()
	r := newRsyslog(t, "tcp")
	r.start()
	j := startJournald(t, "64M", "16M")
	j.conmon("runs", "former")("of a former life", false)
	j.conmon("comes", "former2")("of a former life", false)
	eventually(t, "the journal has what was written before", func() bool {
		out, err := j.command(t.Context(), "--output=cat").Output()
		return err == nil && strings.Count(string(out), "of a former life") == 2
	})
	runs := j.conmon("runs", "c1")
	runs("before the agent", false)
	j.conmon("other", "c9")("of no workload of ours", false)

	i := newInventory(journalContainer("runs", "c1"))
	cfg := testConfig(t, newTold(collects(r.target("tcp"), "runs", "comes")), i)
	cfg.Journalctl = j.command
	_, stop := start(t, cfg)
	expectTexts(t, r, "runs", "before the agent")
	j.conmon("comes", "c2")("faster than the inventory", false)
	runs("a long ", true)
	runs("line", false)
	expectTexts(t, r, "comes", "faster than the inventory")
	expectTexts(t, r, "runs", "before the agent", "a long line")

	// What comes while the agent is down is not lost, nor what has no end.
	stop()
	runs("while it was down", false)
	runs("no end", true)
	_, stop = start(t, cfg)
	expectTexts(t, r, "runs", "before the agent", "a long line", "while it was down", "no end")
	stop()

	// A container is made anew under the same name.
	i.set(journalContainer("runs", "c3"))
	again := j.conmon("runs", "c3")
	again("of the next container", false)
	start(t, cfg)
	expectTexts(t, r, "runs", "before the agent", "a long line", "while it was down", "no end", "of the next container")
	for _, m := range r.messages() {
		if m.App == "other" {
			t.Errorf("a line of somebody else was sent: %+v", m)
		}
	}
}

// TestJournalIsVacuumed drops what was not read, which is told.
func TestJournalIsVacuumed(t *testing.T) {
	t.Parallel()
	r := newRsyslog(t, "tcp")
	r.start()
	j := startJournald(t, "4M", "1M")
	cfg := testConfig(t, newTold(collects(r.target("tcp"), "shop")), newInventory(journalContainer("shop", "c1")))
	cfg.Journalctl = j.command
	say := j.conmon("shop", "c1")
	say("first", false)
	_, stop := start(t, cfg)
	expectTexts(t, r, "shop", "first")
	stop()
	long := strings.Repeat("x", 1000)
	for i := range 20000 {
		say(fmt.Sprintf("%d %s%d", i, long, i), false)
	}
	say("last", false)
	e, _ := start(t, cfg)
	eventually(t, "the last line arrives", func() bool {
		got := r.texts("shop")
		return got[len(got)-1] == "last"
	})
	got := r.texts("shop")
	t.Logf("%d lines arrived", len(got))
	if got[0] != "first" || e.Status().Skipped != 1 {
		t.Errorf("%d lines, the first is %q, %d times something was skipped", len(got), got[0], e.Status().Skipped)
	}
	// From the oldest one that there was, none is missing.
	next := -1
	for _, text := range got[1 : len(got)-1] {
		var n int
		if _, err := fmt.Sscanf(text, "%d ", &n); err != nil || next >= 0 && n != next {
			t.Fatalf("after %d comes %.20q", next-1, text)
		}
		next = n + 1
	}
	if next != 20000 {
		t.Errorf("the last number is %d", next-1)
	}
}

// TestJournalctlDies kills it while lines come.
func TestJournalctlDies(t *testing.T) {
	t.Parallel()
	r := newRsyslog(t, "tcp")
	r.start()
	j := startJournald(t, "64M", "16M")
	cfg := testConfig(t, newTold(collects(r.target("tcp"), "shop")), newInventory(journalContainer("shop", "c1")))
	cfg.Journalctl = j.command
	start(t, cfg)
	say := j.conmon("shop", "c1")
	var want []string
	for i := range 3 {
		for k := range 100 {
			want = append(want, fmt.Sprintf("line %d", 100*i+k))
			say(want[len(want)-1], false)
		}
		expectTexts(t, r, "shop", want...)
		// By the mount namespace, which only this one shares with the journald.
		script := fmt.Sprintf(`for p in $(pgrep -x journalctl); do [ "$(readlink /proc/$p/ns/mnt)" = "$(readlink /proc/%d/ns/mnt)" ] && kill -KILL $p; done; true`, j.pid)
		if out, err := exec.Command("sh", "-c", script).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	want = append(want, "the last")
	say("the last", false)
	expectTexts(t, r, "shop", want...)
}

// TestUnknownTarget keeps the place of a container until there is its target.
func TestUnknownTarget(t *testing.T) {
	t.Parallel()
	r := newRsyslog(t, "tcp")
	r.start()
	j := startJournald(t, "64M", "16M")
	state := collects(r.target("tcp"), "shop")
	without := state
	without.LogCollection = map[string]protocol.LogsCollectionInformation{}
	d := newTold(state)
	i := newInventory(journalContainer("shop", "c1"))
	cfg := testConfig(t, d, i)
	cfg.Journalctl = j.command
	say := j.conmon("shop", "c1")
	say("one", false)
	_, stop := start(t, cfg)
	expectTexts(t, r, "shop", "one")
	stop()
	d.set(without)
	e, stop := start(t, cfg)
	eventually(t, "a problem says so", func() bool {
		p := e.Status().Problems
		return len(p) == 1 && p[0].Reason == reasonUnknown && strings.Contains(p[0].Message, `"main"`)
	})
	say("two", false)
	stop()
	d.set(state)
	start(t, cfg)
	expectTexts(t, r, "shop", "one", "two")
}

// TestWorkloadGoes delivers what a workload writes while it is ended.
func TestWorkloadGoes(t *testing.T) {
	t.Parallel()
	r := newRsyslog(t, "tcp")
	r.start()
	j := startJournald(t, "64M", "16M")
	dir := t.TempDir()
	file := fileContainer(dir, "files", "c2")
	state := collects(r.target("tcp"), "shop", "files")
	d := newTold(state)
	i := newInventory(journalContainer("shop", "c1"), file)
	cfg := testConfig(t, d, i)
	cfg.Journalctl = j.command
	say := j.conmon("shop", "c1")
	say("line 0", false)
	write(t, file.LogPath, 0, 1)
	_, stop := start(t, cfg)
	expectTexts(t, r, "shop", "line 0")
	expectTexts(t, r, "files", "line 0")
	stop()
	state.Workloads = nil
	d.set(state)
	say("line 1", false)
	write(t, file.LogPath, 1, 2)
	start(t, cfg)
	expectTexts(t, r, "shop", "line 0", "line 1")
	expectTexts(t, r, "files", "line 0", "line 1")
	write(t, file.LogPath, 2, 3)
	if err := os.Remove(file.LogPath); err != nil {
		t.Fatal(err)
	}
	i.set()
	expectTexts(t, r, "files", "line 0", "line 1", "line 2")
	eventually(t, "its place is forgotten", func() bool {
		p, _, err := loadPlaces(cfg.Dir)
		return err == nil && len(p.Files) == 0
	})
}

// TestFullDisk has no room for a spool, and then again some: reading waits.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	r := newRsyslog(t, "tcp")
	dir := t.TempDir()
	c := fileContainer(dir, "files", "c1")
	cfg := testConfig(t, newTold(collects(r.target("tcp"), "files")), newInventory(c))
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", cfg.Dir, "tmpfs", 0, "size=256k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(cfg.Dir, syscall.MNT_DETACH) })
	const lines = 20000
	write(t, c.LogPath, 0, lines)
	e, _ := start(t, cfg)
	eventually(t, "a problem says that the disk is full", func() bool {
		for _, p := range e.Status().Problems {
			if p.Reason == reasonSpool && strings.Contains(p.Message, "no space left") {
				return true
			}
		}
		return false
	})
	if err := syscall.Mount("", cfg.Dir, "", syscall.MS_REMOUNT, "size=64m"); err != nil {
		t.Fatal(err)
	}
	r.start()
	eventually(t, "everything arrives", func() bool {
		got := r.messages()
		return len(got) > 0 && got[len(got)-1].Text == fmt.Sprintf("line %d", lines-1)
	})
	t.Logf("%d lines came again", complete(t, numbers(t, r.messages()), lines))
	eventually(t, "no problem is left", func() bool { return len(e.Status().Problems) == 0 })
}

// TestDamagedPlaces reads again what there is, and says so.
func TestDamagedPlaces(t *testing.T) {
	t.Parallel()
	r := newRsyslog(t, "tcp")
	r.start()
	j := startJournald(t, "64M", "16M")
	dir := t.TempDir()
	file := fileContainer(dir, "files", "c2")
	cfg := testConfig(t, newTold(collects(r.target("tcp"), "shop", "files")), newInventory(journalContainer("shop", "c1"), file))
	cfg.Journalctl = j.command
	j.conmon("shop", "c1")("one", false)
	write(t, file.LogPath, 0, 1)
	_, stop := start(t, cfg)
	expectTexts(t, r, "shop", "one")
	expectTexts(t, r, "files", "line 0")
	stop()
	if err := os.WriteFile(placesPath(cfg.Dir), []byte("rubbish"), 0o600); err != nil {
		t.Fatal(err)
	}
	var told atomic.Int32
	cfg.Event = func(e protocol.EventInfo) {
		if e.Reason == reasonPlaces {
			told.Add(1)
		}
	}
	start(t, cfg)
	expectTexts(t, r, "shop", "one", "one")
	expectTexts(t, r, "files", "line 0", "line 0")
	if n := told.Load(); n != 1 {
		t.Errorf("it was told %d times", n)
	}
}
