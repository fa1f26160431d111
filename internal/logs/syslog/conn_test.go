package syslog

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"math"
	"net"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// listen starts a receiver that hands its connections out.
func listen(t *testing.T) (Target, <-chan net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	conns := make(chan net.Conn, 1)
	go func() {
		c, err := l.Accept()
		if err == nil {
			conns <- c
		}
	}()
	t.Cleanup(func() { _ = l.Close() })
	return Target{Protocol: TCP, Address: l.Addr().String()}, conns
}

func dial(t *testing.T, target Target) *Conn {
	t.Helper()
	c, err := Dial(t.Context(), target)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func TestOctetCounting(t *testing.T) {
	t.Parallel()
	target, conns := listen(t)
	c := dial(t, target)
	peer := <-conns
	defer peer.Close()
	if err := c.Send(t.Context(), [][]byte{[]byte("one"), []byte("zwölf"), {}}); err != nil {
		t.Fatal(err)
	}
	if err := c.Confirm(t.Context(), time.Millisecond); err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(peer)
	if want := "3 one6 zwölf0 "; err != nil || string(got) != want {
		t.Errorf("received %q (%v), want %q", got, err, want)
	}
}

// TestUnreadLinesAreNotConfirmed closes a receiver that has not read what its
// kernel acknowledged.
func TestUnreadLinesAreNotConfirmed(t *testing.T) {
	t.Parallel()
	target, conns := listen(t)
	c := dial(t, target)
	peer := <-conns
	if err := c.Send(t.Context(), [][]byte{[]byte("one")}); err != nil {
		t.Fatal(err)
	}
	confirmed := make(chan error, 1)
	go func() { confirmed <- c.Confirm(t.Context(), time.Minute) }()
	if _, err := bufio.NewReader(peer).Peek(1); err != nil {
		t.Fatal(err)
	}
	if err := peer.Close(); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-confirmed:
		if err == nil {
			t.Error("the lines count as received")
		}
	case <-time.After(30 * time.Second):
		t.Error("nobody notices that the receiver is gone")
	}
}

// TestFullReceiver has a receiver that reads nothing: what it has no room for is
// not confirmed.
func TestFullReceiver(t *testing.T) {
	t.Parallel()
	target, conns := listen(t)
	c := dial(t, target)
	peer := <-conns
	defer peer.Close()
	line := []byte(strings.Repeat("x", 64<<10))
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		for c.Send(t.Context(), [][]byte{line}) == nil {
			continue // until Close
		}
	}()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(time.Millisecond) {
		n, err := unacknowledged(c.raw)
		if err != nil || time.Now().After(deadline) {
			t.Fatalf("nothing waits in the send queue: %v", err)
		}
		if n > len(line) {
			break
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := c.Confirm(ctx, 0); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("what a receiver has no room for is confirmed: %v", err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	<-sent
}

func TestClosedPortByUDP(t *testing.T) {
	t.Parallel()
	l, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := dial(t, Target{Protocol: UDP, Address: l.LocalAddr().String()})
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	err = c.Send(t.Context(), [][]byte{[]byte("one")})
	if err == nil {
		err = c.Confirm(t.Context(), 30*time.Second)
	}
	if err == nil {
		t.Error("the line counts as received")
	}
	if errors.Is(err, ErrClosed) {
		t.Errorf("%v: a port that is closed is no connection that was", err)
	}
}

// TestSendEndsWithItsContext has a receiver that reads nothing.
func TestSendEndsWithItsContext(t *testing.T) {
	t.Parallel()
	server := httptest.NewUnstartedServer(nil)
	server.StartTLS()
	t.Cleanup(server.Close)
	roots := x509.NewCertPool()
	roots.AddCert(server.Certificate())
	for _, protocol := range []Protocol{TCP, TLS} {
		t.Run(string(protocol), func(t *testing.T) {
			t.Parallel()
			target, conns := listen(t)
			target.Protocol = protocol
			if protocol == TLS {
				target.TLS = &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots, ServerName: "example.com"}
				plain, secured := conns, make(chan net.Conn, 1)
				go func() {
					peer := <-plain
					_ = tls.Server(peer, &tls.Config{MinVersion: tls.VersionTLS12, Certificates: server.TLS.Certificates}).Handshake()
					secured <- peer
				}()
				conns = secured
			}
			c, err := Dial(t.Context(), target)
			if err != nil {
				t.Fatal(err)
			}
			peer := <-conns
			defer peer.Close()
			ctx, cancel := context.WithCancel(t.Context())
			line, failed := []byte(strings.Repeat("x", 64<<10)), make(chan error, 1)
			var written atomic.Int64
			go func() {
				for {
					if err := c.Send(ctx, [][]byte{line}); err != nil {
						failed <- err
						return
					}
					written.Add(1)
				}
			}()
			// Full, when nothing more was written for a while.
			for last, same := int64(-1), 0; same < 10; time.Sleep(20 * time.Millisecond) {
				if now := written.Load(); now == last {
					same++
				} else {
					last, same = now, 0
				}
			}
			began := time.Now()
			cancel()
			if err := <-failed; !errors.Is(err, context.Canceled) {
				t.Errorf("sending ended with: %v", err)
			}
			_ = c.Close()
			if took := time.Since(began); took > 3*time.Second {
				t.Errorf("it took %s", took)
			}
		})
	}
}

// TestProgress lets a receiver take as long as it likes that takes something.
func TestProgress(t *testing.T) {
	t.Parallel()
	now := time.Now()
	p := progress{least: math.MaxInt}
	for n := 100; n > 0; n-- {
		if p.ended(n, now) || p.ended(n, now.Add(confirmTimeout)) {
			t.Fatalf("with %d bytes left it ended, in spite of progress", n)
		}
		now = now.Add(confirmTimeout)
	}
	if !p.ended(1, now.Add(time.Second)) {
		t.Error("it goes on without progress")
	}
}
