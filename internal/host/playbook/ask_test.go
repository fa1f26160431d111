package playbook

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/project-flotta/flotta-agent/internal/desired"
	"github.com/project-flotta/flotta-agent/internal/transport"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// server answers.
type server struct {
	reply transport.Reply
	err   error
	asked []transport.Message
}

func (s *server) Send(_ context.Context, m transport.Message) (transport.Reply, error) {
	s.asked = append(s.asked, m)
	return s.reply, s.err
}

const metadata = `,"metadata":{"message-id":"x","crc_dispatcher_correlation_id":"fake-crc-id","return_url":"return_url"}`

func TestAsk(t *testing.T) {
	t.Parallel()
	s := &server{reply: transport.Reply{Status: 200, Body: []byte(`{"directive":"ansible","content":"[{\"name\":\"dev1-cfg\",\"ansible_playbook_string\":\"- hosts: all\\n\",\"unknown\":1}]"` + metadata + `}`)}}
	got, err := Asker{s}.Ask(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]protocol.PlaybookExecution{{Name: "dev1-cfg", AnsiblePlaybookString: "- hosts: all\n"}}, got); diff != "" {
		t.Errorf("playbooks (-want +got):\n%s", diff)
	}
	if m := s.asked[0]; m.Directive != protocol.DirectiveAnsible || len(m.Content) != 0 || m.ID == "" {
		t.Errorf("asked with %+v", m)
	}
}

// TestAnswers has what the agent of flotta v0.2 panics on, and more.
func TestAnswers(t *testing.T) {
	t.Parallel()
	for name, body := range map[string]string{
		"none":            `{"content":"[]"` + metadata + `}`,
		"no metadata":     `{"content":"[]"}`,
		"foreign kind":    `{"content":"[]","metadata":{"return_url":7}}`,
		"null in a text":  `{"content":"null"}`,
		"other directive": `{"directive":"heartbeat","content":"[]"}`,
	} {
		if list, err := decode([]byte(body)); err != nil || len(list) != 0 {
			t.Errorf("%s: %v, %v", name, list, err)
		}
	}
	for name, body := range map[string]string{
		"nothing":           "",
		"spaces":            "  \n",
		"no JSON":           "<html>",
		"no content":        `{"directive":"ansible"}`,
		"null":              `{"content":null}`,
		"number":            `{"content":7}`,
		"list itself":       `{"content":[]}`,
		"object":            `{"content":{}}`,
		"empty text":        `{"content":""}`,
		"text that is none": `{"content":"playbooks"}`,
		"object in a text":  `{"content":"{}"}`,
		"foreign item":      `{"content":"[7]"}`,
		"foreign name":      `{"content":"[{\"name\":{}}]"}`,
		"foreign timeout":   `{"content":"[{\"name\":\"a\",\"timeout_seconds\":\"soon\"}]"}`,
		"cut off":           `{"content":"[{\"name\":\"a\"}`,
	} {
		s := &server{reply: transport.Reply{Status: 200, Body: []byte(body)}}
		if _, err := (Asker{s}).Ask(t.Context()); !errors.Is(err, ErrNonsense) {
			t.Errorf("%s: %v, want ErrNonsense", name, err)
		}
	}
	for _, status := range []int{204, 208, 401, 404, 500} {
		s := &server{reply: transport.Reply{Status: status, Body: []byte(`{"content":"[]"}`)}}
		if _, err := (Asker{s}).Ask(t.Context()); err == nil || !strings.Contains(err.Error(), fmt.Sprint(status)) {
			t.Errorf("status %d: %v", status, err)
		}
	}
}

// TestNonsenseChangesNothing keeps what is known.
func TestNonsenseChangesNothing(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.script["a"] = behaviour{stays: true}
	s := &server{}
	a := m.agent(func(c *Config) { c.Ask = Asker{s}.Ask })
	a.list(book("a"), book("b"))
	a.settle()
	s.reply = transport.Reply{Status: 200, Body: []byte(`{"content":7}`)}
	if a.ask(t.Context()) {
		t.Error("nonsense was taken")
	}
	a.want("a=Running b=Deploying")
	if p := strings.Join(a.Problems(), ";"); !strings.Contains(p, "not a list of playbooks") {
		t.Errorf("problems %q", p)
	}
	// One of flotta v0.2 has no other way to say that there is nothing to do.
	s.reply = transport.Reply{Status: 500}
	a.ask(t.Context())
	s.err = transport.ErrUnavailable
	a.ask(t.Context())
	a.want("a=Running b=Deploying")
	s.err, s.reply = nil, transport.Reply{Status: 200, Body: []byte(`{"content":"[null, {\"name\":\"b\",\"ansible_playbook_string\":\"- hosts: localhost\\n\"}]"}`)}
	if !a.ask(t.Context()) {
		t.Error("a list with a hole was refused")
	}
	a.want("a=Running b=Deploying")
	if p := strings.Join(a.Problems(), ";"); p != "playbook 1 of the list has no name" {
		t.Errorf("problems %q", p)
	}
}

// source is a desired state that changes.
type source struct {
	now atomic.Pointer[desired.Snapshot]
}

func (s *source) Current() *desired.Snapshot { return s.now.Load() }

func snapshot(period int64) *desired.Snapshot {
	return desired.NewSnapshot(desired.State{Ansible: &protocol.AnsibleManager{PeriodSeconds: period}}, "digest")
}

func TestPeriods(t *testing.T) {
	t.Parallel()
	r := &Runner{cfg: Config{Period: time.Minute}}
	for seconds, want := range map[int64]time.Duration{-1: time.Minute, 0: time.Minute, 5: 5 * time.Second, 1 << 62: 24 * time.Hour} {
		if got := r.period(snapshot(seconds)); got != want {
			t.Errorf("%d: %s", seconds, got)
		}
	}
	if got := r.period(desired.NewSnapshot(desired.State{}, "")); got != time.Minute {
		t.Errorf("none: %s", got)
	}
}

// TestAsking looks when it asks.
func TestAsking(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := newMachine(t)
		var src source
		src.now.Store(snapshot(0))
		var mu sync.Mutex
		var asked []time.Duration
		began, fail := time.Now(), false
		// since returns when it has asked, and begins anew.
		since := func(failing bool) []time.Duration {
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			out := asked
			asked, began, fail = nil, time.Now(), failing
			return out
		}
		ready := make(chan struct{})
		a := m.agent(func(c *Config) {
			c.Desired, c.Ready = &src, ready
			c.Ask = func(context.Context) ([]protocol.PlaybookExecution, error) {
				mu.Lock()
				defer mu.Unlock()
				asked = append(asked, time.Since(began).Truncate(time.Second))
				if fail {
					return nil, errors.New("refused with status 500")
				}
				return []protocol.PlaybookExecution{book("a")}, nil
			}
		})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- a.Run(ctx) }()
		time.Sleep(time.Minute) // not registered
		if asked := since(false); len(asked) != 0 {
			t.Errorf("asked %v before it may", asked)
		}
		close(ready)
		time.Sleep(130 * time.Second)
		want := []time.Duration{time.Second, 61 * time.Second, 121 * time.Second}
		if asked := since(true); !slices.Equal(asked, want) {
			t.Errorf("asked %v, want %v", asked, want)
		}
		if got := m.executed(); got != "a" {
			t.Errorf("executed %q", got)
		}
		time.Sleep(9 * time.Minute)
		if asked := since(false); len(asked) < 4 || len(asked) > 6 {
			t.Errorf("asked %v while it is refused", asked)
		}
		if p := a.Problems(); len(p) != 0 {
			t.Errorf("problems %v: a server of flotta v0.2 answers 500 when there is nothing", p)
		}
		ctxAlive, stop := context.WithTimeout(ctx, time.Minute)
		if err := a.Alive(ctxAlive); err != nil {
			t.Errorf("Alive: %v", err)
		}
		stop()
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// TestLeaving has a device that is not managed any more.
func TestLeaving(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	a := m.agent()
	a.list(book("a"))
	left := m.agent(func(c *Config) {
		c.Desired = told{desired.NewSnapshot(desired.State{Leaving: true}, "digest")}
	})
	if err := left.take(t.Context(), []protocol.PlaybookExecution{book("b")}); err != nil {
		t.Error(err)
	}
	left.settle()
	if m.executed() != "" {
		t.Errorf("executed %s", m.executed())
	}
}

// TestChanged wakes whoever waits for news, and nobody else.
func TestChanged(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	a := m.agent()
	changed := a.Changed()
	woken := func() bool {
		select {
		case <-changed:
			changed = a.Changed()
			return true
		default:
			return false
		}
	}
	a.settle()
	a.list()
	if woken() {
		t.Error("woken for nothing")
	}
	a.list(book("a"))
	if !woken() {
		t.Error("not woken for a new one")
	}
	a.settle()
	if !woken() {
		t.Error("not woken for its end")
	}
	a.complain("x")
	if !woken() {
		t.Error("not woken for a problem")
	}
}

func TestConfig(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	good := m.agent().cfg
	for name, change := range map[string]func(*Config){
		"Ask": func(c *Config) { c.Ask = nil }, "Desired": func(c *Config) { c.Desired = nil },
		"Units": func(c *Config) { c.Units = nil }, "Log": func(c *Config) { c.Log = nil },
		"Dir": func(c *Config) { c.Dir = "playbooks" }, "Ansible": func(c *Config) { c.Ansible = "ansible" },
		"short": func(c *Config) { c.DefaultTimeout = 1 }, "max": func(c *Config) { c.MaxTimeout = -time.Hour },
		"more": func(c *Config) { c.DefaultTimeout = 2 * time.Hour }, "Retries": func(c *Config) { c.Retries = 1000 },
	} {
		cfg := good
		change(&cfg)
		if _, err := New(cfg); err == nil {
			t.Errorf("%s is accepted", name)
		}
	}
}

func TestTimeouts(t *testing.T) {
	t.Parallel()
	cfg := Config{DefaultTimeout: time.Minute, MaxTimeout: time.Hour}
	for seconds, want := range map[int64]time.Duration{0: time.Minute, 1: time.Second, 3600: time.Hour, 3601: time.Hour, 1 << 62: time.Hour} {
		req, err := cfg.newRequest(book("a", func(e *protocol.PlaybookExecution) { e.TimeoutSeconds = seconds }))
		if err != nil || req.Timeout != want || req.Limited != (seconds > 3600) {
			t.Errorf("%d: %s, %t, %v", seconds, req.Timeout, req.Limited, err)
		}
	}
}

// TestDigest tells runs apart by all that makes them another one.
func TestDigest(t *testing.T) {
	t.Parallel()
	seen := map[string]string{}
	for name, e := range map[string]protocol.PlaybookExecution{
		"one": book("a"), "name": book("b"), "id": book("a", id("1")),
		"playbook": book("a", func(e *protocol.PlaybookExecution) { e.AnsiblePlaybookString += "#" }),
		"user":     book("a", func(e *protocol.PlaybookExecution) { e.User = "x" }),
		"check":    book("a", func(e *protocol.PlaybookExecution) { e.Check = true }),
		"become":   book("a", func(e *protocol.PlaybookExecution) { e.Become = &protocol.PlaybookBecome{} }),
		"drop":     book("a", func(e *protocol.PlaybookExecution) { e.CapDrop = []int32{1} }),
		"timeout":  book("a", func(e *protocol.PlaybookExecution) { e.TimeoutSeconds = 1 }),
	} {
		d := digestOf(e)
		if other := seen[d]; other != "" {
			t.Errorf("%s is %s", name, other)
		}
		seen[d] = name
		if !instanceName.MatchString(instance(d, 103)) {
			t.Errorf("instance %s", instance(d, 103))
		}
	}
	uploaded := book("a", func(e *protocol.PlaybookExecution) { e.LastDataUpload = protocol.NewTime(time.Now()) })
	if seen[digestOf(uploaded)] != "one" {
		t.Error("the time of the last upload makes another run")
	}
}

// FuzzDecode decodes answers, and takes in what comes of them.
func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"content":"[{\"name\":\"a\",\"ansible_playbook_string\":\"- hosts: all\",\"cap_add\":[1],\"become\":{\"user\":\"--x\"}}]"` + metadata + `}`))
	f.Add([]byte(`{"content":"[null]"}`))
	f.Add([]byte(`{"content":null}`))
	cfg := Config{DefaultTimeout: time.Minute, MaxTimeout: time.Hour}
	f.Fuzz(func(t *testing.T, body []byte) {
		list, err := decode(body)
		if err != nil {
			return
		}
		entries, _ := sift(list)
		for _, e := range entries {
			req, err := cfg.newRequest(e)
			if err != nil {
				continue
			}
			if req.Timeout < time.Second || req.Timeout > time.Hour || !instanceName.MatchString(instance(req.Digest, req.Attempt)) {
				t.Errorf("request %+v", req)
			}
			program := "/usr/bin/ansible-playbook"
			for i, arg := range (stage{work: "/w", home: "/h"}).arguments(program, req) {
				switch {
				case i == 0, arg == "--check", arg == "--become", arg == "--inventory=/w/inventory", arg == "/w/playbook.yml":
				case arg == "--become-method=sudo", arg == "--become-method=su":
				case strings.HasPrefix(arg, "--become-user=") && accountName.MatchString(strings.TrimPrefix(arg, "--become-user=")):
				default:
					t.Errorf("argument %q", arg)
				}
			}
		}
	})
}

// FuzzDocuments reads what the process that runs playbooks may have left.
func FuzzDocuments(f *testing.F) {
	for _, v := range []any{request{Name: "a", Digest: strings.Repeat("0", 64)}, phase{State: "Running"}, result{Ran: true}} {
		data, err := json.Marshal(v)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data, data)
	}
	f.Add([]byte("0"), []byte("0"))
	f.Fuzz(func(t *testing.T, raw, valid []byte) {
		m := newMachine(t)
		a := m.agent()
		a.list(book("a"), book("b"))
		a.damage(t, a.dir(a.idx.next()), raw, valid)
		a.settle()
		for _, s := range a.Statuses() {
			if s.Status != protocol.PlaybookCompletedWithError && s.Status != protocol.PlaybookSuccessfullyCompleted && s.Reason != ReasonAnsibleMissing {
				t.Errorf("%+v", s)
			}
		}
	})
}
