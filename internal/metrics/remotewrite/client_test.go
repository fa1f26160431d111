package remotewrite_test

import (
	"context"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/project-flotta/flotta-agent/internal/metrics/remotewrite"
	"github.com/project-flotta/flotta-agent/internal/metrics/series"
)

func client(t *testing.T, cfg remotewrite.Config) *remotewrite.Client {
	t.Helper()
	if cfg.Timeout == 0 {
		cfg.Timeout = 10 * time.Second
	}
	c, err := remotewrite.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// receiver answers every request with the handler.
func receiver(t *testing.T, h http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.URL
}

func body() []byte {
	var b remotewrite.Batch
	b.Add([]series.Sample{sample(1, 2, series.MetricName, "up")})
	return b.Encode()
}

func TestSend(t *testing.T) {
	t.Parallel()
	address := receiver(t, func(w http.ResponseWriter, r *http.Request) {
		user, password, _ := r.BasicAuth()
		for name, want := range map[string]string{
			"Content-Type": "application/x-protobuf", "Content-Encoding": "snappy",
			"X-Prometheus-Remote-Write-Version": "0.1.0", "User-Agent": "flotta-agent/1",
		} {
			if got := r.Header.Get(name); got != want {
				t.Errorf("%s: %q", name, got)
			}
		}
		b, err := io.ReadAll(r.Body)
		if err != nil || r.Method != http.MethodPost || r.URL.RequestURI() != "/api/v1/write?tenant=1" || user != "u" || password != "p" {
			t.Errorf("%s %s of %q %q, %v", r.Method, r.URL, user, password, err)
		}
		if got, _ := decoded(t, b); len(got) != 1 {
			t.Errorf("samples %v", got)
		}
		w.WriteHeader(http.StatusNoContent)
	})
	c := client(t, remotewrite.Config{
		URL: strings.Replace(address, "//", "//u:p@", 1) + "/api/v1/write?tenant=1", UserAgent: "flotta-agent/1",
	})
	if a := c.Send(t.Context(), body()); a != (remotewrite.Answer{Outcome: remotewrite.Delivered}) {
		t.Errorf("answer %+v", a)
	}
	if c.Address() != address+"/api/v1/write" {
		t.Errorf("address %s", c.Address())
	}
}

func TestAnswers(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		code   int
		text   string
		want   remotewrite.Outcome
		header string // Retry-After
		after  time.Duration
	}{
		{code: 200, want: remotewrite.Delivered},
		{code: 202, want: remotewrite.Delivered},
		{code: 204, want: remotewrite.Delivered},
		{code: 400, text: "out of order sample\n", want: remotewrite.OutOfOrder},
		{code: 400, text: "duplicate sample for timestamp", want: remotewrite.OutOfOrder},
		{code: 400, text: "send: the sample is out of order (err-mimir-sample-out-of-order)", want: remotewrite.OutOfOrder},
		{code: 400, text: "(err-mimir-sample-duplicate-timestamp)", want: remotewrite.OutOfOrder},
		{code: 400, text: "out of bounds", want: remotewrite.TooOld},
		{code: 400, text: "too old sample", want: remotewrite.TooOld},
		{code: 400, text: "(err-mimir-sample-timestamp-too-old)", want: remotewrite.TooOld},
		{code: 400, text: "label name invalid", want: remotewrite.Malformed},
		{code: 400, want: remotewrite.Malformed},
		{code: 409, text: "conflict", want: remotewrite.OutOfOrder},
		{code: 409, text: "store: out of bounds", want: remotewrite.TooOld},
		{code: 413, want: remotewrite.Malformed},
		{code: 422, want: remotewrite.Malformed},
		{code: 401, want: remotewrite.Refused, header: "5"},
		{code: 404, want: remotewrite.Refused},
		{code: 429, want: remotewrite.Failed, header: "7", after: 7 * time.Second},
		{code: 429, want: remotewrite.Failed, header: "99999999999999999999", after: 15 * time.Minute},
		{code: 503, want: remotewrite.Failed, header: "-1"},
		{code: 503, want: remotewrite.Failed, header: "soon"},
		{code: 503, want: remotewrite.Failed, header: "Sat, 21 Nov 2026 12:00:30 GMT", after: 30 * time.Second},
		{code: 503, want: remotewrite.Failed, header: "Fri, 31 Dec 9999 23:59:59 GMT", after: 15 * time.Minute},
		{code: 500, want: remotewrite.Failed},
		{code: 599, want: remotewrite.Failed},
		{code: 300, want: remotewrite.Failed},
	} {
		t.Run(fmt.Sprint(tc.code, tc.text, tc.header), func(t *testing.T) {
			t.Parallel()
			c := client(t, remotewrite.Config{URL: receiver(t, func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Date", "Sat, 21 Nov 2026 12:00:00 GMT") // of a clock of its own
				w.Header().Set("Retry-After", tc.header)
				w.WriteHeader(tc.code)
				_, _ = io.WriteString(w, tc.text)
			})})
			a := c.Send(t.Context(), body())
			if a.Outcome != tc.want || a.RetryAfter != tc.after || (a.Err == nil) != (tc.want == remotewrite.Delivered) {
				t.Errorf("answer %+v", a)
			}
			if a.Err != nil && !strings.Contains(a.Err.Error(), fmt.Sprint(tc.code)) {
				t.Errorf("error %v", a.Err)
			}
		})
	}
}

func TestRedirectIsNotFollowed(t *testing.T) {
	t.Parallel()
	c := client(t, remotewrite.Config{URL: receiver(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/" {
			t.Errorf("request of %s", r.URL)
		}
		http.Redirect(w, r, "http://u:hidden@portal.example/login?token=hidden", http.StatusTemporaryRedirect)
	}) + "/"})
	a := c.Send(t.Context(), body())
	if a.Outcome != remotewrite.Failed || !strings.Contains(a.Err.Error(), "portal.example/login") || strings.Contains(a.Err.Error(), "hidden") {
		t.Errorf("answer %+v", a)
	}
}

// TestPortalIsNoDelivery has a network whose portal answers everything.
func TestPortalIsNoDelivery(t *testing.T) {
	t.Parallel()
	c := client(t, remotewrite.Config{URL: receiver(t, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "<!doctype html><p>Please accept our terms.")
	})})
	if a := c.Send(t.Context(), body()); a.Outcome != remotewrite.Failed || !strings.Contains(a.Err.Error(), "portal") {
		t.Errorf("answer %+v", a)
	}
}

// TestProxy runs itself as a process that has one in its environment.
func TestProxy(t *testing.T) {
	t.Parallel()
	const child = "FLOTTA_REMOTEWRITE_PROXY_CHILD"
	if os.Getenv(child) != "" {
		c := client(t, remotewrite.Config{URL: "http://receiver.invalid/write"})
		if a := c.Send(t.Context(), body()); a.Outcome != remotewrite.Delivered {
			t.Errorf("answer %+v", a)
		}
		return
	}
	asked := make(chan string, 1)
	proxy := receiver(t, func(w http.ResponseWriter, r *http.Request) {
		asked <- r.URL.String()
		w.WriteHeader(http.StatusNoContent)
	})
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe, "-test.run=^TestProxy$")
	cmd.Env = append(os.Environ(), child+"=1", "HTTP_PROXY="+proxy, "NO_PROXY=")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if got := <-asked; got != "http://receiver.invalid/write" {
		t.Errorf("the proxy was asked for %s", got)
	}
}

func TestLongAnswerIsCut(t *testing.T) {
	t.Parallel()
	stop := make(chan struct{})
	defer close(stop)
	c := client(t, remotewrite.Config{URL: receiver(t, func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusForbidden)
		for r.Context().Err() == nil {
			if _, err := w.Write([]byte(strings.Repeat("\x1b[31mx\n", 1000))); err != nil {
				return
			}
		}
	})})
	a := c.Send(t.Context(), body())
	if a.Outcome != remotewrite.Refused || len(a.Err.Error()) > 1200 || strings.ContainsAny(a.Err.Error(), "\x1b\n") {
		t.Errorf("answer %+v", a)
	}
}

// TestErrorsHoldNoSecret has every way to fail before an answer.
func TestErrorsHoldNoSecret(t *testing.T) {
	t.Parallel()
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = silent.Close() })
	for name, tc := range map[string]struct {
		address string
		slow    bool
	}{
		"nobody listens": {address: "http://canary:canary@" + "127.0.0.1:1/?token=canary"},
		"never answers":  {address: "http://canary:canary@" + silent.Addr().String() + "/?token=canary", slow: true},
		"no TLS": {address: "https://canary:canary@" + strings.TrimPrefix(receiver(t, func(http.ResponseWriter, *http.Request) {
			t.Error("a request without TLS")
		}), "http://") + "/?token=canary"},
		"no address": {address: "http://canary:canary@[::1%25nowhere]:1/?token=canary"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			timeout := 200 * time.Millisecond
			if tc.slow { // it has to get as far as that
				timeout = 5 * time.Second
			}
			c := client(t, remotewrite.Config{URL: tc.address, Timeout: timeout})
			a := c.Send(t.Context(), body())
			if a.Outcome != remotewrite.Failed || a.Err == nil || strings.Contains(a.Err.Error(), "canary") || a.Slow != tc.slow {
				t.Errorf("answer %+v", a)
			}
			if strings.Contains(c.Address(), "canary") {
				t.Errorf("address %s", c.Address())
			}
		})
	}
}

func TestNewRefuses(t *testing.T) {
	t.Parallel()
	for _, cfg := range []remotewrite.Config{
		{},
		{URL: "prometheus:9090/api/v1/write", Timeout: 1},
		{URL: "ftp://canary@host/", Timeout: 1},
		{URL: "https:///canary", Timeout: 1},
		{URL: "http://canary:%zz@host", Timeout: 1},
		{URL: "https://host/canary"},
		{URL: "https://host/canary", Timeout: 1, CA: []byte("canary")},
	} {
		if _, err := remotewrite.New(cfg); err == nil || strings.Contains(err.Error(), "canary") {
			t.Errorf("%+v: %v", cfg, err)
		}
	}
}

func TestTLS(t *testing.T) {
	t.Parallel()
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }))
	t.Cleanup(s.Close)
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
	if a := client(t, remotewrite.Config{URL: s.URL, CA: ca}).Send(t.Context(), body()); a.Outcome != remotewrite.Delivered {
		t.Errorf("with its CA: %+v", a)
	}
	if a := client(t, remotewrite.Config{URL: s.URL}).Send(t.Context(), body()); a.Outcome != remotewrite.Failed || !strings.Contains(a.Err.Error(), "certificate") {
		t.Errorf("without its CA: %+v", a)
	}
}

func TestSendEndsWithItsContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	c := client(t, remotewrite.Config{Timeout: time.Hour, URL: receiver(t, func(_ http.ResponseWriter, r *http.Request) {
		cancel()
		_, _ = io.Copy(io.Discard, r.Body)
		<-r.Context().Done()
	})})
	if a := c.Send(ctx, body()); a.Outcome != remotewrite.Failed || a.Slow {
		t.Errorf("answer %+v", a)
	}
}

// FuzzAnswer wants every answer understood as something, within the bounds.
func FuzzAnswer(f *testing.F) {
	f.Add(429, "7", "slow down", "")
	f.Add(503, "Sat, 21 Nov 2026 12:00:30 GMT", "", "")
	f.Add(400, "", "out of order sample", "")
	f.Add(302, "", "", "http://u:p@[::1/?x")
	f.Fuzz(func(t *testing.T, code int, after, text, location string) {
		if code < 200 || code > 599 {
			return
		}
		rec := httptest.NewRecorder()
		rec.Header().Set("Retry-After", after)
		rec.Header().Set("Location", location)
		rec.WriteHeader(code)
		_, _ = rec.WriteString(text)
		c, err := remotewrite.New(remotewrite.Config{URL: "http://canary:canary@host/", Timeout: time.Second})
		if err != nil {
			t.Fatal(err)
		}
		a := c.Understand(rec.Result(), time.Unix(0, 0))
		if a.Outcome == remotewrite.Delivered && code >= 300 || a.RetryAfter < 0 || a.RetryAfter > 15*time.Minute {
			t.Fatalf("answer %+v", a)
		}
		if u, _ := url.Parse(location); a.Err != nil && u != nil && u.User != nil && len(u.User.String()) > 12 &&
			strings.Contains(a.Err.Error(), u.User.String()) && !strings.Contains(text, u.User.String()) {
			t.Fatalf("the error holds the user: %v", a.Err)
		}
	})
}
