package direct

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/project-flotta/flotta-agent/internal/pki"
	"github.com/project-flotta/flotta-agent/internal/transport"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

func copyAll(to io.Writer, r *http.Request) (int64, error) { return io.Copy(to, r.Body) }

func TestConfigurationComesOnce(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.answer("data/in", configuration("1"))
	r.run()
	r.until("asked often", func() bool { return len(r.asked("data/in")) > 5 })
	if diff := cmp.Diff([]string{`device {"version":"1"} b`}, r.got()); diff != "" {
		t.Errorf("handler (-want +got):\n%s", diff)
	}
	for i, q := range r.asked("data/in") {
		if want := map[bool]string{true: "", false: `"1"`}[i == 0]; q.etag != want || q.id != device || q.name != device {
			t.Errorf("request %d: %+v, want ETag %s", i, q, want)
		}
	}
	r.answer("data/in", configuration("2"))
	r.until("told the second one", func() bool { return len(r.got()) == 2 })
}

// TestRefusedConfigurationComesAgain, but not with every question.
func TestRefusedConfigurationComesAgain(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.refuse = errors.New("the disk is full")
	r.answer("data/in", configuration("1"))
	c, err := New(r.cfg)
	must(t, err)
	defer func() { must(t, c.Close()) }()
	for range 3 {
		must(t, c.ask(t.Context(), r))
	}
	if n := len(r.got()); n != 1 {
		t.Fatalf("handed over %d times at once", n)
	}
	if wait := time.Until(c.poll.refused); wait < 30*time.Second || wait > 2*time.Minute {
		t.Errorf("is asked for again after %s", wait)
	}
	c.poll.refused = time.Now()
	must(t, c.ask(t.Context(), r))
	if n := len(r.got()); n != 2 {
		t.Errorf("handed over %d times after the pause", n)
	}
}

func TestDisconnect(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.answer("data/in", text(http.StatusNotFound, ""))
	r.command(`{"command":"disconnect","arguments":null}`)
	r.run()
	r.until("disconnected", func() bool { return len(r.got()) == 1 })
	r.until("asked on", func() bool { return len(r.asked("control/in")) > 3 })
	if diff := cmp.Diff([]string{"disconnected"}, r.got()); diff != "" {
		t.Errorf("handler (-want +got):\n%s", diff)
	}
	if s := r.logged(); s != "" {
		t.Errorf("log: %s", s)
	}
}

func TestOtherCommands(t *testing.T) {
	t.Parallel()
	for command, want := range map[string]struct{ log, pong string }{
		`{"command":"ping"}`: {pong: `"pong"`},
		`{"command":"reconnect","arguments":{"delay":"1"}}`: {},
		`{"command":"sing"}`: {log: "command=sing"},
		`["x"]`:              {log: "decode command"},
	} {
		t.Run(command, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			r.answer("data/in", configuration("1"))
			r.command(command)
			r.run()
			r.until("asked on", func() bool { return len(r.got()) == 1 && len(r.asked("control/in")) > 2 })
			if s := r.logged(); !strings.Contains(s, want.log) {
				t.Errorf("log %q, want %q", s, want.log)
			}
			var pongs []string
			for _, q := range r.asked("control/out") {
				var m protocol.Message
				must(t, json.Unmarshal([]byte(q.body), &m))
				if m.Type != protocol.TypeEvent || m.ResponseTo != "c" {
					t.Errorf("answered %s", q.body)
				}
				pongs = append(pongs, string(m.Content))
			}
			if strings.Join(pongs, "") != want.pong {
				t.Errorf("answers %q, want %q", pongs, want.pong)
			}
		})
	}
}

// TestRegisterCertificateAsksNothing: there is nothing to be had with it, but a
// device can ask to be managed.
func TestRegisterCertificateAsksNothing(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.credential(pki.RegisterName)
	r.answer("data/in", configuration("1"))
	r.answer("data/out", text(http.StatusAlreadyReported, ""))
	c, err := New(r.cfg)
	must(t, err)
	defer func() { must(t, c.Close()) }()
	must(t, c.ask(t.Context(), r))
	reply, err := c.Send(t.Context(), transport.Message{Directive: protocol.DirectiveEnrolment, Content: []byte(`{}`)})
	if err != nil || reply.Status != http.StatusAlreadyReported {
		t.Fatalf("reply %+v, err %v", reply, err)
	}
	if q := r.asked("data/out"); len(r.asked("data/in"))+len(r.asked("control/in")) > 0 || len(q) != 1 || q[0].name != pki.RegisterName {
		t.Errorf("requests %+v", r.requests)
	}
	r.credential(device)
	must(t, c.ask(t.Context(), r))
	if len(r.got()) != 1 {
		t.Errorf("handler got %q with the device's certificate", r.got())
	}
}

// TestExchangedCredential is used on new connections at once.
func TestExchangedCredential(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.answer("data/out", text(http.StatusOK, ""))
	c, err := New(r.cfg)
	must(t, err)
	defer func() { must(t, c.Close()) }()
	send := func() {
		t.Helper()
		if reply, err := c.Send(t.Context(), transport.Message{Directive: "heartbeat"}); err != nil || reply.Status != http.StatusOK {
			t.Fatalf("reply %+v, err %v", reply, err)
		}
	}
	send()
	before, err := os.ReadFile(r.path("cert.pem"))
	must(t, err)
	r.credential("device-2")
	after, err := os.ReadFile(r.path("cert.pem"))
	must(t, err)
	send()
	r.write("cert.pem", before) // does not fit the key: somebody is about to exchange both
	send()
	must(t, os.Remove(r.path("cert.pem")))
	send()
	send()
	r.write("cert.pem", after)
	send()
	var names []string
	for _, q := range r.asked("data/out") {
		names = append(names, q.name)
	}
	if diff := cmp.Diff([]string{device, "device-2", "device-2", "device-2", "device-2", "device-2"}, names); diff != "" {
		t.Errorf("certificates (-want +got):\n%s", diff)
	}
	if n := strings.Count(r.logged(), "credential not read"); n != 2 {
		t.Errorf("%d complaints about two troubles:\n%s", n, r.logged())
	}
}

// TestAnswerOfAFormerLife: a device that has left and came back is not told again
// to leave by an answer that was on its way.
func TestAnswerOfAFormerLife(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.answer("control/in", func(w http.ResponseWriter, _ *http.Request) {
		r.credential(device)
		_, _ = w.Write([]byte(`{"type":"command","content":{"command":"disconnect"}}`))
	})
	c, err := New(r.cfg)
	must(t, err)
	defer func() { must(t, c.Close()) }()
	if err := c.ask(t.Context(), r); !errors.Is(err, errExchanged) {
		t.Errorf("err %v", err)
	}
	if len(r.got()) != 0 {
		t.Errorf("handler got %q", r.got())
	}
}

// TestBadAnswers are told once, cost nothing else, and end with the trouble.
func TestBadAnswers(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		answer http.HandlerFunc
		want   string
	}{
		"garbage":   {text(http.StatusOK, `{"type":`), "decode message"},
		"html":      {text(http.StatusOK, `<html>log in to the hotel's network</html>`), "decode message"},
		"error":     {text(http.StatusInternalServerError, ""), "answered 500 Internal Server Error"},
		"forbidden": {text(http.StatusForbidden, ""), "answered 403"},
		"redirect": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://127.0.0.1:1/", http.StatusFound)
		}, "answered 302"},
		"cut off": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100")
			_, _ = w.Write([]byte(`{"type":"data"`))
			panic(http.ErrAbortHandler)
		}, "EOF"},
		"too large": {func(w http.ResponseWriter, _ *http.Request) {
			block := make([]byte, 1<<20)
			for range maxAnswerBytes>>20 + 1 {
				if _, err := w.Write(block); err != nil {
					return
				}
			}
		}, errTooLarge.Error()},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			r.answer("data/in", test.answer)
			r.run()
			r.until("asked more than once", func() bool { return len(r.asked("data/in")) > 1 })
			r.answer("data/in", configuration("1"))
			r.until("told a good one", func() bool { return len(r.got()) == 1 })
			if s := r.logged(); !strings.Contains(s, test.want) || strings.Count(s, "not asked") != 1 {
				t.Errorf("log %s\nwant %q once", s, test.want)
			}
			r.until("over", func() bool { return strings.Contains(r.logged(), "control plane answers") })
		})
	}
}

func TestPause(t *testing.T) {
	t.Parallel()
	cfg := Config{Poll: 5 * time.Second, MaxPause: time.Minute}
	var p poll
	trouble := errors.New("x")
	for i, base := range []time.Duration{5, 10, 20, 40, 60, 60} {
		base *= time.Second
		if got := p.pause(cfg, trouble); got < base*3/4 || got > base*5/4+1 {
			t.Errorf("pause %d is %s, want about %s", i, got, base)
		}
	}
	for range 1000 {
		if got := p.pause(cfg, trouble); got > 76*time.Second {
			t.Fatalf("pause %s", got)
		}
	}
	p.after = retryAfter("45", cfg.MaxPause)
	if got := p.pause(cfg, nil); got > 7*time.Second || p.failures != 0 {
		t.Errorf("pause after an answer is %s, %d failures", got, p.failures)
	}
	if got := p.pause(cfg, trouble); got != 45*time.Second {
		t.Errorf("pause %s although the server asked for 45 s", got)
	}
	for header, want := range map[string]time.Duration{
		"": 0, "-1": 0, "soon": 0, "7": 7 * time.Second, "999999999": time.Minute,
		"Wed, 21 Oct 2026 07:28:00 GMT": 0,
	} {
		if got := retryAfter(header, time.Minute); got != want {
			t.Errorf("Retry-After %q: %s, want %s", header, got, want)
		}
	}
}

// TestEndsAtOnce, whatever it waits for.
func TestEndsAtOnce(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	asked := make(chan struct{}, 1)
	r.answer("control/in", func(_ http.ResponseWriter, in *http.Request) {
		asked <- struct{}{}
		<-in.Context().Done()
	})
	stop := r.run()
	<-asked
	began := time.Now()
	stop()
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("took %s", took)
	}
}

func TestConfigIsChecked(t *testing.T) {
	t.Parallel()
	for want, change := range map[string]func(*Config){
		"want a host and a port": func(c *Config) { c.Settings.Server = "edge.example.com" },
		"server \":8043\"":       func(c *Config) { c.Settings.Server = ":8043" },
		"device id":              func(c *Config) { c.Settings.DeviceID = "../x" },
		"credential":             func(c *Config) { c.Settings.KeyFile = "" },
		"negative":               func(c *Config) { c.Poll = -1 },
		"log":                    func(c *Config) { c.Log = nil },
	} {
		cfg := newRig(t).cfg
		change(&cfg)
		if _, err := New(cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q, got %v", want, err)
		}
	}
}

// FuzzAnswer: whatever a server answers, the client lives, and only a message that
// it understands is handed on.
func FuzzAnswer(f *testing.F) {
	for _, seed := range []string{
		`{"type":"command","content":{"command":"disconnect"}}`, `{"type":"data","directive":"device","content":{}}`, `null`, `[]`, `{"type":1}`, "",
		`{"type":"data","metadata":{"a":{}},"sent":"yesterday"}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		c := &Client{cfg: Config{Settings: transport.Settings{DeviceID: device}, Log: slog.New(slog.DiscardHandler)}}
		m, err := decode(body)
		if (m == nil) == (err == nil) {
			t.Fatalf("message %v, err %v", m, err)
		}
		if err != nil {
			return
		}
		h := &counting{}
		_, err = c.obey(t.Context(), &link{http: &http.Client{Transport: nowhere{}}}, h, m)
		if h.left > 0 && (err != nil || m.Type != protocol.TypeCommand) {
			t.Fatalf("left because of %q, err %v", body, err)
		}
		for name, value := range texts(m.Metadata) {
			if m.Metadata[name] != value {
				t.Fatalf("metadata %q", fmt.Sprint(m.Metadata))
			}
		}
	})
}

type nowhere struct{}

func (nowhere) RoundTrip(*http.Request) (*http.Response, error) { return nil, io.ErrUnexpectedEOF }

type counting struct{ left int }

func (*counting) Receive(context.Context, transport.Message) error { return nil }
func (c *counting) Disconnected(context.Context)                   { c.left++ }
