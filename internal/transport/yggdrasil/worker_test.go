package yggdrasil

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/project-flotta/flotta-agent/internal/transport"
	"github.com/project-flotta/flotta-agent/internal/transport/yggdrasil/pb"
)

func within(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("never happened: %s", what)
}

func TestNewRefuses(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]Config{
		"no address":     {Log: slog.Default()},
		"no scheme":      {SocketAddr: "@x", Log: slog.Default()},
		"empty name":     {SocketAddr: "unix:@", Log: slog.Default()},
		"tcp":            {SocketAddr: "tcp:host:1", Log: slog.Default()},
		"no log":         {SocketAddr: "unix:@x"},
		"negative grace": {SocketAddr: "unix:@x", Log: slog.Default(), OrphanGrace: -1},
	} {
		if _, err := New(c); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestDeliversOneAtATimeInOrder(t *testing.T) {
	t.Parallel()
	f := startFake(t, &fakeYggd{socket: newSocket(t)})
	var inside atomic.Int32
	r := &recorder{on: func(transport.Message) error {
		if inside.Add(1) != 1 {
			t.Error("two deliveries at once")
		}
		time.Sleep(time.Millisecond)
		inside.Add(-1)
		return nil
	}}
	runWorker(t, Config{SocketAddr: "unix:" + f.socket, Handler: "device", Features: map[string]string{"a": "b"}}, r)
	within(t, "registration", func() bool { return f.registered() != "" })

	// As yggd: one call after the other, each on a connection of its own.
	var want []string
	for n := range 20 {
		text := fmt.Sprint(n)
		want = append(want, text)
		_, err := f.worker(t).Send(t.Context(), &pb.Data{Content: []byte(text), Directive: "device", MessageId: "m", ResponseTo: "q", Metadata: map[string]string{"k": "v"}})
		if err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(want, r.contents()); diff != "" {
		t.Errorf("order (-want +got):\n%s", diff)
	}
	wantMessage := transport.Message{ID: "m", ResponseTo: "q", Directive: "device", Metadata: map[string]string{"k": "v"}, Content: []byte("0")}
	if diff := cmp.Diff(wantMessage, r.messages[0]); diff != "" {
		t.Errorf("message (-want +got):\n%s", diff)
	}

	// Worse than yggd: many at once.
	done := make(chan error, 20)
	for range cap(done) {
		c := f.worker(t)
		go func() {
			_, err := c.Send(t.Context(), &pb.Data{Content: []byte("x")})
			done <- err
		}()
	}
	for range cap(done) {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

func TestDeliveryOutlivesTheCall(t *testing.T) {
	t.Parallel()
	f := startFake(t, &fakeYggd{socket: newSocket(t)})
	release := make(chan struct{})
	var cut atomic.Bool
	h := &blockingHandler{release: release, cut: &cut}
	runWorker(t, Config{SocketAddr: "unix:" + f.socket}, h)
	within(t, "registration", func() bool { return f.registered() != "" })

	// yggd stops waiting for a call: its handling goes on, the next one waits.
	c := f.worker(t)
	ctx, cancel := context.WithCancel(t.Context())
	first := make(chan error, 1)
	go func() {
		_, err := c.Send(ctx, &pb.Data{Content: []byte("1")})
		first <- err
	}()
	within(t, "first in handling", func() bool { return h.begun.Load() == 1 })
	cancel()
	if err := <-first; status.Code(err) != codes.Canceled {
		t.Errorf("cancelled call: %v", err)
	}
	impatient, stop := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer stop()
	if _, err := c.Send(impatient, &pb.Data{Content: []byte("2")}); status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("second while the first is handled: %v", err)
	}
	close(release)
	if _, err := c.Send(t.Context(), &pb.Data{Content: []byte("3")}); err != nil {
		t.Errorf("third: %v", err)
	}
	if cut.Load() {
		t.Error("the handling of the first was cut off")
	}
}

type blockingHandler struct {
	release chan struct{}
	begun   atomic.Int32
	cut     *atomic.Bool
}

func (h *blockingHandler) Receive(ctx context.Context, _ transport.Message) error {
	h.begun.Add(1)
	select {
	case <-h.release:
	case <-ctx.Done():
		h.cut.Store(true)
	}
	return nil
}

func (h *blockingHandler) Disconnected(context.Context) {}

func TestReceiveErrorReachesYggd(t *testing.T) {
	t.Parallel()
	f := startFake(t, &fakeYggd{socket: newSocket(t)})
	runWorker(t, Config{SocketAddr: "unix:" + f.socket}, &recorder{on: func(transport.Message) error { return errors.New("version is missing") }})
	within(t, "registration", func() bool { return f.registered() != "" })
	_, err := f.worker(t).Send(t.Context(), &pb.Data{})
	if s := status.Convert(err); s.Message() != "version is missing" {
		t.Errorf("error = %v", err)
	}
}

func TestEvents(t *testing.T) {
	t.Parallel()
	f := startFake(t, &fakeYggd{socket: newSocket(t)})
	r := &recorder{}
	runWorker(t, Config{SocketAddr: "unix:" + f.socket}, r)
	within(t, "registration", func() bool { return f.registered() != "" })
	for _, e := range []pb.Event{pb.Event_UNKNOWN, pb.Event_CONNECTION_RESTORED, pb.Event_UNEXPECTED_DISCONNECT, pb.Event(77), pb.Event_RECEIVED_DISCONNECT} {
		if _, err := f.worker(t).NotifyEvent(t.Context(), &pb.EventNotification{Name: e}); err != nil {
			t.Errorf("%v: %v", e, err)
		}
	}
	if got := r.disconnects(); got != 1 {
		t.Errorf("disconnected %d times, want 1", got)
	}
}

func TestLargeConfiguration(t *testing.T) {
	t.Parallel()
	f := startFake(t, &fakeYggd{socket: newSocket(t)})
	r := &recorder{}
	runWorker(t, Config{SocketAddr: "unix:" + f.socket}, r)
	within(t, "registration", func() bool { return f.registered() != "" })
	if _, err := f.worker(t).Send(t.Context(), &pb.Data{Content: bytes.Repeat([]byte("x"), 20<<20)}); err != nil {
		t.Errorf("20 MiB: %v", err)
	}
	_, err := f.worker(t).Send(t.Context(), &pb.Data{Content: bytes.Repeat([]byte("x"), maxMessageBytes+1)})
	if status.Code(err) != codes.ResourceExhausted {
		t.Errorf("more than the limit: %v", err)
	}
}

func TestNameTakenAtFirst(t *testing.T) {
	t.Parallel()
	f := &fakeYggd{socket: newSocket(t)}
	f.refuse.Store(2)
	startFake(t, f)
	r := &recorder{}
	runWorker(t, Config{SocketAddr: "unix:" + f.socket}, r)
	within(t, "registration", func() bool { return f.registered() != "" })
	if _, err := f.worker(t).Send(t.Context(), &pb.Data{Content: []byte("x")}); err != nil {
		t.Error(err)
	}
}

func TestRegistersWithTheNextYggd(t *testing.T) {
	t.Parallel()
	socket := newSocket(t)
	r := &recorder{}
	runWorker(t, Config{SocketAddr: "unix:" + socket}, r)
	for n := range 3 {
		f := startFake(t, &fakeYggd{socket: socket})
		within(t, "registration", func() bool { return f.registered() != "" })
		if _, err := f.worker(t).Send(t.Context(), &pb.Data{Content: fmt.Append(nil, n)}); err != nil {
			t.Error(err)
		}
		f.stop()
	}
	if diff := cmp.Diff([]string{"0", "1", "2"}, r.contents()); diff != "" {
		t.Errorf("messages (-want +got):\n%s", diff)
	}
}

func TestOrphan(t *testing.T) {
	t.Parallel()
	socket := newSocket(t)
	newWorker := func(parent int, grace time.Duration) *Worker {
		w, err := New(Config{SocketAddr: "unix:" + socket, Log: slog.New(slog.DiscardHandler), OrphanGrace: grace})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = w.Close() })
		w.parent = parent
		return w
	}
	const gone = 1 << 30 // no process has this id

	// Its yggd died before anything answered.
	if err := newWorker(gone, 100*time.Millisecond).Run(t.Context(), &recorder{}); !errors.Is(err, ErrOrphaned) {
		t.Errorf("Run = %v, want ErrOrphaned", err)
	}
	// Its yggd served it, and died.
	f := startFake(t, &fakeYggd{socket: socket})
	w := newWorker(os.Getpid(), 2*time.Second) // the fake is this process: the worker takes it for its parent
	done := make(chan error, 1)
	go func() { done <- w.Run(t.Context(), &recorder{}) }()
	within(t, "registration", func() bool { return f.registered() != "" })
	f.stop()
	if err := <-done; !errors.Is(err, ErrOrphaned) {
		t.Errorf("Run = %v, want ErrOrphaned", err)
	}
	// Started by something else than the yggd it worked for: it waits.
	f = startFake(t, &fakeYggd{socket: socket})
	w = newWorker(gone, 2*time.Second)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { done <- w.Run(ctx, &recorder{}) }()
	within(t, "registration", func() bool { return f.registered() != "" })
	f.stop()
	select {
	case err := <-done:
		t.Errorf("Run ended: %v", err)
	case <-time.After(4 * time.Second): // well beyond the grace
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Run = %v, want nil", err)
	}
}

func TestPIDFile(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		content string
		kept    bool
	}{
		"own":     {content: strconv.Itoa(os.Getpid()) + "\n"},
		"other":   {content: "1", kept: true},
		"garbage": {content: "device", kept: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "device.pid")
			if err := os.WriteFile(path, []byte(c.content), 0o600); err != nil {
				t.Fatal(err)
			}
			w, err := New(Config{SocketAddr: "unix:" + newSocket(t), Log: slog.New(slog.DiscardHandler), PIDFile: path})
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			if err := w.Run(ctx, &recorder{}); err != nil {
				t.Error(err)
			}
			if err := w.Close(); err != nil {
				t.Error(err)
			}
			if _, err := os.Stat(path); (err == nil) != c.kept {
				t.Errorf("stat: %v, want kept: %t", err, c.kept)
			}
		})
	}
}

func TestAllowPeer(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		uid     uint32
		self    int
		allowed bool
	}{{0, 0, true}, {0, 1000, true}, {1000, 1000, true}, {1000, 0, false}, {1001, 1000, false}, {65534, 1000, false}} {
		if err := allowPeer(&unix.Ucred{Uid: c.uid}, c.self); (err == nil) != c.allowed {
			t.Errorf("uid %d for %d: %v", c.uid, c.self, err)
		}
	}
}
