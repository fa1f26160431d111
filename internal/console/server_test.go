package console

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func example() Document {
	at := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	return Document{
		Version: "1.2.3", Started: at, Healthy: true, Device: Device{ID: "edge-7"},
		Configuration: Configuration{Version: "9f2b7e", Digest: "c1", Settled: true},
		Problems:      []string{},
		DataSync:      []DataSync{},
		Workloads: []Workload{{
			Name: "web", Phase: "Running", DesiredDigest: "d1", AppliedDigest: "d1", Restarts: 2, Since: at,
			Images:    []Image{{Container: "app", Reference: "registry.example.com/web:1", ID: "sha256:1"}},
			HostPorts: []Port{{Protocol: "tcp", Port: 8080}}, Notes: []string{"a note"},
		}},
	}
}

// start runs a server, and stops it when the test ends.
func start(t *testing.T, cfg Config, change ...func(*Server)) (stop func()) {
	t.Helper()
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range change {
		c(s)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	})
	t.Cleanup(stop)
	return stop
}

func config(t *testing.T) Config {
	return Config{Socket: filepath.Join(t.TempDir(), "run", "agent.sock"), Group: os.Getgid(), Collect: example}
}

// fetch asks until there is an answer.
func fetch(t *testing.T, socket string) Document {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		d, err := Fetch(t.Context(), socket)
		if err == nil {
			return d
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
	}
}

func TestStatusOverTheSocket(t *testing.T) {
	t.Parallel()
	cfg := config(t)
	stop := start(t, cfg)
	if diff := cmp.Diff(example(), fetch(t, cfg.Socket)); diff != "" {
		t.Errorf("document (-want +got):\n%s", diff)
	}
	info, err := os.Stat(cfg.Socket)
	if err != nil || info.Mode() != fs.ModeSocket|socketMode {
		t.Errorf("socket: %v, %v", info.Mode(), err)
	}
	if entries, err := os.ReadDir(filepath.Dir(cfg.Socket)); err != nil || len(entries) != 1 {
		t.Errorf("folder holds %v, %v", entries, err)
	}
	stop()
	if _, err := os.Lstat(cfg.Socket); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the socket is left: %v", err)
	}
}

func TestHealth(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		change func(*Document)
		want   bool
	}{
		"well":            {func(*Document) {}, true},
		"nothing to do":   {func(d *Document) { d.Workloads = nil }, true},
		"a reason":        {func(d *Document) { d.Workloads[0].Reason = "NotReady" }, false},
		"not yet applied": {func(d *Document) { d.Workloads[0].AppliedDigest = "" }, false},
		"rolled back":     {func(d *Document) { d.Workloads[0].AppliedDigest = "d0" }, false},
		"a problem":       {func(d *Document) { d.Problems = []string{"disk is full"} }, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := config(t)
			cfg.Collect = func() Document {
				d := example()
				tt.change(&d)
				return d
			}
			start(t, cfg)
			if got := fetch(t, cfg.Socket); got.Healthy != tt.want {
				t.Errorf("healthy is %v: %+v", got.Healthy, got)
			}
		})
	}
}

// What a killed agent left is replaced, a half made socket included; and an agent
// that ends late does not take the name of the next one.
func TestSocketOfAKilledAgent(t *testing.T) {
	t.Parallel()
	cfg := config(t)
	if err := os.MkdirAll(filepath.Dir(cfg.Socket), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{cfg.Socket, cfg.Socket + ".new"} {
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: name, Net: "unix"})
		if err != nil {
			t.Fatal(err)
		}
		l.SetUnlinkOnClose(false)
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := Fetch(t.Context(), cfg.Socket); !errors.Is(err, syscall.ECONNREFUSED) || !strings.Contains(err.Error(), "journalctl -u yggd") {
		t.Errorf("fetch from nobody: %v", err)
	}
	first := start(t, cfg)
	fetch(t, cfg.Socket)
	next := cfg
	next.Collect = func() Document { return Document{Version: "next"} }
	start(t, next)
	for fetch(t, cfg.Socket).Version != "next" {
		time.Sleep(10 * time.Millisecond)
	}
	first()
	if got := fetch(t, cfg.Socket); got.Version != "next" {
		t.Errorf("the answer is %+v", got)
	}
}

// Those who hold connections and say nothing, or nonsense, hinder for moments
// only.
func TestHostileClients(t *testing.T) {
	t.Parallel()
	cfg := config(t)
	start(t, cfg, func(s *Server) { s.clientTime = time.Second })
	fetch(t, cfg.Socket)
	dial := func() net.Conn {
		conn, err := net.Dial("unix", cfg.Socket)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		return conn
	}
	for range 3 * maxClients {
		dial()
	}
	fetch(t, cfg.Socket)
	for request, want := range map[string]string{
		"GET /other HTTP/1.1\r\nHost: x\r\n\r\n":                           "404",
		"GET //status HTTP/1.1\r\nHost: x\r\n\r\n":                         "404",
		"POST /status HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nxxx": "405",
		"GET /status HTTP/1.0\r\n\r\n":                                     "200",
		"\x00\xff\r\n\r\n":                                                 "",
		"GET / HTTP/1.1\r\nX: " + strings.Repeat("x", 4*maxHeader):         "",
	} {
		conn := dial()
		go func() { _, _ = io.WriteString(conn, request) }()
		answer, _ := io.ReadAll(conn) // an end, in whichever way
		if status := strings.Fields(string(answer) + " - -")[1]; want == "" && len(answer) > 0 || want != "" && status != want {
			t.Errorf("%.40q is answered %.60q, want %s", request, answer, want)
		}
	}
	fetch(t, cfg.Socket)
}

// Without a place for its socket the server waits, says so once, and ends when it
// is told to.
func TestNoPlaceForTheSocket(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var log bytes.Buffer
	said := make(chan struct{}, 10)
	cfg := Config{Socket: filepath.Join(file, "agent.sock"), Group: -1, Collect: example, Log: slog.New(slog.NewTextHandler(writer(func(p []byte) (int, error) {
		mu.Lock()
		defer mu.Unlock()
		said <- struct{}{}
		return log.Write(p)
	}), nil))}
	stop := start(t, cfg)
	<-said
	stop()
	mu.Lock()
	defer mu.Unlock()
	if n := strings.Count(log.String(), "nobody can ask here"); n != 1 {
		t.Errorf("said %d times:\n%s", n, log.String())
	}
}

type writer func([]byte) (int, error)

func (w writer) Write(p []byte) (int, error) { return w(p) }

func TestNewRefuses(t *testing.T) {
	t.Parallel()
	for name, cfg := range map[string]Config{"nothing to tell": {}, "a relative path": {Collect: example, Socket: "x"}} {
		if _, err := New(cfg); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

func TestAdvice(t *testing.T) {
	t.Parallel()
	if _, err := Fetch(t.Context(), filepath.Join(t.TempDir(), "none")); err == nil || !strings.Contains(err.Error(), "does not run") {
		t.Errorf("no socket: %v", err)
	}
	for err, want := range map[error]string{
		syscall.EACCES: "as root", context.DeadlineExceeded: "does not answer", io.EOF: "ask again", syscall.EIO: "ask the agent",
	} {
		if got := advised("/s", err).Error(); !strings.Contains(got, want) {
			t.Errorf("%v: %s, want %s", err, got, want)
		}
	}
}
