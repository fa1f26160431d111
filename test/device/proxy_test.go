package device

import (
	"bytes"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"strconv"
	"testing"
	"time"
)

// echo answers every connection with what it gets, and ends with the test.
func echo(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(c, c); _ = c.Close() }()
		}
	}()
	return l.Addr().String()
}

func startProxy(t *testing.T) *Proxy {
	t.Helper()
	p, err := StartProxy(t.Context(), "127.0.0.1:0", echo(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

func dial(t *testing.T, p *Proxy) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(p.Port())))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(30 * time.Second))
	return c.(*net.TCPConn)
}

func TestProxyCarriesEverythingAndTheEnd(t *testing.T) {
	t.Parallel()
	p := startProxy(t)
	p.Delay(20 * time.Millisecond)
	c := dial(t, p)
	sent := make([]byte, 8<<20)
	_, _ = rand.Read(sent)
	start := time.Now()
	go func() { _, _ = c.Write(sent); _ = c.CloseWrite() }()
	got, err := io.ReadAll(c)
	if err != nil || !bytes.Equal(got, sent) {
		t.Fatalf("got %d bytes, %v; want %d", len(got), err, len(sent))
	}
	if took := time.Since(start); took < 40*time.Millisecond {
		t.Errorf("took %s, less than the delay both ways", took)
	}
}

func TestProxyDelaysWhileItRuns(t *testing.T) {
	t.Parallel()
	p := startProxy(t)
	c := dial(t, p)
	round := func() time.Duration {
		start := time.Now()
		if _, err := c.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		return time.Since(start)
	}
	round()
	p.Delay(100 * time.Millisecond)
	if took := round(); took < 200*time.Millisecond {
		t.Errorf("a round trip took %s, want at least 200ms", took)
	}
}

func TestProxyCutAndMend(t *testing.T) {
	t.Parallel()
	p := startProxy(t)
	c := dial(t, p)
	if _, err := c.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	p.Cut()
	if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("a cut connection reads %v, want a reset", err)
	}
	if n, err := dial(t, p).Read(make([]byte, 1)); err == nil {
		t.Errorf("a new connection through a cut reads %d bytes", n)
	}
	p.Mend()
	c = dial(t, p)
	if _, err := c.Write([]byte("y")); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 1)
	if _, err := io.ReadFull(c, got); err != nil || got[0] != 'y' {
		t.Errorf("after the cut: %q, %v", got, err)
	}
}
