package yggdrasil

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/project-flotta/flotta-agent/internal/transport"
)

// TestMain doubles as a worker program: yggd starts this test binary again.
func TestMain(m *testing.M) {
	if dir := os.Getenv("FLOTTA_TEST_WORKER"); dir != "" {
		if err := workerProgram(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

// workerProgram is a small agent: it writes its settings and what it receives
// into dir, and says hello upwards.
func workerProgram(dir string) error {
	signal.Ignore(syscall.SIGPIPE)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	grace, _ := time.ParseDuration(os.Getenv("FLOTTA_TEST_GRACE"))
	w, err := New(Config{
		SocketAddr:  os.Getenv("YGG_SOCKET_ADDR"),
		ConfigDir:   os.Getenv("YGG_CONFIG_DIR"),
		ClientID:    os.Getenv("YGG_CLIENT_ID"),
		PIDFile:     os.Getenv("FLOTTA_TEST_PIDFILE"),
		OrphanGrace: grace,
		Log:         slog.New(slog.NewTextHandler(os.Stderr, nil)),
	})
	if err != nil {
		return err
	}
	defer func() { _ = w.Close() }()
	s, err := w.Settings(ctx)
	if err != nil {
		return err
	}
	record(dir, "settings", s)
	go func() {
		reply, err := w.Send(ctx, transport.Message{Directive: "heartbeat", Content: []byte(`{"status":"up"}`)})
		record(dir, "reply", []any{reply.Status, err})
	}()
	err = w.Run(ctx, &recorder{on: func(m transport.Message) error {
		record(dir, "received", string(m.Content))
		return nil
	}})
	record(dir, "ended", errors.Is(err, ErrOrphaned))
	return err
}

// record appends v as one line of JSON to a file of the worker program.
func record(dir, name string, v any) {
	f, err := os.OpenFile(filepath.Join(dir, name), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return
	}
	defer func() { _ = f.Close() }()
	_ = json.NewEncoder(f).Encode(v)
}

// recorder keeps what it is given.
type recorder struct {
	on func(transport.Message) error

	mu           sync.Mutex
	messages     []transport.Message
	disconnected int
}

func (r *recorder) Receive(_ context.Context, m transport.Message) error {
	r.mu.Lock()
	r.messages = append(r.messages, m)
	r.mu.Unlock()
	if r.on != nil {
		return r.on(m)
	}
	return nil
}

func (r *recorder) Disconnected(context.Context) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.disconnected++
}

func (r *recorder) contents() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []string
	for _, m := range r.messages {
		out = append(out, string(m.Content))
	}
	return out
}

func (r *recorder) disconnects() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.disconnected
}

// runWorker runs a worker for the length of the test.
func runWorker(t *testing.T, c Config, h transport.Handler) *Worker {
	t.Helper()
	if c.Log == nil {
		c.Log = slog.New(slog.NewTextHandler(testWriter{t}, nil))
	}
	w, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx, h) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
		if err := w.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return w
}

type testWriter struct{ t *testing.T }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Logf("%s", p)
	return len(p), nil
}

func isNoAnswer(err error) bool    { return errors.Is(err, ErrNoAnswer) }
func isUnavailable(err error) bool { return errors.Is(err, transport.ErrUnavailable) }
