package direct

import (
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/project-flotta/flotta-agent/internal/transport"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

func TestSend(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.answer("data/out", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Add("X-Several", "a")
		w.Header().Add("X-Several", "b")
		_, _ = w.Write([]byte(`{"content":1}`))
	})
	c, err := New(r.cfg)
	must(t, err)
	defer func() { must(t, c.Close()) }()
	reply, err := c.Send(t.Context(), transport.Message{
		ID: "i", ResponseTo: "r", Directive: "heartbeat", Metadata: map[string]string{"k": "v"}, Content: []byte(`{"version":"3"}`),
	})
	if err != nil || reply.Status != http.StatusOK || string(reply.Body) != `{"content":1}` || reply.Header["X-Several"] != "a;b" {
		t.Errorf("reply %+v, err %v", reply, err)
	}
	var m protocol.Message
	must(t, json.Unmarshal([]byte(r.asked("data/out")[0].body), &m))
	if m.Sent == nil || time.Since(m.Sent.Time) > time.Minute {
		t.Errorf("sent %v", m.Sent)
	}
	m.Sent = nil
	want := protocol.Message{
		Type: "data", MessageID: "i", ResponseTo: "r", Version: 1, Directive: "heartbeat",
		Metadata: map[string]any{"k": "v"}, Content: json.RawMessage(`{"version":"3"}`),
	}
	if diff := cmp.Diff(want, m); diff != "" {
		t.Errorf("envelope (-want +got):\n%s", diff)
	}
	if _, err := c.Send(t.Context(), transport.Message{Directive: "heartbeat", Content: []byte(`{`)}); err == nil || errors.Is(err, transport.ErrUnavailable) {
		t.Errorf("content that is not JSON: %v", err)
	}
}

// TestSendWhatCannotArrive tells what certainly did not from what may have.
func TestSendWhatCannotArrive(t *testing.T) {
	t.Parallel()
	free, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	nobody := free.Addr().String()
	must(t, free.Close())
	for name, test := range map[string]struct {
		change      func(r *rig)
		unavailable bool
	}{
		"nobody listens":         {func(r *rig) { r.cfg.Settings.Server = nobody }, true},
		"no credential":          {func(r *rig) { must(r.T, os.Remove(r.path("key.pem"))) }, true},
		"no authority":           {func(r *rig) { r.write("ca.pem", []byte("x")) }, true},
		"a stranger's server":    {func(r *rig) { r.cfg.Settings.CAFiles = nil }, true},
		"a key that is a folder": {func(r *rig) { r.cfg.Settings.KeyFile = r.dir }, true},
		"cut off": {func(r *rig) {
			r.answer("data/out", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			test.change(r)
			c, err := New(r.cfg)
			must(t, err)
			defer func() { must(t, c.Close()) }()
			_, err = c.Send(t.Context(), transport.Message{Directive: "heartbeat"})
			if err == nil || errors.Is(err, transport.ErrUnavailable) != test.unavailable {
				t.Errorf("err %v, want unavailable %v", err, test.unavailable)
			}
		})
	}
}

// TestProxy goes through one that the settings name.
func TestProxy(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.answer("data/out", text(http.StatusOK, ""))
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	var tunnels atomic.Int32
	proxy := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, in *http.Request) {
		if in.Method != http.MethodConnect {
			w.WriteHeader(http.StatusMethodNotAllowed)
			return
		}
		tunnels.Add(1)
		tunnel(w, in.Host)
	})}
	go func() { _ = proxy.Serve(listener) }()
	t.Cleanup(func() { _ = proxy.Close() })
	r.cfg.Proxy = http.ProxyURL(&url.URL{Scheme: "http", Host: listener.Addr().String()})
	c, err := New(r.cfg)
	must(t, err)
	for range 2 {
		if reply, err := c.Send(t.Context(), transport.Message{Directive: "heartbeat"}); err != nil || reply.Status != http.StatusOK {
			t.Fatalf("reply %+v, err %v", reply, err)
		}
	}
	must(t, c.Close())
	if n := tunnels.Load(); n != 1 {
		t.Errorf("%d tunnels for two messages", n)
	}
}

// tunnel joins a client of the proxy with where it wants to.
func tunnel(w http.ResponseWriter, to string) {
	out, err := net.Dial("tcp", to)
	if err != nil {
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	defer func() { _ = out.Close() }()
	in, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	_, _ = io.WriteString(in, "HTTP/1.1 200 Connection established\r\n\r\n")
	go func() {
		_, _ = io.Copy(out, in)
		_ = out.Close()
	}()
	_, _ = io.Copy(in, out)
	_ = in.Close()
}
