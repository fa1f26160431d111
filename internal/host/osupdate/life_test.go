package osupdate

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// inBubble runs f with a device that runs commit old and was told so.
func inBubble(t *testing.T, f func(t *testing.T, x *rig, c commits)) {
	t.Helper()
	inBubbleWith(t, newCommits(t), f)
}

func inBubbleWith(t *testing.T, c commits, f func(t *testing.T, x *rig, c commits)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		x := newRig(t, c)
		x.start()
		defer func() { x.stop() }()
		x.run(10 * time.Second)
		f(t, x, c)
	})
}

func TestUpgrade(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, x *rig, c commits) {
		x.expect("at first", c.old, "")
		changed := x.r.Changed()
		x.want(c.new, true)
		time.Sleep(time.Second)
		select {
		case <-changed:
		default:
			t.Error("nobody is told that something has changed")
		}
		x.run(20 * time.Second)
		x.expect("booted, and not known to work", c.new, "")
		x.run(time.Minute)
		x.expect("in the end", c.new, "succeeded")
		x.problem("in the end", "")
		if diff := cmp.Diff([]string{"workloads", "sync", "heartbeat", "resume"}, x.done()); diff != "" {
			t.Errorf("what was done (-want +got):\n%s", diff)
		}
		want := []string{reasonStaged, reasonRebooting, reasonBooted, reasonSucceeded}
		if diff := cmp.Diff(want, x.events); diff != "" {
			t.Errorf("events (-want +got):\n%s", diff)
		}
		if got := read(t, x.root+"/"+remotesDir+"/edge.conf"); got != "# by hand\n[remote \"edge\"]\ngpg-verify=false\nurl="+x.url+"\n" {
			t.Errorf("the remote is\n%s", got)
		}
		x.want(c.old, true) // a downgrade is the same path
		x.run(2 * time.Minute)
		x.expect("after the downgrade", c.old, "succeeded")
		calls := x.steps
		x.run(50 * time.Minute)
		if x.steps > calls+1 {
			t.Errorf("%d steps were taken while there was nothing to do", x.steps-calls)
		}
	})
}

// TestPowerCuts cuts the power once at every step that an update takes (every
// third one, without the build tag integration), and looks at what runs
// afterwards: always one of two good states, and in the end the
// wanted one.
func TestPowerCuts(t *testing.T) {
	t.Parallel()
	atEveryStep(t, 0, func(x *rig, c commits) {
		x.reboot(false)
		if id := x.machine().booted().ID; id != c.old && id != c.new {
			x.t.Errorf("after the cut, %s runs", id)
		}
	})
}

// TestKills kills the agent at every step, while the machine runs on.
func TestKills(t *testing.T) {
	t.Parallel()
	atEveryStep(t, 1, func(x *rig, _ commits) {
		x.stop()
		x.dark = false
		x.restart()
	})
}

// atEveryStep makes an update once for every step of it, and has it interrupted
// at that step. Whatever is done then before a reboot has to be undone.
func atEveryStep(t *testing.T, first int, interrupt func(x *rig, c commits)) {
	t.Helper()
	cut, all := first%stride+1-stride, newCommits(t)
	for reached := true; reached; {
		cut += stride
		inBubbleWith(t, all, func(t *testing.T, x *rig, c commits) {
			x.mu.Lock()
			x.cut, x.steps = cut, 0
			x.mu.Unlock()
			x.want(c.new, true)
			for reached = false; !reached && x.r.Status().LastStatus == ""; {
				time.Sleep(time.Second)
				synctest.Wait()
				switch {
				case x.flag(&x.dark):
					reached = true
					interrupt(x, c)
				case x.flag(&x.down):
					x.reboot(true)
				}
			}
			x.run(20 * time.Minute)
			x.expect("after all", c.new, "succeeded")
			x.problem("after all", "")
			if n := len(x.done()); n > 0 && x.done()[n-1] != "resume" {
				t.Errorf("what was done before the reboot is not undone: %v", x.done())
			}
			if boots := x.boot; boots > 3 {
				t.Errorf("the machine was booted %d times", boots)
			}
		})
		if t.Failed() {
			t.Fatalf("interrupted at step %d", cut)
		}
	}
	t.Logf("interrupted at steps up to %d", cut-stride)
	if cut < 40 {
		t.Errorf("there were only %d steps", cut)
	}
}

func TestHeldBack(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, x *rig, c commits) {
		x.want(c.new, false)
		x.run(3 * time.Hour)
		x.expect("staged", c.old, "")
		s := x.r.Status()
		if s.Next != c.new || !strings.Contains(s.Note, "somebody has to ask for") || len(x.done()) != 0 {
			t.Errorf("status %+v, did %v", s, x.done())
		}
		x.reboot(false) // the power is cut: what was staged is gone
		x.run(time.Minute)
		if s := x.r.Status(); s.Next != c.new {
			t.Errorf("not staged again: %+v", s)
		}
		x.reboot(true) // by hand
		x.run(time.Minute)
		x.expect("rebooted by hand", c.new, "succeeded")
		x.want(c.newer, false)
		x.run(time.Minute)
		x.want(c.newer, true) // released
		x.run(2 * time.Minute)
		x.expect("released", c.newer, "succeeded")
	})
}

func TestWantedNoMore(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, x *rig, c commits) {
		x.want(c.new, false)
		x.run(time.Minute)
		x.want(c.old, false)
		x.run(time.Minute)
		if m := x.machine(); len(m.Deployments) != 1 || x.r.Status().Next != "" {
			t.Errorf("it is still staged: %+v", x.r.Status())
		}
		x.change(func(m *machine) { m.stage(c.new) }) // by somebody else
		x.want(c.newer, false)
		x.run(time.Minute)
		x.change(func(m *machine) { m.stage(c.new) })
		x.configure(nil)
		x.run(time.Minute)
		if next := x.machine().Deployments[0].ID; next != c.new {
			t.Errorf("what somebody else has staged is gone: %s is next", next)
		}
	})
}

func TestGreenbootRollsBack(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, x *rig, c commits) {
		x.want(c.new, true)
		x.run(15 * time.Second)
		if got := x.machine().booted().ID; got != c.new {
			t.Fatalf("%s runs", got)
		}
		x.red()
		x.run(time.Minute)
		x.expect("red", c.new, "")
		x.change(func(m *machine) { m.rollback() })
		x.reboot(true)
		x.run(24 * time.Hour)
		x.expect("rolled back", c.old, "failed")
		x.problem("rolled back", "greenboot found it red")
		if n := strings.Count(strings.Join(x.done(), " "), "heartbeat"); n != 1 {
			t.Errorf("it was tried %d times", n)
		}
		x.restart()
		x.reboot(false)
		x.run(time.Hour)
		x.expect("later", c.old, "failed")
		x.want(c.new, false) // nothing else than before, but for the reboot
		x.run(time.Hour)
		x.problem("still", "not tried again")
		x.want(c.newer, true)
		x.run(5 * time.Minute)
		x.expect("another one", c.newer, "succeeded")
		x.problem("another one", "")
	})
}

// red leaves the note that greenboot's script leaves.
func (x *rig) red() {
	x.t.Helper()
	boot, _ := x.r.boot()
	write(x.t, x.root+"/greenboot/red-"+boot, "boot="+boot+"\ndeployment="+x.machine().key()+"\n")
}

// TestRollbackAfterSuccess is greenboot being stricter than the agent: the
// update must not go round in circles.
func TestRollbackAfterSuccess(t *testing.T) {
	t.Parallel()
	inBubble(t, func(_ *testing.T, x *rig, c commits) {
		x.want(c.new, true)
		x.run(2 * time.Minute)
		x.expect("booted", c.new, "succeeded")
		x.change(func(m *machine) { m.rollback() })
		x.reboot(true)
		x.run(time.Hour)
		x.expect("rolled back", c.old, "failed")
		x.problem("rolled back", "went back to")
		x.change(func(m *machine) { m.stage(c.new) }) // a person insists
		x.reboot(true)
		x.run(2 * time.Minute)
		x.expect("by hand", c.new, "succeeded")
		x.problem("by hand", "")
	})
}

func TestReplacedBySomebody(t *testing.T) {
	t.Parallel()
	inBubble(t, func(_ *testing.T, x *rig, c commits) {
		other := strings.Repeat("b", 64)
		x.want(c.new, false)
		x.run(time.Minute)
		x.change(func(m *machine) { m.stage(other) })
		x.reboot(true)
		x.run(time.Hour)
		x.expect("replaced", other, "failed")
		x.problem("replaced", "somebody has replaced it")
	})
}

// TestNeverFinalised is a full /boot: the machine reboots into what it ran, again
// and again.
func TestNeverFinalised(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, x *rig, c commits) {
		x.change(func(m *machine) { m.Finalise = false })
		x.want(c.new, true)
		x.run(2 * time.Hour)
		x.expect("full", c.old, "failed")
		x.problem("full", "ostree-finalize-staged")
		if x.boot != 4 {
			t.Errorf("the machine was rebooted %d times", x.boot-1)
		}
		x.change(func(m *machine) { m.Finalise = true })
		x.configure(&protocol.OSInformation{CommitID: c.new, HostedObjectsURL: x.url + "/", AutomaticallyUpgrade: true})
		x.run(2 * time.Minute)
		x.expect("tried again by request", c.new, "succeeded")
	})
}

func TestNotHealthy(t *testing.T) {
	t.Parallel()
	inBubble(t, func(_ *testing.T, x *rig, c commits) {
		x.want(c.new, true)
		x.run(15 * time.Second)
		x.mu.Lock()
		x.ill = "workload web: ImagePullFailed"
		x.mu.Unlock()
		x.run(10 * time.Minute)
		x.expect("within the grace", c.new, "")
		x.problem("within the grace", "")
		x.run(10 * time.Minute)
		x.expect("after the grace", c.new, "failed")
		x.problem("after the grace", "ImagePullFailed")
		x.mu.Lock()
		x.ill = ""
		x.mu.Unlock()
		x.run(5 * time.Minute)
		x.expect("late", c.new, "succeeded")
		x.problem("late", "")

		x.mu.Lock()
		x.ill = "workload web: ImagePullFailed"
		x.mu.Unlock()
		x.want(c.newer, true)
		x.run(5 * time.Minute)
		x.expect("it was not healthy before either", c.newer, "succeeded")
	})
}

func TestRebootThatDoesNotCome(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, x *rig, c commits) {
		x.mu.Lock()
		x.stuck = true
		x.mu.Unlock()
		x.want(c.new, true)
		x.run(time.Minute)
		x.restart() // while the machine is said to go down
		x.run(8 * time.Minute)
		if diff := cmp.Diff([]string{"workloads", "sync", "heartbeat"}, x.done()); diff != "" {
			t.Errorf("too early (-want +got):\n%s", diff)
		}
		x.run(3 * time.Minute)
		x.problem("given up", "did not go down")
		if last := x.done()[len(x.done())-1]; last != "resume" && len(x.done()) < 5 {
			t.Errorf("given up: %v", x.done())
		}
		x.run(3 * time.Hour)
		x.expect("still", c.old, "")
		x.mu.Lock()
		x.stuck = false
		x.mu.Unlock()
		x.run(3 * time.Hour)
		x.expect("at last", c.new, "succeeded")
	})
}
