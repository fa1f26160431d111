package identity

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/project-flotta/flotta-agent/internal/pki"
	"github.com/project-flotta/flotta-agent/internal/transport"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

func now() time.Time { return time.Now() }

func newDevice(t *testing.T, s *site, api *fakeAPI, log *bytes.Buffer) *Device {
	t.Helper()
	logger := slog.New(slog.DiscardHandler)
	if log != nil {
		logger = slog.New(slog.NewTextHandler(log, nil))
	}
	return must[*Device](t)(New(Config{
		Settings: s.settings, Sender: api, Log: logger,
		TagsFile: filepath.Join(filepath.Dir(s.settings.CAFiles[0]), "tags.toml"),
		Hardware: func() *protocol.HardwareInfo { return &protocol.HardwareInfo{Hostname: "edge"} },
	}))
}

func isRegistered(d *Device) bool {
	select {
	case <-d.Registered():
		return true
	default:
		return false
	}
}

func TestNewRefuses(t *testing.T) {
	t.Parallel()
	good := transport.Settings{DeviceID: "dev1", CertFile: "/c", KeyFile: "/k"}
	for name, change := range map[string]func(*Config){
		"no id":          func(c *Config) { c.Settings.DeviceID = "" },
		"register":       func(c *Config) { c.Settings.DeviceID = "Register" },
		"no cert":        func(c *Config) { c.Settings.CertFile = "" },
		"no key":         func(c *Config) { c.Settings.KeyFile = "" },
		"no sender":      func(c *Config) { c.Sender = nil },
		"no log":         func(c *Config) { c.Log = nil },
		"negative retry": func(c *Config) { c.Retry = -1 },
		"late renewal":   func(c *Config) { c.RenewAt = 0.96 },
		"odd renewal":    func(c *Config) { c.RenewAt = math.NaN() },
	} {
		c := Config{Settings: good, Sender: &fakeAPI{}, Log: slog.New(slog.DiscardHandler)}
		change(&c)
		if _, err := New(c); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestEnrolsUntilApprovedThenRegisters(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	api := &fakeAPI{}
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "client.pem", "key.pem") // in here: certificates are of this clock
		write(t, filepath.Join(filepath.Dir(s.settings.CAFiles[0]), "tags.toml"), []byte("namespace = \"plant-7\"\nrack = 4\n"))
		api.ca = s.ca
		d := newDevice(t, s, api, &log)
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		done := make(chan error, 1)
		go func() { done <- d.Run(ctx) }()
		time.Sleep(time.Minute)
		synctest.Wait()
		if n := len(api.messages(protocol.DirectiveEnrolment)); n < 5 || n > 9 {
			t.Errorf("asked %d times in a minute, want about 6", n)
		}
		if n := len(api.messages(protocol.DirectiveRegistration)); n != 0 || isRegistered(d) {
			t.Error("registered without approval")
		}
		api.mu.Lock()
		api.approved = true
		api.mu.Unlock()
		time.Sleep(time.Minute)
		synctest.Wait()
		if !isRegistered(d) {
			t.Errorf("not registered:\n%s", log.String())
		}
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run = %v", err)
		}
		if got := inPlace(t, s.settings); got != "dev1" {
			t.Errorf("in place: %q", got)
		}
	})
	if n := strings.Count(log.String(), "waiting for approval"); n != 1 {
		t.Errorf("waiting logged %d times, want once:\n%s", n, log.String())
	}
	var enrolment protocol.EnrolmentInfo
	if err := json.Unmarshal(api.messages(protocol.DirectiveEnrolment)[0].Content, &enrolment); err != nil {
		t.Fatal(err)
	}
	if enrolment.TargetNamespace == nil || *enrolment.TargetNamespace != "plant-7" {
		t.Errorf("namespace = %v", enrolment.TargetNamespace)
	}
	if enrolment.Features == nil || enrolment.Features.Hardware.Hostname != "edge" {
		t.Errorf("features = %+v", enrolment.Features)
	}
}

func TestRegisteredAlready(t *testing.T) {
	t.Parallel()
	s := newSite(t, "client.pem", "key.pem")
	if err := s.credential().replace(s.issue(t, "DEV1")); err != nil {
		t.Fatal(err)
	}
	api := &fakeAPI{ca: s.ca}
	d := newDevice(t, s, api, nil)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx) }()
	<-d.Registered()
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if len(api.sent) > 0 {
		t.Errorf("sent: %v", api.sent)
	}
}

func TestLostAnswer(t *testing.T) {
	t.Parallel()
	s := newSite(t, "client.pem", "key.pem")
	api := &fakeAPI{ca: s.ca, approved: true, lose: 2}
	for n := range 2 { // each by a process of its own
		if err := newDevice(t, s, api, nil).ensure(t.Context()); err == nil {
			t.Fatalf("attempt %d: registered without an answer", n)
		}
		if got := inPlace(t, s.settings); got != pki.RegisterName {
			t.Fatalf("in place: %q", got)
		}
	}
	if err := newDevice(t, s, api, nil).ensure(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := inPlace(t, s.settings); got != "dev1" {
		t.Errorf("in place: %q", got)
	}
}

func TestCertificatesThatAreRefused(t *testing.T) {
	t.Parallel()
	other := newAuthority(t)
	profile := pki.DeviceProfile{ID: "dev1", Namespace: "default"}
	for name, c := range map[string]struct {
		issue func(*site, *pki.Request) ([]byte, error)
		want  string
	}{
		"other name": {func(s *site, r *pki.Request) ([]byte, error) {
			return s.ca.IssueDevice(r, pki.DeviceProfile{ID: "dev2", Namespace: "default"}, now())
		}, "dev2"},
		"other key": {func(s *site, _ *pki.Request) ([]byte, error) {
			return s.issue(t, "dev1").text, nil
		}, "private key does not match"},
		"other authority": {func(_ *site, r *pki.Request) ([]byte, error) {
			return other.IssueDevice(r, profile, now())
		}, "unknown authority"},
		"authority": {func(s *site, _ *pki.Request) ([]byte, error) { return s.ca.CertificatePEM(), nil }, "private key does not match"},
		"no PEM":    {func(*site, *pki.Request) ([]byte, error) { return []byte("certificate"), nil }, "parse certificate"},
		"nothing":   {func(*site, *pki.Request) ([]byte, error) { return nil, nil }, "no certificate"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, "client.pem", "key.pem")
			api := &fakeAPI{approved: true, issue: func(r *pki.Request) ([]byte, error) { return c.issue(s, r) }}
			err := newDevice(t, s, api, nil).ensure(t.Context())
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("ensure = %v, want %q in it", err, c.want)
			}
			if got := inPlace(t, s.settings); got != pki.RegisterName {
				t.Errorf("in place: %q", got)
			}
		})
	}
}

func TestWrongClock(t *testing.T) {
	t.Parallel()
	s := newSite(t, "client.pem", "key.pem")
	var log bytes.Buffer
	api := &fakeAPI{approved: true, issue: func(r *pki.Request) ([]byte, error) {
		return s.ca.IssueDevice(r, pki.DeviceProfile{ID: "dev1", Namespace: "default"}, now().AddDate(0, 3, 0))
	}}
	if err := newDevice(t, s, api, &log).ensure(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(log.String(), "clock") {
		t.Errorf("the clock is not mentioned:\n%s", log.String())
	}
}

func TestAnswersThatAreRefused(t *testing.T) {
	t.Parallel()
	s := newSite(t, "client.pem", "key.pem")
	for name, c := range map[string]struct {
		directive string
		reply     transport.Reply
		want      string
	}{
		"enrolment refused":     {protocol.DirectiveEnrolment, transport.Reply{Status: 401}, "enrol: refused with status 401"},
		"enrolment refused why": {protocol.DirectiveEnrolment, transport.Reply{Status: 400, Body: []byte(strings.Repeat("x", 5000))}, "enrol: refused with status 400: \"xxx"},
		"enrolment odd":         {protocol.DirectiveEnrolment, transport.Reply{Status: 201}, "status 201"},
		"not approved":          {protocol.DirectiveRegistration, transport.Reply{Status: 404}, "register: refused with status 404"},
		"not JSON":              {protocol.DirectiveRegistration, transport.Reply{Status: 200, Body: []byte("<html>")}, "decode answer"},
		"no body":               {protocol.DirectiveRegistration, transport.Reply{Status: 200}, "decode answer"},
		"no content":            {protocol.DirectiveRegistration, transport.Reply{Status: 200, Body: []byte("{}")}, "decode answer"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			api := &fakeAPI{ca: s.ca, approved: true, answer: func(m transport.Message) *transport.Reply {
				if m.Directive == c.directive {
					return &c.reply
				}
				return nil
			}}
			err := newDevice(t, s, api, nil).ensure(t.Context())
			if err == nil || !strings.Contains(err.Error(), c.want) || len(err.Error()) > 400 {
				t.Errorf("ensure = %v, want %q in it", err, c.want)
			}
		})
	}
}

func TestMissingAuthorityFileStopsBeforeTheServerIsAsked(t *testing.T) {
	t.Parallel()
	s := newSite(t, "client.pem", "key.pem")
	if err := os.Remove(s.settings.CAFiles[0]); err != nil {
		t.Fatal(err)
	}
	api := &fakeAPI{ca: s.ca, approved: true}
	if err := newDevice(t, s, api, nil).ensure(t.Context()); err == nil {
		t.Error("registered")
	}
	if len(api.sent) > 0 {
		t.Errorf("sent: %v", api.sent)
	}
}

func TestNamespace(t *testing.T) {
	t.Parallel()
	for content, want := range map[string]string{
		"":                      defaultNamespace,
		"rack = 4":              defaultNamespace,
		`namespace = "plant-7"`: "plant-7",
		`namespace = "Plant 7"`: "",
		`namespace = ""`:        "",
		`namespace = 7`:         "",
		`namespace = "` + strings.Repeat("a", 64) + `"`: "",
		"namespace = ": "",
	} {
		got, err := decodeNamespace([]byte(content))
		if got != want || (err != nil) != (want == "") {
			t.Errorf("%q: %q, %v, want %q", content, got, err, want)
		}
	}
	s := newSite(t, "client.pem", "key.pem")
	var log bytes.Buffer
	d := newDevice(t, s, &fakeAPI{}, &log)
	if got := d.namespace(); got != defaultNamespace || log.Len() > 0 {
		t.Errorf("without a file: %q, %s", got, log.String())
	}
	write(t, d.cfg.TagsFile, []byte("namespace = 7"))
	for range 3 {
		if got := d.namespace(); got != defaultNamespace {
			t.Errorf("bad file: %q", got)
		}
	}
	if n := strings.Count(log.String(), "namespace tag not usable"); n != 1 {
		t.Errorf("bad file logged %d times:\n%s", n, log.String())
	}
}

func FuzzDecodeNamespace(f *testing.F) {
	f.Add([]byte(`namespace = "plant-7"`))
	f.Add([]byte("[namespace]\na = 1"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if name, err := decodeNamespace(raw); err == nil && !validNamespace(name) {
			t.Errorf("accepted %q", name)
		}
	})
}

func FuzzDecodeRegistration(f *testing.F) {
	f.Add([]byte(`{"message_id":"m","directive":"registration","content":{"certificate":"-----BEGIN CERTIFICATE-----"}}`))
	f.Add([]byte(`{"content":null}`))
	s := newSite(f, "client.pem", "key.pem")
	d := must[*Device](f)(New(Config{Settings: s.settings, Sender: &fakeAPI{}, Log: slog.New(slog.DiscardHandler)}))
	key := must[key](f)(s.credential().pendingKey())
	roots := must[*x509.CertPool](f)(d.authorities())
	f.Fuzz(func(t *testing.T, body []byte) {
		certPEM, err := decodeRegistration(body)
		if err != nil {
			return
		}
		if len(certPEM) == 0 {
			t.Error("no certificate and no error")
		}
		if _, err := d.accept(certPEM, key, roots); err == nil {
			t.Error("accepted a certificate that nobody issued")
		}
	})
}
