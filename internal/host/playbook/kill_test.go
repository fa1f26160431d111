package playbook

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/project-flotta/flotta-agent/internal/durable"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// retryOnce keeps lives short: there are many.
func retryOnce(c *Config) { c.Retries = 1 }

// killedHere is what a life of the agent dies of in these tests.
type killedHere struct{}

// until kills the agent at its n-th step; it reports whether it came to that.
func (m *machine) until(n int, do func(a *agent)) (died bool, told []string) {
	a := m.agent(retryOnce)
	count := func() {
		if n--; n == 0 {
			panic(killedHere{})
		}
	}
	a.step = func(string) { count() }
	a.write = durable.Writer{Fault: func(durable.Step, string) error {
		count()
		return nil
	}}
	emit := a.cfg.Event
	a.cfg.Event = func(e protocol.EventInfo) {
		count()
		emit(e)
		count()
	}
	defer func() {
		told = *a.events
		if p := recover(); p != nil {
			if _, expected := p.(killedHere); !expected {
				panic(p)
			}
			died = true
		}
	}()
	do(a)
	return false, nil
}

// TestKilledAnywhere kills the agent at every step of a life with a run that
// succeeds, one that fails, and one that is run again; and lets the next one go on.
// With the power cut, the units are gone as well.
func TestKilledAnywhere(t *testing.T) {
	t.Parallel()
	retry := strategy(protocol.StrategyRetryOnFailure)
	lists := [][]protocol.PlaybookExecution{
		{book("good"), book("bad"), book("again", retry)},
		{book("again", retry), book("good", id("2"))},
	}
	const end = "again=CompletedWithError/Failed bad=CompletedWithError/Failed good2=SuccessfullyCompleted good=SuccessfullyCompleted"
	const executed = "good bad again again good"
	life := func(a *agent) {
		for _, list := range lists {
			a.list(list...)
			a.settle()
		}
	}
	for _, power := range []bool{false, true} {
		steps := 0
		for died := true; died; {
			steps++
			m := newMachine(t)
			m.script["bad"], m.script["again"] = failure, failure
			var told []string
			died, told = m.until(steps, life)
			if power {
				m.crash("")
			}
			b := m.agent(retryOnce)
			life(b)
			what := fmt.Sprintf("killed at step %d, power cut %t", steps, power)
			said := strings.Fields(b.says()) // in an order that is not that of the list when the index is lost
			slices.Sort(said)
			if got := strings.Join(said, " "); got != end {
				t.Errorf("%s:\n%s\nwant\n%s", what, got, end)
			}
			if got := m.executed(); got != executed {
				t.Errorf("%s: executed %s", what, got)
			}
			told = append(told, *b.events...)
			if n := strings.Count(strings.Join(told, " "), "PlaybookSucceeded"); n < 2 {
				t.Errorf("%s: told of %d successes", what, n)
			}
			if n := strings.Count(strings.Join(told, " "), "PlaybookFailed"); n < 2 {
				t.Errorf("%s: told of %d failures", what, n)
			}
			m.tidy(b)
			if t.Failed() {
				return
			}
		}
		t.Logf("killed at each of %d steps", steps-1)
		if steps < 100 {
			t.Errorf("only %d steps: is the agent killed at all?", steps-1)
		}
	}
}

// tidy wants nothing on disk that nobody knows.
func (m *machine) tidy(a *agent) {
	m.t.Helper()
	entries, err := os.ReadDir(m.dir)
	if err != nil {
		m.t.Error(err)
	}
	for _, e := range entries {
		known := e.Name() == indexFile
		for i := range a.idx.Runs {
			known = known || a.idx.Runs[i].instance() == e.Name()
		}
		if !known {
			m.t.Errorf("left behind: %s", e.Name())
		}
	}
}

// TestKilledDuringRun has the machine lose its power while a playbook runs, with
// the agent at any step.
func TestKilledDuringRun(t *testing.T) {
	t.Parallel()
	steps := 0
	for died := true; died; {
		steps++
		m := newMachine(t)
		m.script["a"] = behaviour{stays: true}
		died, _ = m.until(steps, func(a *agent) {
			a.list(book("a"))
			a.settle()
		})
		m.crash("")
		m.script["a"] = behaviour{result: result{Ran: true, OK: true}}
		b := m.agent()
		b.list(book("a"))
		b.settle()
		ran := m.executed()
		if got := b.says(); ran != "a" || got != "a=CompletedWithError/Interrupted" && got != "a=SuccessfullyCompleted" {
			t.Errorf("power cut at step %d: executed %q, reported %s", steps, ran, got)
		}
	}
	if steps < 20 {
		t.Errorf("only %d steps", steps-1)
	}
}

// TestDamage damages what is on disk.
func TestDamage(t *testing.T) {
	t.Parallel()
	start := func(t *testing.T) (*machine, string) {
		m := newMachine(t)
		m.script["runs"] = behaviour{stays: true}
		a := m.agent()
		a.list(book("over"), book("runs"), book("waits"))
		a.settle()
		a.want("over=SuccessfullyCompleted runs=Running waits=Deploying")
		return m, a.dir(a.idx.current())
	}
	damage := func(t *testing.T, path string) {
		if err := os.WriteFile(path, []byte(`{"kind":"x"`), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Run("index", func(t *testing.T) {
		t.Parallel()
		m, _ := start(t)
		damage(t, filepath.Join(m.dir, indexFile))
		b := m.agent()
		b.list(book("over"), book("runs"), book("waits"))
		for range 5 {
			b.settle()
		}
		m.release("runs", failure.result)
		for range 5 {
			b.settle()
		}
		if got := m.executed(); got != "over runs waits" {
			t.Errorf("executed %s", got)
		}
		if got := b.says(); !strings.Contains(got, "runs=CompletedWithError/Failed") || !strings.Contains(got, "over=SuccessfullyCompleted") {
			t.Errorf("reported %s", got)
		}
	})
	t.Run("request of one that waits", func(t *testing.T) {
		t.Parallel()
		m, _ := start(t)
		a := m.agent()
		a.settle()
		damage(t, filepath.Join(a.dir(a.idx.next()), requestFile))
		m.release("runs", failure.result)
		a.settle()
		a.want("over=SuccessfullyCompleted runs=CompletedWithError/Failed waits=CompletedWithError/Interrupted")
	})
	t.Run("result", func(t *testing.T) {
		t.Parallel()
		m, dir := start(t)
		m.release("runs", failure.result)
		damage(t, filepath.Join(dir, resultFile))
		a := m.agent()
		a.settle()
		a.want("over=SuccessfullyCompleted runs=CompletedWithError/Interrupted waits=SuccessfullyCompleted")
	})
	t.Run("another version", func(t *testing.T) {
		t.Parallel()
		m, _ := start(t)
		if err := durable.SaveDocument(filepath.Join(m.dir, indexFile), indexKind, indexVersion+1, index{}, 0o600); err != nil {
			t.Fatal(err)
		}
		a := m.agent()
		a.settle()
		if got := a.says(); !strings.Contains(got, "runs=") {
			t.Errorf("reported %s", got)
		}
	})
}

// TestFullDisk fails each write in turn: nothing is lost, and nothing runs twice.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	full := errors.New("no space left on device")
	for n := 1; ; n++ {
		m := newMachine(t)
		a := m.agent()
		left := n
		a.write = durable.Writer{Fault: func(durable.Step, string) error {
			if left--; left == 0 {
				return full
			}
			return nil
		}}
		if err := a.take(t.Context(), []protocol.PlaybookExecution{book("a"), book("b")}); err != nil && !errors.Is(err, full) {
			t.Fatal(err)
		}
		a.list(book("a"), book("b"))
		complained := false
		for range 10 {
			a.settle()
			complained = complained || len(a.Problems()) > 0
		}
		a.want("a=SuccessfullyCompleted b=SuccessfullyCompleted")
		if got := m.executed(); got != "a b" {
			t.Errorf("executed %s", got)
		}
		if t.Failed() || left > 0 {
			t.Logf("%d writes", n-1)
			return
		}
	}
}

// TestBounds has more than a device takes.
func TestBounds(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	a := m.agent(func(c *Config) { c.Disabled = true })
	var list []protocol.PlaybookExecution
	for i := range maxRuns + 50 {
		list = append(list, book(fmt.Sprintf("p%03d", i)))
	}
	a.list(list...)
	if n := len(a.Statuses()); n != maxRuns {
		t.Errorf("%d runs", n)
	}
	if p := strings.Join(a.Problems(), ";"); !strings.Contains(p, "more than 256") {
		t.Errorf("problems %q", p)
	}
	large := func(e *protocol.PlaybookExecution) { e.AnsiblePlaybookString = strings.Repeat("x", maxPlaybook) }
	for i := range list {
		large(&list[i])
	}
	a.list(list[:100]...)
	if n := len(a.Statuses()); n != maxWaiting/maxPlaybook {
		t.Errorf("%d large ones", n)
	}
	if p := strings.Join(a.Problems(), ";"); !strings.Contains(p, "16 MiB") {
		t.Errorf("problems %q", p)
	}
	names, err := instances(m.dir)
	if err != nil || len(names) != maxWaiting/maxPlaybook {
		t.Errorf("%d folders, %v", len(names), err)
	}
}

// TestRoom has those that are over make room, the oldest first, but none that the
// control plane asks for, or has not heard of.
func TestRoom(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	a := m.agent()
	a.list(book("listed"), book("over"))
	a.settle()
	err := a.commit(func(x *index) {
		for i := range maxRuns - len(x.Runs) {
			x.add(record{Name: "old", Digest: fmt.Sprintf("%064d", i), State: protocol.PlaybookSuccessfullyCompleted, Delivered: i > 2})
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	for i := range maxKept + 4 {
		a.list(book("listed"), book(fmt.Sprintf("p%d", i)))
		a.settle()
		a.Delivered(a.Statuses()[len(a.Statuses())-1:])
		a.settle()
	}
	if n := len(a.idx.Runs); n != maxRuns {
		t.Errorf("%d runs are remembered", n)
	}
	a.want("listed=SuccessfullyCompleted over=SuccessfullyCompleted old=SuccessfullyCompleted old=SuccessfullyCompleted old=SuccessfullyCompleted p19=SuccessfullyCompleted")
	if names, _ := instances(m.dir); len(names) != maxKept {
		t.Errorf("%d folders", len(names))
	}
	// All that are left are wanted.
	if err := a.commit(func(x *index) {
		for i := range x.Runs {
			x.Runs[i].Delivered = false
		}
	}); err != nil {
		t.Fatal(err)
	}
	a.list(book("one too many"))
	if p := strings.Join(a.Problems(), ";"); !strings.Contains(p, `"one too many" waits`) {
		t.Errorf("problems %q", p)
	}
}

// TestMessagesAreBounded has many long ones in a heartbeat.
func TestMessagesAreBounded(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	a := m.agent()
	var list []protocol.PlaybookExecution
	for i := range 100 {
		name := fmt.Sprintf("p%03d", i)
		m.script[name] = behaviour{result: result{Ran: true, Reason: ReasonFailed, Message: strings.Repeat("\u00fc", maxMessage/2)}}
		list = append(list, book(name))
	}
	a.list(list...)
	a.settle()
	data, err := json.Marshal(a.Statuses())
	if err != nil || len(data) > maxMessages+100*200 {
		t.Errorf("%d bytes, %v", len(data), err)
	}
}
