package firewall

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"

	"github.com/project-flotta/flotta-agent/internal/command"
)

// noGuard is a host with nothing else that guards it.
type noGuard struct{}

func (noGuard) ensure(context.Context, []Opening) (bool, error) { return false, nil }
func (noGuard) watch(ctx context.Context, _ func())             { <-ctx.Done() }

func TestRichRules(t *testing.T) {
	t.Parallel()
	got := richRules([]Opening{
		open("web", "tcp", "", 8080),
		open("other", "tcp", "", 8080), // the same to a firewall
		open("web", "udp", "192.0.2.7", 53),
		open("web", "sctp", "fe80::1", 9),
		open("web", "tcp", "127.0.0.1", 81),
		open("web", "tcp", "::1", 81),
	})
	want := []string{
		`rule priority="32123" family="ipv4" destination address="192.0.2.7" port port="53" protocol="udp" accept`,
		`rule priority="32123" family="ipv6" destination address="fe80::1" port port="9" protocol="sctp" accept`,
		`rule priority="32123" port port="8080" protocol="tcp" accept`,
	}
	if diff := cmp.Diff(want, slices.Sorted(maps.Values(got))); diff != "" {
		t.Errorf("rules (-want +got):\n%s", diff)
	}
	for form, rule := range got {
		if !ours(rule) || sameRule(rule) != form {
			t.Errorf("%s: ours %v, form %q", rule, ours(rule), sameRule(rule))
		}
	}
}

func TestSameRule(t *testing.T) {
	t.Parallel()
	const rule = `rule priority="32123" family="ipv6" destination address="fe80::1" port port="9" protocol="tcp" accept`
	for other, want := range map[string]bool{
		rule: true,
		`rule family="ipv6" priority="32123" destination address="fe80:0:0::1" port protocol="tcp" port="9" accept`: true,
		strings.ReplaceAll(rule, `"`, "'"):             true,
		strings.Replace(rule, `"9"`, `"10"`, 1):        false,
		strings.Replace(rule, "accept", "drop", 1):     false,
		strings.Replace(rule, "fe80::1", "fe80::2", 1): false,
		rule + " log": false,
		"":            false,
	} {
		if got := sameRule(rule) == sameRule(other); got != want {
			t.Errorf("%q is the same: %v, want %v", other, got, want)
		}
	}
	for _, theirs := range []string{
		"", `rule port port="32123" protocol="tcp" accept`, `rule priority="-32123" port port="1" protocol="tcp" accept`, `rule priority="321230" accept`,
	} {
		if ours(theirs) {
			t.Errorf("%q is taken for ours", theirs)
		}
	}
}

func FuzzSameRule(f *testing.F) {
	f.Add(`rule family="ipv4" destination address="192.0.2.7/24" port port="53" protocol="udp" accept`)
	f.Fuzz(func(t *testing.T, rule string) {
		if form := sameRule(rule); sameRule(form) != form {
			t.Errorf("%q has the form %q, and that another one", rule, form)
		}
	})
}

// daemon is a guard that can be told what to do.
type daemon struct {
	mu       sync.Mutex
	running  bool
	err      error
	openings []Opening
	asked    int
	reloaded func()
}

func (d *daemon) ensure(_ context.Context, openings []Opening) (bool, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.asked++
	if d.running && d.err == nil {
		d.openings = openings
	}
	return d.running, d.err
}

func (d *daemon) watch(ctx context.Context, changed func()) {
	d.mu.Lock()
	d.reloaded = changed
	d.mu.Unlock()
	<-ctx.Done()
}

// set changes it, and says so as a reload does.
func (d *daemon) set(running bool, err error) {
	d.mu.Lock()
	d.running, d.err, d.openings = running, err, nil
	reloaded := d.reloaded
	d.mu.Unlock()
	reloaded()
}

func (d *daemon) has() []Opening {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.openings
}

func TestGuardOfTheHost(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		web := []Opening{open("web", "tcp", "", 80), open("web", "udp", "::1", 53)} // as the kernel has them
		w, k, g := &world{changed: make(chan struct{})}, &kernel{}, &daemon{running: true}
		w.set(true, web...)
		r, err := New(w.config())
		if err != nil {
			t.Fatal(err)
		}
		r.nft, r.guard = k.run, g
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- r.Run(ctx) }()
		expect := func(what string, openings []Opening, problem string) {
			t.Helper()
			synctest.Wait() // no time passes: the resync has no part in it
			if diff := cmp.Diff(openings, g.has(), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
				t.Errorf("%s (-want +got):\n%s", what, diff)
			}
			if got := r.Status().Problem; !strings.Contains(got, problem) || (got == "") != (problem == "") {
				t.Errorf("%s: problem %q, want %q", what, got, problem)
			}
		}
		expect("the guard is told", web, "")
		g.set(true, nil)
		expect("it was reloaded", web, "")
		g.set(true, errors.New("it is in panic mode"))
		expect("it refuses", nil, "such as with firewall-cmd --add-port=80/tcp: it is in panic mode")
		g.set(false, nil)
		expect("it was stopped", nil, "")
		k.set(func(k *kernel) { k.err = fmt.Errorf("nft is %w", command.ErrAbsent) })
		g.set(true, nil)
		expect("there is no nft beside it", web, "")
		k.set(func(k *kernel) { k.err = nil })
		w.set(true)
		expect("nothing is to be open", nil, "")
		w.set(true, web...)
		expect("it is again", web, "")
		if err := r.Clear(t.Context()); err != nil || len(g.has()) > 0 {
			t.Errorf("clear: %v, %v", err, g.has())
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}
