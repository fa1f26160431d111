package firewall

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/project-flotta/flotta-agent/internal/command"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

func open(workload, protocol, address string, port uint16) Opening {
	o := Opening{Workload: workload, Protocol: protocol, Port: port}
	if address != "" {
		o.Address = netip.MustParseAddr(address)
	}
	return o
}

func TestScript(t *testing.T) {
	t.Parallel()
	openings, refused := normal([]Opening{
		open("web.shop-1", "tcp", "", 443),
		open("web.shop-1", "tcp", "0.0.0.0", 80),
		open("web.shop-1", "tcp", "::", 80), // the same
		open("a", "sctp", "fe80::1%eth0", 9),
		open("a", "udp", "::ffff:192.0.2.7", 53),
	})
	if len(refused) != 0 {
		t.Errorf("refused %v", refused)
	}
	const want = `add table inet flotta
delete table inet flotta
table inet flotta {
	chain input {
		type filter hook input priority 0; policy accept;
		jump workload-a
		jump workload-web.shop-1
	}
	chain workload-a {
		ip6 daddr fe80::1 sctp dport 9 accept
		ip daddr 192.0.2.7 udp dport 53 accept
	}
	chain workload-web.shop-1 {
		tcp dport 80 accept
		tcp dport 443 accept
	}
}
`
	if diff := cmp.Diff(want, desired(openings).script()); diff != "" {
		t.Errorf("script (-want +got):\n%s", diff)
	}
	if got := desired(nil).script(); got != "add table inet flotta\ndelete table inet flotta\n" {
		t.Errorf("script for nothing: %q", got)
	}
}

// hostile are names that must never reach nft.
func hostile() []string {
	return []string{
		"", "-", "-a", "a-", ".", "a.", ".a", "a..b", "A", "ä", "a_b", "a b", "a\n", "a;", "a}", "a#b", "a\x00", "a/b", "../a", `a"`, "$a", "@a",
		"x { type filter hook input priority 0; policy drop; }", "x accept\n\t}\n}\nflush ruleset\n", strings.Repeat("a", 64), strings.Repeat("a.", 200),
	}
}

func TestHostileOpeningsAreRefused(t *testing.T) {
	t.Parallel()
	var openings []Opening
	for _, name := range hostile() {
		openings = append(openings, open(name, "tcp", "", 80))
	}
	for _, protocol := range []string{"", "TCP", "icmp", "tcp dport 1 accept; udp"} {
		openings = append(openings, open("fine", protocol, "", 80))
	}
	openings = append(openings, open("fine", "tcp", "", 0), open("fine", "tcp", "", 81))
	good, refused := normal(openings)
	if diff := cmp.Diff([]string{"tcp dport 81 accept"}, desired(good).rules["workload-fine"]); diff != "" || len(good) != 1 {
		t.Errorf("what is left (-want +got):\n%s%v", diff, good)
	}
	if len(refused) != len(openings)-1 {
		t.Errorf("%d of %d are refused", len(refused), len(openings)-1)
	}
	for _, text := range refused {
		if strings.ContainsAny(text, "\n\x00") || len(text) > 500 {
			t.Errorf("not for a person: %q", text)
		}
	}
	if text := problem(nil, nil, nil, refused); len(text) > 1000 || !strings.HasSuffix(text, "and others") {
		t.Errorf("problem %q", text)
	}
}

func FuzzName(f *testing.F) {
	for _, name := range hostile() {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		if isName(name) && (len(name) > maxName || strings.ContainsAny(name, " \t\r\n\x00{};#\"'\\/*$@,|&<>=:_")) {
			t.Errorf("%q is a name", name)
		}
	})
}

// listed is what nft 1.0.6 prints of the table for web: tcp 80, and udp 53 on ::1.
func listed(flags, more string) string {
	return `{"nftables": [{"metainfo": {"version": "1.0.6", "json_schema_version": 1}}, {"table": {"family": "inet", "name": "flotta"` + flags + `, "handle": 2}},
{"chain": {"family": "inet", "table": "flotta", "name": "workload-web", "handle": 2}},
{"chain": {"family": "inet", "table": "flotta", "name": "input", "handle": 1, "type": "filter", "hook": "input", "prio": 0, "policy": "accept"}},
{"rule": {"family": "inet", "table": "flotta", "chain": "input", "handle": 3, "expr": [{"jump": {"target": "workload-web"}}]}},
{"rule": {"family": "inet", "table": "flotta", "chain": "workload-web", "handle": 4, "expr": [{"match": {"op": "==", "left": {"payload": {"protocol": "tcp", "field": "dport"}}, "right": 80}}, {"accept": null}]}},
{"rule": {"family": "inet", "table": "flotta", "chain": "workload-web", "handle": 5, "expr": [{"match": {"op": "==", "left": {"payload": {"protocol": "ip6", "field": "daddr"}}, "right": "0:0::1"}}, {"match": {"op": "==", "left": {"payload": {"protocol": "udp", "field": "dport"}}, "right": 53}}, {"accept": null}]}}` + more + `]}`
}

func TestListing(t *testing.T) {
	t.Parallel()
	good, _ := normal([]Opening{open("web", "tcp", "", 80), open("web", "udp", "::1", 53)})
	want := desired(good)
	if have := parse([]byte(listed("", ""))); !have.equal(want) {
		t.Errorf("listing is %+v, want %+v", have, want)
	}
	const drop = `, {"rule": {"chain": "workload-web", "expr": [{"match": {"op": "==", "left": {"payload": {"protocol": "tcp", "field": "dport"}}, "right": 22}}, {"drop": null}]}}`
	for name, text := range map[string]string{
		"asleep":        listed(`, "flags": ["dormant"]`, ""),
		"another chain": listed("", `, {"chain": {"name": "mine"}}`),
		"another hook":  strings.Replace(listed("", ""), `"hook": "input"`, `"hook": "output"`, 1),
		"another order": strings.Replace(listed("", ""), `"prio": 0`, `"prio": -5`, 1),
		"policy drop":   strings.Replace(listed("", ""), `"policy": "accept"`, `"policy": "drop"`, 1),
		"a set":         listed("", `, {"set": {"name": "s"}}`),
		"a rule more":   listed("", drop),
		"another port":  strings.Replace(listed("", ""), "80}}", "81}}", 1),
		"not that port": strings.Replace(listed("", ""), "==", "!=", 1),
		"a port range":  strings.Replace(listed("", ""), "80}}", `{"range": [80, 90]}}}`, 1),
		"no jump":       strings.Replace(listed("", ""), `"jump": {"target": "workload-web"}`, `"drop": null`, 1),
		"goto":          strings.Replace(listed("", ""), `"jump"`, `"goto"`, 1),
		"half of it":    listed("", "")[:100],
		"half, later":   listed("", "")[:len(listed("", ""))-1],
		"nothing":       "",
		"odd types":     strings.Replace(listed("", ""), `"prio": 0`, `"prio": "filter"`, 1),
	} {
		if parse([]byte(text)).equal(want) {
			t.Errorf("%s: passes for what it should be", name)
		}
	}
}

func TestStrictTables(t *testing.T) {
	t.Parallel()
	got := strict([]byte(`{"nftables": [{"metainfo": {}},
{"chain": {"family": "ip", "table": "filter", "name": "INPUT", "hook": "input", "type": "filter", "prio": 0, "policy": "drop"}},
{"chain": {"family": "inet", "table": "firewalld", "name": "filter_INPUT", "hook": "input", "prio": 10, "policy": "accept"}},
{"chain": {"family": "inet", "table": "open", "name": "x", "hook": "input", "policy": "accept"}},
{"chain": {"family": "inet", "table": "routed", "name": "x", "hook": "forward", "policy": "drop"}},
{"chain": {"family": "inet", "table": "flotta", "name": "input", "hook": "input", "policy": "drop"}},
{"chain": {"family": "inet", "table": "firewalld", "name": "policy"}}, {"rule": {"chain": "INPUT"}}]}`))
	if diff := cmp.Diff([]string{"inet firewalld", "ip filter"}, got); diff != "" {
		t.Errorf("tables (-want +got):\n%s", diff)
	}
	if got := strict([]byte("{")); got != nil {
		t.Errorf("tables of nonsense: %v", got)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(listed("", "")))
	f.Add([]byte(`{"nftables":[{"rule":{"expr":[{"match":{"right":1e400}}]}},{"chain":7},{"table":null}]}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		have := parse(raw)
		if !have.equal(have) {
			t.Errorf("%+v differs from itself", have)
		}
		_ = strict(raw)
	})
}

// kernel is an nft that fails, or has nothing and takes everything.
type kernel struct {
	mu     sync.Mutex
	err    error
	calls  int
	writes int
	table  string // listing; empty: none
}

func (k *kernel) run(_ context.Context, script string, args ...string) ([]byte, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.calls++
	if k.err != nil {
		return nil, k.err
	}
	switch strings.Join(args, " ") {
	case "-f -":
		k.writes++
		k.table = listed("", "")
		if script == desired(nil).script() {
			k.table = ""
		}
		return nil, nil
	case "list tables":
		if k.table == "" {
			return []byte("table inet flotta2\n"), nil
		}
		return []byte("table ip filter\ntable inet flotta\n"), nil
	case "-j list table inet flotta":
		return []byte(k.table), nil
	}
	return []byte(`{"nftables": []}`), nil
}

func (k *kernel) set(f func(k *kernel)) {
	k.mu.Lock()
	defer k.mu.Unlock()
	f(k)
}

// world is what a Reconciler is told.
type world struct {
	mu       sync.Mutex
	openings []Opening
	known    bool
	changed  chan struct{}
	events   []string
}

func (w *world) config() Config {
	return Config{
		Openings: func() ([]Opening, bool) {
			w.mu.Lock()
			defer w.mu.Unlock()
			return w.openings, w.known
		},
		Changed: func() <-chan struct{} {
			w.mu.Lock()
			defer w.mu.Unlock()
			return w.changed
		},
		Event: func(e protocol.EventInfo) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.events = append(w.events, e.Type+" "+e.Reason)
		},
		Log: slog.New(slog.DiscardHandler),
	}
}

func (w *world) set(known bool, openings ...Opening) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.openings, w.known = openings, known
	close(w.changed)
	w.changed = make(chan struct{})
}

func TestConfig(t *testing.T) {
	t.Parallel()
	w := &world{}
	for name, change := range map[string]func(*Config){
		"no openings": func(c *Config) { c.Openings = nil },
		"no changes":  func(c *Config) { c.Changed = nil },
		"no log":      func(c *Config) { c.Log = nil },
		"negative":    func(c *Config) { c.Resync = -1 },
	} {
		cfg := w.config()
		change(&cfg)
		if _, err := New(cfg); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestRun(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		web := []Opening{open("web", "tcp", "", 80), open("web", "udp", "::1", 53)}
		w, k := &world{changed: make(chan struct{})}, &kernel{}
		r, err := New(w.config())
		if err != nil {
			t.Fatal(err)
		}
		r.nft, r.guard = k.run, noGuard{}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- r.Run(ctx) }()
		expect := func(what string, calls, writes int, problem string) {
			t.Helper()
			synctest.Wait()
			k.set(func(k *kernel) {
				if k.calls != calls || k.writes != writes {
					t.Errorf("%s: %d calls and %d writes, want %d and %d", what, k.calls, k.writes, calls, writes)
				}
				k.calls, k.writes = 0, 0
			})
			if got := r.Status().Problem; !strings.Contains(got, problem) || (got == "") != (problem == "") {
				t.Errorf("%s: problem %q, want %q", what, got, problem)
			}
		}
		time.Sleep(10 * time.Minute)
		expect("nothing is known", 0, 0, "")
		w.set(true)
		expect("nothing is to be open", 1, 0, "")
		w.set(true, web...)
		expect("ports", 5, 1, "") // tables, write, tables, table, chains of others
		w.set(true, web[1], web[0], web[0])
		expect("the same ports", 0, 0, "")
		w.set(false)
		expect("nothing is known again", 0, 0, "")
		w.set(true, web...)
		time.Sleep(time.Minute)
		expect("resync", 3, 0, "")
		k.set(func(k *kernel) { k.table = listed(`, "flags": ["dormant"]`, "") })
		time.Sleep(time.Minute)
		expect("changed by hand", 6, 1, "")

		noticed := r.Changed()
		k.set(func(k *kernel) { k.err = fmt.Errorf("nft is %w", command.ErrAbsent) })
		time.Sleep(time.Minute)
		expect("nft is gone", 1, 0, "nft is not installed")
		<-noticed
		time.Sleep(5 * time.Minute)
		expect("nft stays away", 5, 0, "nft is not installed")
		k.set(func(k *kernel) { k.err = nil })
		time.Sleep(time.Minute)
		expect("nft is back", 3, 0, "")
		w.set(true, append(web, open("x;", "tcp", "", 1))...)
		time.Sleep(time.Minute)
		expect("a name that cannot be", 3, 0, `"x;"`)
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		want := []string{"info FirewallRepaired", "warn FirewallFailed", "warn FirewallFailed"}
		if diff := cmp.Diff(want, w.events); diff != "" {
			t.Errorf("events (-want +got):\n%s", diff)
		}
	})
}

func TestFailureThatNobodyMinds(t *testing.T) {
	t.Parallel()
	w, k := &world{changed: make(chan struct{})}, &kernel{err: errors.New("operation not permitted")}
	w.set(true)
	r, err := New(w.config())
	if err != nil {
		t.Fatal(err)
	}
	r.nft, r.guard = k.run, noGuard{}
	if r.round(t.Context(), true); r.Status() != (Status{}) {
		t.Errorf("nothing is to be open, and yet: %+v", r.Status())
	}
	if err := r.Clear(t.Context()); err == nil {
		t.Error("a table that could not be looked for is said to be gone")
	}
	k.err = fmt.Errorf("nft is %w", command.ErrAbsent)
	if err := r.Clear(t.Context()); err != nil {
		t.Errorf("there is no nft, so there is no table: %v", err)
	}
}

func TestComplaint(t *testing.T) {
	t.Parallel()
	if got := complaint("\n/dev/stdin:1:2: Error: ?\nadd\n^^^\n"); got != "/dev/stdin:1:2: Error: ?" {
		t.Errorf("complaint %q", got)
	}
}
