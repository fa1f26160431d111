package playbook

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/project-flotta/flotta-agent/internal/desired"
	"github.com/project-flotta/flotta-agent/internal/durable"
	"github.com/project-flotta/flotta-agent/internal/systemd"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// machine is a system's manager with units of playbooks, and what they do: the
// part of Execute that others see. The contract test holds it to the real ones.
type machine struct {
	t   *testing.T
	dir string

	mu     sync.Mutex
	units  map[string]*unit
	ran    []string // digests, each time one is executed
	script map[string]behaviour
	down   error // of the manager
}

// behaviour is how a playbook of a name does.
type behaviour struct {
	result result // at its end
	stays  bool   // until it is released or stopped
	fails  bool   // its unit ends before it begins
}

type unit struct {
	active, result string
	name           string // of the playbook
}

func newMachine(t *testing.T) *machine {
	t.Helper()
	// Thousands of documents are synced here: to memory, where that can be.
	dir, err := os.MkdirTemp("/dev/shm", "flotta-playbook-")
	if err != nil {
		dir = t.TempDir()
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return &machine{t: t, dir: filepath.Join(dir, "playbooks"), units: map[string]*unit{}, script: map[string]behaviour{}}
}

var errDown = errors.New("systemd: unavailable")

func (m *machine) Unit(_ context.Context, name string) (systemd.Unit, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := systemd.Unit{UnitStatus: systemd.UnitStatus{Name: name, LoadState: "loaded", ActiveState: "inactive"}, Result: "success"}
	if u := m.units[name]; u != nil {
		out.ActiveState, out.Result = u.active, u.result
	}
	return out, m.down
}

func (m *machine) Start(_ context.Context, name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.down != nil {
		return m.down
	}
	if u := m.units[name]; u != nil && u.active == "active" {
		return nil
	}
	for other, u := range m.units {
		if u.active == "active" {
			m.t.Errorf("%s is started while %s runs", name, other)
		}
	}
	u := &unit{active: "active", result: "success"}
	m.units[name] = u
	m.execute(name, u)
	return nil
}

func folder(unit string) string {
	return strings.TrimSuffix(strings.TrimPrefix(unit, unitPrefix), unitSuffix)
}

// execute does what Execute does, in its order.
func (m *machine) execute(name string, u *unit) {
	dir := filepath.Join(m.dir, folder(name))
	p, err := readPapers(dir)
	switch {
	case err != nil || p.request.Digest == "" || p.phase.State == protocol.PlaybookRunning && p.result == nil:
		u.active, u.result = "failed", "exit-code"
		return
	case p.result != nil:
		delete(m.units, name)
		return
	}
	u.name = p.request.Name
	b, ok := m.script[p.request.Name]
	if !ok {
		b = behaviour{result: result{Ran: true, OK: true, Message: "localhost: ok=1"}}
	}
	m.put(dir, phaseFile, phaseKind, phase{State: protocol.PlaybookTargetVerification})
	if b.fails {
		u.active, u.result = "failed", "exit-code"
		return
	}
	if b.result.Ran || b.stays {
		m.put(dir, phaseFile, phaseKind, phase{State: protocol.PlaybookRunning})
		m.ran = append(m.ran, p.request.Name)
	}
	if !b.stays {
		m.end(name, b.result)
	}
}

func (m *machine) put(dir, file, kind string, v any) {
	if err := durable.SaveDocument(filepath.Join(dir, file), kind, documentVersion, v, 0o600); err != nil {
		m.t.Error(err)
	}
}

func (m *machine) end(name string, res result) {
	m.put(filepath.Join(m.dir, folder(name)), resultFile, resultKind, res)
	delete(m.units, name) // what ends well is unloaded
}

// release ends what stays.
func (m *machine) release(playbook string, res result) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for name, u := range m.units {
		if u.name == playbook && u.active == "active" {
			m.end(name, res)
			return
		}
	}
	m.t.Errorf("%s does not run", playbook)
}

// crash ends all units without a word: a power cut, or a kill.
func (m *machine) crash(result string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for name, u := range m.units {
		if result == "" {
			delete(m.units, name)
		} else if u.active == "active" {
			u.active, u.result = "failed", result
		}
	}
}

func (m *machine) Stop(_ context.Context, name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.down != nil {
		return m.down
	}
	if u := m.units[name]; u != nil && u.active == "active" {
		m.end(name, result{Ran: true, Reason: ReasonInterrupted, Message: "stopped"})
	}
	return nil
}

func (m *machine) ResetFailed(_ context.Context, name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if u := m.units[name]; u != nil && u.active == "failed" {
		delete(m.units, name)
	}
	return m.down
}

func (m *machine) executed() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return strings.Join(m.ran, " ")
}

// agent is one life of the Runner.
type agent struct {
	*Runner
	m      *machine
	events *[]string
}

type option func(*Config)

func (m *machine) agent(options ...option) *agent {
	m.t.Helper()
	events := &[]string{}
	cfg := Config{
		Ask:     func(context.Context) ([]protocol.PlaybookExecution, error) { return nil, nil },
		Desired: told{desired.NewSnapshot(desired.State{}, "digest")},
		Dir:     m.dir, Units: m, Log: slog.New(slog.DiscardHandler),
		Event:  func(e protocol.EventInfo) { *events = append(*events, e.Reason) },
		Jitter: func(d time.Duration) time.Duration { return d },
	}
	for _, o := range options {
		o(&cfg)
	}
	r, err := New(cfg)
	if err != nil {
		m.t.Fatal(err)
	}
	r.look = func(string) (string, error) { return "/usr/bin/ansible-playbook", nil }
	return &agent{r, m, events}
}

// list takes a list in.
func (a *agent) list(entries ...protocol.PlaybookExecution) {
	a.m.t.Helper()
	if err := a.take(a.m.t.Context(), entries); err != nil {
		a.m.t.Fatal(err)
	}
}

// settle gives turns until there is nothing more to do at once. Pauses are over
// at once.
func (a *agent) settle() {
	a.m.t.Helper()
	before := ""
	for range 1000 {
		a.notBefore = time.Time{}
		a.turn(a.m.t.Context(), a.cfg.Desired.Current())
		now := a.says()
		if a.idx.current() == nil && a.idx.next() == nil || now == before {
			return
		}
		before = now
	}
	a.m.t.Fatalf("it does not settle: %s", before)
}

// says returns what is reported, in one line.
func (a *agent) says() string {
	var out []string
	for _, s := range a.Statuses() {
		out = append(out, strings.TrimRight(fmt.Sprintf("%s%s=%s/%s", s.Name, s.ID, s.Status, s.Reason), "/"))
	}
	return strings.Join(out, " ")
}

func (a *agent) want(says string) {
	a.m.t.Helper()
	if got := a.says(); got != says {
		a.m.t.Errorf("reported:\n%s\nwant:\n%s", got, says)
	}
}

// book is a playbook of that name.
func book(name string, change ...func(*protocol.PlaybookExecution)) protocol.PlaybookExecution {
	e := protocol.PlaybookExecution{Name: name, AnsiblePlaybookString: "- hosts: localhost\n"}
	for _, c := range change {
		c(&e)
	}
	return e
}

func strategy(s string) func(*protocol.PlaybookExecution) {
	return func(e *protocol.PlaybookExecution) { e.Config, e.Strategy = "cfg", s }
}

func id(text string) func(*protocol.PlaybookExecution) {
	return func(e *protocol.PlaybookExecution) { e.ID = text }
}

var failure = behaviour{result: result{Ran: true, Reason: ReasonFailed, Message: "it failed"}}
