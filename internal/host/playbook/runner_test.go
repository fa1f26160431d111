package playbook

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

func TestOneAfterAnother(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.script["b"] = failure
	a := m.agent()
	a.list(book("c"), book("b"), book("a"))
	a.want("c=Deploying b=Deploying a=Deploying")
	a.settle()
	a.want("c=SuccessfullyCompleted b=CompletedWithError/Failed a=SuccessfullyCompleted")
	if got := m.executed(); got != "c b a" {
		t.Errorf("executed %s, want the order of the list", got)
	}
	if got := strings.Join(*a.events, " "); got != "PlaybookStarted PlaybookSucceeded PlaybookStarted PlaybookFailed PlaybookStarted PlaybookSucceeded" {
		t.Errorf("events %s", got)
	}
	// A server of flotta v0.2 lists them for ever.
	a.list(book("c"), book("b"), book("a"))
	a.settle()
	m.agent().settle()
	if got := m.executed(); got != "c b a" {
		t.Errorf("executed %s: once is once", got)
	}
}

func TestEveryState(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.script["a"] = behaviour{stays: true}
	a := m.agent()
	a.list(book("a"), book("b"))
	a.want("a=Deploying b=Deploying")
	a.turn(t.Context(), a.cfg.Desired.Current())
	a.want("a=TargetVerification b=Deploying")
	a.settle()
	a.want("a=Running b=Deploying")
	if why := a.Busy(); why != `playbook "a" runs` {
		t.Errorf("busy: %q", why)
	}
	// What runs goes on though nobody asks for it any more; what waits is dropped.
	a.list()
	a.settle()
	a.want("a=Running")
	m.release("a", result{Ran: true, OK: true, Message: "localhost: ok=3"})
	a.settle()
	a.want("a=SuccessfullyCompleted")
	if why := a.Busy(); why != "" {
		t.Errorf("busy: %q", why)
	}
	if s := a.Statuses()[0]; s.Message != "localhost: ok=3" || s.LastDataUpload.IsZero() {
		t.Errorf("status %+v", s)
	}
}

func TestStopOnFailure(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.script["b"] = failure
	a := m.agent()
	stop := strategy(protocol.StrategyStopOnFailure)
	a.list(book("a", stop), book("b", stop), book("c", strategy("")), book("d", stop), book("other"))
	a.settle()
	a.want("a=SuccessfullyCompleted b=CompletedWithError/Failed c=CompletedWithError/Skipped d=CompletedWithError/Skipped other=SuccessfullyCompleted")
	if got := m.executed(); got != "a b other" {
		t.Errorf("executed %s", got)
	}
	// Another run of all of them.
	delete(m.script, "b")
	a.list(book("a", stop, id("2")), book("b", stop, id("2")), book("c", strategy(""), id("2")))
	a.settle()
	if got := m.executed(); got != "a b other a b c" {
		t.Errorf("executed %s", got)
	}
}

// TestStopOnFailureAcrossLists has a server that lists what is over no more.
func TestStopOnFailureAcrossLists(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.script["a"] = behaviour{stays: true}
	a := m.agent()
	stop := strategy(protocol.StrategyStopOnFailure)
	a.list(book("a", stop), book("b", stop))
	a.settle()
	m.release("a", failure.result)
	a.list(book("b", stop))
	a.settle()
	a.want("a=CompletedWithError/Failed b=CompletedWithError/Skipped")
}

func TestRetryOnFailure(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.script["a"] = failure
	a := m.agent()
	retry := strategy(protocol.StrategyRetryOnFailure)
	a.list(book("a", retry), book("b"))
	a.settle()
	a.want("a=CompletedWithError/Failed b=SuccessfullyCompleted")
	if got := m.executed(); got != "a a a b" {
		t.Errorf("executed %s", got)
	}
	if s := a.Statuses()[0]; s.Message != "attempt 3: it failed" {
		t.Errorf("message %q", s.Message)
	}
	if names, err := instances(m.dir); err != nil || len(names) != 2 {
		t.Errorf("folders %v, %v", names, err)
	}
}

// TestRetryPauses has the next attempt wait, and the agent restarted meanwhile.
func TestRetryPauses(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.script["a"] = failure
	a := m.agent()
	a.list(book("a", strategy(protocol.StrategyRetryOnFailure)))
	wait := time.Duration(0)
	for range 2 {
		wait = a.turn(t.Context(), a.cfg.Desired.Current())
	}
	if wait < shortPause-time.Second || wait > shortPause {
		t.Errorf("waits for %s", wait)
	}
	a.want("a=Deploying/Retrying")
	delete(m.script, "a")
	b := m.agent()
	b.settle()
	b.want("a=SuccessfullyCompleted")
	if got := m.executed(); got != "a a" {
		t.Errorf("executed %s", got)
	}
}

func TestPowerCut(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ unit, reason string }{
		"power cut":         {"", ReasonInterrupted},
		"killed":            {"signal", ReasonInterrupted},
		"out of memory":     {"oom-kill", ReasonOutOfMemory},
		"ended for timeout": {"timeout", ReasonTimedOut},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMachine(t)
			m.script["a"] = behaviour{stays: true}
			a := m.agent()
			a.list(book("a"))
			a.settle()
			m.crash(test.unit)
			b := m.agent()
			b.settle()
			b.want("a=CompletedWithError/" + test.reason)
			b.list(book("a"))
			b.settle()
			if got := m.executed(); got != "a" {
				t.Errorf("executed %s", got)
			}
		})
	}
}

// TestRestart has another agent pick up what runs.
func TestRestart(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.script["a"] = behaviour{stays: true}
	a := m.agent()
	a.list(book("a"), book("b"))
	a.settle()
	b := m.agent()
	b.settle()
	b.want("a=Running b=Deploying")
	m.release("a", failure.result)
	c := m.agent()
	c.settle()
	c.want("a=CompletedWithError/Failed b=SuccessfullyCompleted")
}

func TestAnsibleMissing(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	a := m.agent()
	there := a.look
	a.look = func(string) (string, error) { return "", errMissing }
	a.settle()
	if p := a.Problems(); len(p) != 0 {
		t.Errorf("problems %v without a playbook", p)
	}
	a.list(book("a"), book("b"))
	a.settle()
	a.want("a=Deploying/AnsibleMissing b=Deploying")
	if why := a.Busy(); why != "" {
		t.Errorf("busy: %q", why)
	}
	if p := strings.Join(a.Problems(), "; "); !strings.Contains(p, "install ansible-core") {
		t.Errorf("problems %q", p)
	}
	a.look = there
	// It goes away between the look and the run.
	m.script["a"] = behaviour{result: result{Reason: ReasonAnsibleMissing, Message: "gone"}}
	a.turn(t.Context(), a.cfg.Desired.Current())
	a.turn(t.Context(), a.cfg.Desired.Current())
	a.want("a=TargetVerification b=Deploying")
	delete(m.script, "a")
	a.settle()
	a.want("a=SuccessfullyCompleted b=SuccessfullyCompleted")
	if p := a.Problems(); len(p) != 0 {
		t.Errorf("problems %v", p)
	}
	if got := m.executed(); got != "a b" {
		t.Errorf("executed %s", got)
	}
}

func TestDisabled(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	a := m.agent(func(c *Config) { c.Disabled = true })
	a.list(book("a"))
	a.settle()
	a.want("a=Deploying/Disabled")
	b := m.agent()
	b.settle()
	b.want("a=SuccessfullyCompleted")
}

// TestHold: one that runs goes on, and none begins.
func TestHold(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.script["a"] = behaviour{stays: true}
	held := false
	a := m.agent(func(c *Config) {
		c.Hold = func() string {
			if held {
				return "the machine goes down"
			}
			return ""
		}
	})
	a.list(book("a"), book("b"))
	a.settle()
	held = true
	m.release("a", failure.result)
	a.settle()
	a.want("a=CompletedWithError/Failed b=Deploying")
	if why := a.Busy(); why != "" {
		t.Errorf("while nothing runs, %s", why)
	}
	held = false
	a.settle()
	a.want("a=CompletedWithError/Failed b=SuccessfullyCompleted")
}

func TestNewOneOfTheName(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.script["a"] = behaviour{stays: true}
	a := m.agent()
	a.list(book("a", id("1")))
	a.settle()
	a.list(book("a", id("2"))) // waits until the first one is over
	a.settle()
	a.want("a1=Running a2=Deploying")
	a.list(book("a", id("3"))) // replaces one that waits
	a.settle()
	a.want("a1=Running a3=Deploying")
	m.release("a", failure.result)
	delete(m.script, "a")
	a.settle()
	a.want("a1=CompletedWithError/Failed a3=SuccessfullyCompleted")
	a.Delivered(a.Statuses()[:1])
	a.settle()
	a.want("a3=SuccessfullyCompleted")
	if latest := a.Latest(); len(latest) != 2 || latest[0].ID != "1" || latest[1].ID != "3" {
		a.m.t.Errorf("a person is shown %+v", latest)
	}
	// A replica that lags behind lists what is long over.
	a.list(book("a", id("1")))
	a.settle()
	if got := m.executed(); got != "a a" {
		t.Errorf("executed %s", got)
	}
}

func TestDelivered(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.script["a"] = behaviour{stays: true}
	a := m.agent()
	a.list(book("a"))
	a.settle()
	running := a.Statuses()
	m.release("a", failure.result)
	a.list()
	a.settle()
	a.Delivered(running) // late
	a.settle()
	a.want("a=CompletedWithError/Failed")
	b := m.agent()
	b.settle()
	b.want("a=CompletedWithError/Failed")
	b.Delivered(b.Statuses())
	b.settle()
	b.want("")
	b.list(book("a"))
	b.settle()
	b.want("a=CompletedWithError/Failed")
	if got := m.executed(); got != "a" {
		t.Errorf("executed %s", got)
	}
}

func TestOverdue(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.script["a"] = behaviour{stays: true}
	a := m.agent()
	a.list(book("a"))
	a.settle()
	a.deadline = time.Now().Add(-time.Second) // whoever runs it hangs
	a.settle()
	a.want("a=CompletedWithError/TimedOut")
}

// TestNeverBegins has a unit that ends before it has changed anything.
func TestNeverBegins(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.script["a"] = behaviour{fails: true}
	a := m.agent()
	a.list(book("a"), book("b"))
	for range 20 {
		a.settle()
	}
	a.want("a=CompletedWithError/NotStarted b=SuccessfullyCompleted")
	if s := a.Statuses()[0]; !strings.Contains(s.Message, "journalctl -u flotta-playbook@") {
		t.Errorf("message %q", s.Message)
	}
}

func TestManagerIsDown(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	a := m.agent()
	a.list(book("a"))
	m.down = errDown
	a.settle()
	if p := strings.Join(a.Problems(), "; "); !strings.Contains(p, "unavailable") {
		t.Errorf("problems %q", p)
	}
	m.down = nil
	a.settle()
	a.want("a=SuccessfullyCompleted")
	if p := a.Problems(); len(p) != 0 {
		t.Errorf("problems %v", p)
	}
}

func TestClear(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.script["a"] = behaviour{stays: true}
	a := m.agent()
	if err := a.Clear(t.Context()); err != nil {
		t.Errorf("nothing to clear: %v", err)
	}
	a.list(book("a"), book("b"))
	a.settle()
	m.down = errDown
	if err := a.Clear(t.Context()); !errors.Is(err, errDown) {
		t.Errorf("Clear without a manager: %v", err)
	}
	m.down = nil
	if err := a.Clear(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(m.dir); !os.IsNotExist(err) {
		t.Errorf("%v", err)
	}
	for name, u := range m.units {
		t.Errorf("%s is %s", name, u.active)
	}
	a.want("")
}

func TestInvalid(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	a := m.agent()
	set := func(f func(*protocol.PlaybookExecution)) protocol.PlaybookExecution { return book("x", f) }
	for name, e := range map[string]protocol.PlaybookExecution{
		"empty":              set(func(e *protocol.PlaybookExecution) { e.AnsiblePlaybookString = "" }),
		"large":              set(func(e *protocol.PlaybookExecution) { e.AnsiblePlaybookString = strings.Repeat("x", maxPlaybook+1) }),
		"negative timeout":   set(func(e *protocol.PlaybookExecution) { e.TimeoutSeconds = -1 }),
		"option as user":     set(func(e *protocol.PlaybookExecution) { e.User = "--root" }),
		"path as user":       set(func(e *protocol.PlaybookExecution) { e.User = "../root" }),
		"number as user":     set(func(e *protocol.PlaybookExecution) { e.User = "0" }),
		"strategy":           set(func(e *protocol.PlaybookExecution) { e.Strategy = "Never" }),
		"option as method":   set(func(e *protocol.PlaybookExecution) { e.Become = &protocol.PlaybookBecome{Method: "--ask-pass"} }),
		"option to become":   set(func(e *protocol.PlaybookExecution) { e.Become = &protocol.PlaybookBecome{User: "-x"} }),
		"two words":          set(func(e *protocol.PlaybookExecution) { e.Become = &protocol.PlaybookBecome{User: "a b"} }),
		"capability":         set(func(e *protocol.PlaybookExecution) { e.CapAdd = []int32{38} }),
		"negative":           set(func(e *protocol.PlaybookExecution) { e.CapDrop = []int32{-1} }),
		"added and dropped":  set(func(e *protocol.PlaybookExecution) { e.CapAdd, e.CapDrop = []int32{1}, []int32{1} }),
		"many capabilities":  set(func(e *protocol.PlaybookExecution) { e.CapDrop = make([]int32, 1000) }),
		"large id":           set(func(e *protocol.PlaybookExecution) { e.ID = strings.Repeat("x", 1000) }),
		"large name of both": set(func(e *protocol.PlaybookExecution) { e.Config = strings.Repeat("x", 1000) }),
	} {
		a.list(e)
		a.settle()
		s := a.Statuses()
		if got := s[len(s)-1]; got.Status != protocol.PlaybookCompletedWithError || got.Reason != ReasonInvalidPlaybook || got.Message == "" || len(got.ID) > maxText {
			t.Errorf("%s: %+v", name, got)
		}
	}
	if m.executed() != "" {
		t.Errorf("executed %s", m.executed())
	}
	if names, err := instances(m.dir); len(names) != 0 {
		t.Errorf("on disk: %v %v", names, err)
	}
}

// TestNames has those that could be options, paths or terminals' codes.
func TestNames(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	a := m.agent()
	a.list(book("--help"), book("../../etc/passwd"), book("a b\u00fc;$(x)"), book(""), book("\x1b[2J"), book("a\nb"), book(strings.Repeat("x", 300)), book("\xff"), book("--help", id("2")))
	a.settle()
	a.want("--help=SuccessfullyCompleted ../../etc/passwd=SuccessfullyCompleted a b\u00fc;$(x)=SuccessfullyCompleted")
	if p := a.Problems(); len(p) != 6 {
		t.Errorf("problems %q", p)
	}
	entries, err := os.ReadDir(m.dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.Name() != indexFile && !instanceName.MatchString(e.Name()) {
			t.Errorf("on disk: %s", e.Name())
		}
	}
	if entries, err := os.ReadDir(filepath.Dir(m.dir)); len(entries) != 1 {
		t.Errorf("outside: %v %v", entries, err)
	}
}
