package logs

import (
	"bufio"
	"context"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/project-flotta/flotta-agent/internal/desired"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// sink is a receiver that counts octets, and keeps what it got.
type sink struct {
	net.Listener
	mu       sync.Mutex
	most     int // messages of each connection; 0: all
	messages []string
}

func newSink(t *testing.T) *sink {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &sink{Listener: l}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go s.read(conn)
		}
	}()
	return s
}

func (s *sink) read(conn net.Conn) {
	defer func() { _ = conn.Close() }()
	s.mu.Lock()
	most := s.most
	s.mu.Unlock()
	r := bufio.NewReader(conn)
	for i := 0; i < most || most == 0; i++ {
		head, err := r.ReadString(' ')
		if err != nil {
			return
		}
		n, err := strconv.Atoi(strings.TrimSpace(head))
		if err != nil {
			return
		}
		message := make([]byte, n)
		if _, err := io.ReadFull(r, message); err != nil {
			return
		}
		s.mu.Lock()
		s.messages = append(s.messages, string(message))
		s.mu.Unlock()
	}
}

func (s *sink) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.messages)
}

func TestFlush(t *testing.T) {
	t.Parallel()
	s := newSink(t)
	c := fileContainer(t.TempDir(), "shop", "c1")
	write(t, c.LogPath, 0, 1000)
	e, _ := start(t, testConfig(t, newTold(collects(tcpTarget(s.Addr().String()), "shop")), newInventory(c)))
	eventually(t, "some arrive", func() bool { return s.count() > 0 })
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := e.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	// The receiver's kernel has them all; its program reads them soon.
	eventually(t, "all arrive", func() bool { return s.count() >= 1000 })
	if n := s.count(); n != 1000 {
		t.Errorf("%d lines arrived", n)
	}
}

func TestFlushWithoutReceiver(t *testing.T) {
	t.Parallel()
	c := fileContainer(t.TempDir(), "shop", "c1")
	write(t, c.LogPath, 0, 7)
	e, _ := start(t, testConfig(t, newTold(collects(tcpTarget("127.0.0.1:1"), "shop")), newInventory(c)))
	eventually(t, "the lines are in the spool", func() bool {
		st := e.Status()
		return len(st.Targets) == 1 && st.Targets[0].Queue.Entries == 7
	})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := e.Flush(ctx); err == nil || !strings.Contains(err.Error(), "7 lines wait") {
		t.Errorf("error %v, want one with the number of lines", err)
	}
}

// TestFullSpool drops the oldest lines, counts them and tells it once.
func TestFullSpool(t *testing.T) {
	t.Parallel()
	c := fileContainer(t.TempDir(), "shop", "c1")
	cfg := testConfig(t, newTold(collects(tcpTarget("127.0.0.1:1"), "shop")), newInventory(c))
	cfg.SpoolBytes = minSpoolBytes
	var mu sync.Mutex
	told := 0
	cfg.Event = func(e protocol.EventInfo) {
		mu.Lock()
		defer mu.Unlock()
		if e.Reason == reasonDropped {
			told++
		}
	}
	const lines = 60000 // of about 60 bytes
	write(t, c.LogPath, 0, lines)
	e, _ := start(t, cfg)
	eventually(t, "all lines are read", func() bool {
		st := e.Status()
		return len(st.Targets) == 1 && st.Targets[0].Dropped > 0 && st.Targets[0].Dropped+st.Targets[0].Queue.Entries == lines
	})
	if st := e.Status().Targets[0].Queue; st.DiskBytes > minSpoolBytes {
		t.Errorf("the spool has %d bytes on the disk", st.DiskBytes)
	}
	mu.Lock()
	defer mu.Unlock()
	if told != 1 {
		t.Errorf("it was told %d times", told)
	}
}

// TestDatagrams does not wait for long between them.
func TestDatagrams(t *testing.T) {
	t.Parallel()
	l, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	c := fileContainer(t.TempDir(), "shop", "c1")
	write(t, c.LogPath, 0, 1000)
	target := tcpTarget(l.LocalAddr().String())
	target.SyslogConfig.Protocol = "udp"
	cfg := testConfig(t, newTold(collects(target, "shop")), newInventory(c))
	cfg.Settle = time.Hour // of tcp
	e, _ := start(t, cfg)
	eventually(t, "all lines are sent", func() bool {
		st := e.Status()
		return len(st.Targets) == 1 && st.Targets[0].Sent == 1000
	})
}

// TestStoppedReceiver has a receiver that accepts and never reads, which must not
// hold up the end.
func TestStoppedReceiver(t *testing.T) {
	t.Parallel()
	small := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		return c.Control(func(fd uintptr) { _ = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 4096) })
	}}
	l, err := small.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	c := fileContainer(t.TempDir(), "shop", "c1")
	record := time.Now().UTC().Format(time.RFC3339Nano) + " stdout F " + strings.Repeat("x", 8000) + "\n"
	if err := os.WriteFile(c.LogPath, []byte(strings.Repeat(record, 2000)), 0o600); err != nil {
		t.Fatal(err)
	}
	gone := newSink(t)
	_ = gone.Close()
	cfg := testConfig(t, newTold(collects(tcpTarget(gone.Addr().String()), "shop")), newInventory(c))
	e, stop := start(t, cfg)
	eventually(t, "much more waits than sockets take", func() bool {
		st := e.Status()
		return len(st.Targets) == 1 && st.Targets[0].Queue.Entries == 2000
	})
	stop()
	cfg.Desired = newTold(collects(tcpTarget(l.Addr().String()), "shop"))
	_, stop = start(t, cfg)
	peer, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = peer.Close() }()
	if _, err := io.ReadFull(peer, make([]byte, 64)); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	stop()
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("it took %s to stop", took)
	}
}

// TestHalt ends senders together: here each ends only when all were told to.
func TestHalt(t *testing.T) {
	t.Parallel()
	var told sync.WaitGroup
	var targets []*target
	for range 3 {
		told.Add(1)
		one := &target{stop: told.Done, done: make(chan struct{})}
		targets = append(targets, one)
		go func() {
			told.Wait()
			close(one.done)
		}()
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		halt(targets)
	}()
	select {
	case <-ended:
	case <-time.After(30 * time.Second):
		t.Error("one waits for the other")
	}
}

func TestBatch(t *testing.T) {
	t.Parallel()
	var b batch
	for _, want := range []int{256, 512, 1024, 2048, 4096, 8192, 16384, 16384} {
		if b.limit() != want {
			t.Fatalf("%d lines are sent, want %d", b.limit(), want)
		}
		b.arrived(want)
	}
	b.arrived(10)
	for _, want := range []int{8192, 4096, 2048} {
		if b.failed(16384); b.limit() != want {
			t.Fatalf("after a failure %d lines are sent, want %d", b.limit(), want)
		}
	}
	for _, lines := range []int{100, 50, 25, 12, 6, 3, 1, 1} {
		b.failed(lines)
	}
	if b.arrived(0); b.limit() != 1 {
		t.Errorf("%d lines are sent, want 1", b.limit())
	}
}

// TestReceiverBreaksOff has a receiver that takes a hundred lines of each
// connection: all arrive nevertheless.
func TestReceiverBreaksOff(t *testing.T) {
	t.Parallel()
	s := newSink(t)
	s.mu.Lock()
	s.most = 100
	s.mu.Unlock()
	c := fileContainer(t.TempDir(), "shop", "c1")
	write(t, c.LogPath, 0, 400)
	cfg := testConfig(t, newTold(collects(tcpTarget(s.Addr().String()), "shop")), newInventory(c))
	cfg.retry = time.Millisecond
	e, _ := start(t, cfg)
	eventually(t, "all lines have arrived", func() bool {
		st := e.Status()
		return len(st.Targets) == 1 && st.Targets[0].Sent == 400 && st.Targets[0].Queue.Entries == 0
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	seen := map[string]bool{}
	for _, m := range s.messages {
		seen[m] = true
	}
	if len(seen) != 400 {
		t.Errorf("%d different lines arrived", len(seen))
	}
}

func TestConfig(t *testing.T) {
	t.Parallel()
	good := testConfig(t, newTold(desired.State{}), newInventory())
	for name, change := range map[string]func(*Config){
		"Desired":    func(c *Config) { c.Desired = nil },
		"Containers": func(c *Config) { c.Containers = nil },
		"Dir":        func(c *Config) { c.Dir = "relative" },
		"OwnerUID":   func(c *Config) { c.OwnerUID = -1 },
		"SpoolBytes": func(c *Config) { c.SpoolBytes = 1 },
		"SpoolAge":   func(c *Config) { c.SpoolAge = -1 },
	} {
		c := good
		change(&c)
		if _, err := New(c); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("without a good %s: %v", name, err)
		}
	}
}
