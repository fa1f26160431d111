package identity

import (
	"bytes"
	"context"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/project-flotta/flotta-agent/internal/pki"
	"github.com/project-flotta/flotta-agent/internal/transport"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// keeper is a registered device whose clock is the bubble's.
type keeper struct {
	*Device
	t      *testing.T
	site   *site
	api    *renewingAPI
	held   atomic.Bool
	mu     sync.Mutex
	events []string
	log    bytes.Buffer
	stop   func()
}

// renewingAPI knows the keys that may ask for a certificate, as the real one.
type renewingAPI struct {
	fakeAPI
	keys   []string                                        // newest first
	before func(transport.Message) (transport.Reply, bool) // in the place of everything
	lose   bool
}

func (a *renewingAPI) Send(_ context.Context, m transport.Message) (transport.Reply, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.sent = append(a.sent, m)
	if a.before != nil {
		if r, done := a.before(m); done {
			return r, nil
		}
	}
	if m.Directive != protocol.DirectiveRegistration {
		return transport.Reply{Status: http.StatusAlreadyReported}, nil
	}
	a.registered = "" // any key
	r, err := a.register(m)
	if a.keys = append([]string{a.registered}, a.keys...); a.lose && err == nil {
		return transport.Reply{}, context.DeadlineExceeded
	}
	return r, err
}

func newKeeper(t *testing.T, change func(*Config)) *keeper {
	t.Helper()
	k := &keeper{t: t, site: newSite(t, "client.pem", "key.pem")}
	k.api = &renewingAPI{}
	k.api.ca, k.api.approved = k.site.ca, true
	c := Config{
		Settings: k.site.settings, Sender: k.api, Log: slog.New(slog.NewTextHandler(&k.log, nil)), Held: k.held.Load,
		Event: func(e protocol.EventInfo) {
			k.mu.Lock()
			defer k.mu.Unlock()
			k.events = append(k.events, e.Reason)
		},
	}
	if change != nil {
		change(&c)
	}
	k.Device = must[*Device](t)(New(c))
	return k
}

func (k *keeper) run() {
	ctx, cancel := context.WithCancel(k.t.Context())
	done := make(chan error, 1)
	go func() { done <- k.Run(ctx) }()
	k.stop = func() {
		cancel()
		if err := <-done; err != nil {
			k.t.Error(err)
		}
	}
}

// pass lets time go by in steps, so that nothing is left undone in between.
func (k *keeper) pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func (k *keeper) registrations() int { return len(k.api.messages(protocol.DirectiveRegistration)) }

func (k *keeper) serial() string {
	k.t.Helper()
	return must[*pair](k.t)(k.credential.load()).leaf.SerialNumber.String()
}

func (k *keeper) tell(f func(*renewingAPI)) {
	k.api.mu.Lock()
	defer k.api.mu.Unlock()
	f(k.api)
}

func TestRenewsInTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		k := newKeeper(t, nil)
		k.run()
		defer func() { k.stop() }()
		k.pass(time.Minute)
		first := k.serial()
		k.pass(18 * day)
		if k.registrations() != 1 {
			t.Fatalf("%d registrations after 18 of 30 days, want the first", k.registrations())
		}
		k.pass(6 * day) // two thirds of 31 days and a tenth are over, less the day it was dated back
		second := k.serial()
		if second == first || k.registrations() != 2 {
			t.Fatalf("not renewed: %d registrations\n%s", k.registrations(), k.log.String())
		}
		k.pass(60 * day) // and so on, for years
		if n := k.registrations(); n < 4 || n > 6 {
			t.Errorf("%d registrations in three months, want one in three weeks", n)
		}
		if k.api.keys[0] == k.api.keys[1] {
			t.Error("renewed for the same key")
		}
		if got := inPlace(t, k.site.settings); got != "dev1" || k.Problem() != "" {
			t.Errorf("in place %q, problem %q", got, k.Problem())
		}
	})
}

func TestRenewalOutlivesFailures(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		k := newKeeper(t, nil)
		k.run()
		defer func() { k.stop() }()
		k.pass(time.Minute)
		first := k.serial()
		k.tell(func(a *renewingAPI) {
			a.before = func(transport.Message) (transport.Reply, bool) {
				return transport.Reply{Status: http.StatusInternalServerError}, true
			}
		})
		k.pass(29 * day)
		if k.serial() != first || k.Problem() == "" {
			t.Errorf("another certificate, or no problem: %q", k.Problem())
		}
		if n := k.registrations(); n < 100 || n > 400 {
			t.Errorf("%d attempts in a week or so of failures, want about one in an hour", n)
		}
		k.pass(5 * day) // it is expired now
		before := k.registrations()
		k.pass(time.Hour)
		if n := k.registrations() - before; n < 8 || n > 20 {
			t.Errorf("%d attempts in an hour with an expired certificate, want about 12", n)
		}
		// Answers are lost now: the server has the new key, and gets the same again.
		k.tell(func(a *renewingAPI) { a.before, a.lose = nil, true })
		k.pass(30 * time.Minute)
		k.tell(func(a *renewingAPI) { a.lose = false })
		k.pass(30 * time.Minute)
		if k.serial() == first || k.Problem() != "" {
			t.Errorf("not renewed: %s\n%s", k.Problem(), k.log.String())
		}
		for _, key := range k.api.keys[:len(k.api.keys)-1] {
			if key != k.api.keys[0] {
				t.Error("another key was asked for after a lost answer")
			}
		}
		k.mu.Lock()
		defer k.mu.Unlock()
		if n := strings.Count(strings.Join(k.events, " "), "CertificateNotRenewed"); n < 1 || n > 3 {
			t.Errorf("events %v, want one for each kind of failure", k.events)
		}
	})
}

func TestRefusedCertificateIsRenewed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		k := newKeeper(t, nil)
		k.Unauthorized() // before there is anything to refuse
		k.run()
		defer func() { k.stop() }()
		k.pass(10 * time.Minute)
		first := k.serial()
		k.Unauthorized()
		k.pass(time.Second)
		if k.serial() == first {
			t.Error("not renewed at once")
		}
		before := k.registrations()
		for range 360 { // a server that refuses everything, for an hour
			k.Unauthorized()
			k.pass(10 * time.Second)
		}
		if n := k.registrations() - before; n > 6 {
			t.Errorf("%d renewals in an hour", n)
		}
	})
}

func TestExpiredCertificateIsRenewedAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		k := newKeeper(t, nil)
		if err := k.ensure(t.Context()); err != nil {
			t.Fatal(err)
		}
		k.pass(90 * day)
		again := newKeeper(t, func(c *Config) { c.Settings, c.Sender = k.site.settings, k.api })
		before := again.credential
		old := must[*pair](t)(before.load()).leaf.SerialNumber
		again.run()
		defer func() { again.stop() }()
		again.pass(time.Second)
		if now := must[*pair](t)(before.load()).leaf.SerialNumber; now.Cmp(old) == 0 {
			t.Errorf("not renewed\n%s", again.log.String())
		}
		if len(k.api.messages(protocol.DirectiveEnrolment)) != 1 {
			t.Error("a registered device enrolled again")
		}
	})
}

// yggd watches files that the first change took away. Without a file of
// authorities, which stays, it has to be told in another way.
func TestYggdIsToldWhenItCannotNotice(t *testing.T) {
	t.Parallel()
	for _, authorities := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			told := 0
			k := newKeeper(t, func(c *Config) {
				if c.Unnoticed = func(context.Context) { told++ }; !authorities {
					c.Settings.CAFiles = nil
				}
			})
			k.run()
			k.pass(25 * day)
			k.stop()
			if want := map[bool]int{true: 0, false: 1}[authorities]; told != want || k.registrations() != 2 {
				t.Errorf("with authorities %t: told %d times, want %d", authorities, told, want)
			}
		})
	}
}

func TestHeldDeviceAsksForNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		k := newKeeper(t, func(c *Config) { c.Retry = time.Hour })
		k.run()
		defer func() { k.stop() }()
		k.pass(time.Minute)
		k.held.Store(true)
		k.pass(60 * day)
		k.Unauthorized()
		k.pass(time.Hour)
		if k.registrations() != 1 {
			t.Errorf("%d registrations, want the first alone", k.registrations())
		}
		k.held.Store(false)
		k.pass(2 * time.Hour)
		if k.registrations() != 2 {
			t.Errorf("%d registrations, want the due renewal", k.registrations())
		}
		// Held while the question is under way: the answer is dropped.
		serial := k.serial()
		k.tell(func(a *renewingAPI) {
			a.before = func(transport.Message) (transport.Reply, bool) { k.held.Store(true); return transport.Reply{}, false }
		})
		k.pass(time.Hour)
		k.Unauthorized()
		k.pass(time.Minute)
		if k.registrations() != 3 || k.serial() != serial {
			t.Errorf("%d registrations, serial changed: %t; want the third without effect", k.registrations(), k.serial() != serial)
		}
	})
}

func TestSurrenderAndEnrolAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		k := newKeeper(t, func(c *Config) { c.Retry = 5 * time.Minute })
		k.run()
		defer func() { k.stop() }()
		k.pass(time.Minute)
		must[key](t)(k.credential.pendingKey()) // of a renewal that did not come through
		k.held.Store(true)
		for range 2 {
			if err := k.Surrender(); err != nil {
				t.Fatal(err)
			}
			if got := inPlace(t, k.site.settings); got != pki.RegisterName {
				t.Errorf("in place: %q", got)
			}
			if _, err := os.Stat(k.credential.beside(pendingName)); !os.IsNotExist(err) {
				t.Errorf("pending key: %v, want none", err)
			}
		}
		k.pass(6 * time.Hour)
		if got := inPlace(t, k.site.settings); got != pki.RegisterName || k.registrations() != 1 {
			t.Errorf("in place %q after %d registrations; want nothing to happen while held", got, k.registrations())
		}
		k.held.Store(false)
		k.pass(10 * time.Minute)
		if got := inPlace(t, k.site.settings); got != "dev1" || k.api.keys[0] == k.api.keys[1] {
			t.Errorf("in place %q; want a certificate for a new key", got)
		}
		if n := len(k.api.messages(protocol.DirectiveEnrolment)); n != 2 {
			t.Errorf("%d enrolments, want one for each life", n)
		}
	})
}
