package device

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Proxy carries TCP connections to its targets in turn, with a delay that can be
// changed while it runs, and can be cut.
type Proxy struct {
	targets  []string
	next     atomic.Uint64
	listener net.Listener
	delay    atomic.Int64 // each way, in nanoseconds
	cut      atomic.Bool
	group    sync.WaitGroup

	sent, received atomic.Int64 // bytes

	mu    sync.Mutex
	conns map[net.Conn]bool
}

// StartProxy listens on address (port 0: a free one) until Close. A target that
// cannot be reached is passed over, as a load balancer does.
func StartProxy(ctx context.Context, address string, targets ...string) (*Proxy, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	p := &Proxy{targets: targets, listener: l, conns: map[net.Conn]bool{}}
	p.group.Go(p.accept)
	return p, nil
}

// Port is where the proxy listens.
func (p *Proxy) Port() int {
	addr, _ := p.listener.Addr().(*net.TCPAddr)
	return addr.Port
}

// Carried is how many bytes have reached targets, and clients, so far.
func (p *Proxy) Carried() (sent, received int64) { return p.sent.Load(), p.received.Load() }

// Delay makes every byte take that much longer, in each direction.
func (p *Proxy) Delay(d time.Duration) { p.delay.Store(int64(d)) }

// Cut resets all connections and refuses new ones, until Mend.
func (p *Proxy) Cut() {
	p.cut.Store(true)
	p.Reset()
}

// Mend ends Cut.
func (p *Proxy) Mend() { p.cut.Store(false) }

// Reset resets all connections.
func (p *Proxy) Reset() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		if t, ok := c.(*net.TCPConn); ok {
			_ = t.SetLinger(0) // a reset, not an orderly end
		}
		_ = c.Close()
	}
	clear(p.conns)
}

// Close ends the proxy with all its connections.
func (p *Proxy) Close() {
	_ = p.listener.Close()
	p.cut.Store(true)
	p.Reset()
	p.group.Wait()
}

func (p *Proxy) accept() {
	for {
		conn, err := p.listener.Accept()
		if err != nil {
			return
		}
		if !p.keep(conn) {
			continue
		}
		p.group.Go(func() { p.carry(conn) })
	}
}

// keep notes a connection, unless the proxy is cut.
func (p *Proxy) keep(c net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cut.Load() {
		_ = c.Close()
		return false
	}
	p.conns[c] = true
	return true
}

func (p *Proxy) drop(c net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, c)
	_ = c.Close()
}

func (p *Proxy) carry(client net.Conn) {
	defer p.drop(client)
	server, err := p.dial()
	if err != nil || !p.keep(server) {
		return
	}
	defer p.drop(server)
	var both sync.WaitGroup
	both.Go(func() { p.pump(server, client, &p.sent) })
	both.Go(func() { p.pump(client, server, &p.received) })
	both.Wait()
}

// dial connects to the target whose turn it is, or to the next that answers.
func (p *Proxy) dial() (conn net.Conn, err error) {
	for range p.targets {
		target := p.targets[p.next.Add(1)%uint64(len(p.targets))]
		if conn, err = net.DialTimeout("tcp", target, 10*time.Second); err == nil {
			return conn, nil
		}
	}
	return nil, err
}

// chunk is what was read, and when it may be written.
type chunk struct {
	data []byte
	due  time.Time
}

// pump copies one direction and counts it. Reading does not wait for what is delayed, so that
// a delay costs time and not throughput.
func (p *Proxy) pump(to, from net.Conn, count *atomic.Int64) {
	const window = 256 // chunks on the way
	way := make(chan chunk, window)
	go func() {
		defer close(way)
		for {
			buf := make([]byte, 32<<10)
			n, err := from.Read(buf)
			if n > 0 {
				way <- chunk{buf[:n], time.Now().Add(time.Duration(p.delay.Load()))}
			}
			if err != nil {
				return
			}
		}
	}()
	var broken bool
	for c := range way {
		if broken {
			continue
		}
		time.Sleep(time.Until(c.due))
		n, err := to.Write(c.data)
		count.Add(int64(n))
		if err != nil {
			broken = true
			_ = from.Close()
		}
	}
	p.finish(to, from)
}

// finish tells one side that the other has ended, unless that was reset: then
// both are, and an orderly end would come before it.
func (p *Proxy) finish(to, from net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if half, ok := to.(*net.TCPConn); ok && p.conns[from] {
		_ = half.CloseWrite()
	}
}
