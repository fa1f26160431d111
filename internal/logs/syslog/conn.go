package syslog

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math"
	"net"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"
)

const (
	dialTimeout = 20 * time.Second
	// writeTimeout is how long a receiver may take no byte at all.
	writeTimeout = 30 * time.Second
	// confirmTimeout is how long the receiver's kernel may acknowledge nothing of
	// what was written. TCP itself would try for a quarter of an hour.
	confirmTimeout = 30 * time.Second
	// alive is how soon a connection is known to be dead that nobody closed,
	// because the receiver or the network is gone.
	aliveIdle, aliveEvery, aliveProbes = 30 * time.Second, 10 * time.Second, 3
	// chunk bounds one write, so that writeTimeout is one of progress, also by a
	// modem: it is 2 kbit/s.
	chunk = 8 << 10
	// maxDatagram is what fits into one udp packet over IPv4.
	maxDatagram = 65507
)

// ErrClosed says that the receiver closed the connection.
var ErrClosed = errors.New("the receiver closed the connection")

// Conn is a connection to a receiver. Send and Confirm are for one goroutine.
type Conn struct {
	target Target
	conn   net.Conn
	raw    syscall.RawConn // of the socket below; nil when it has none

	socket net.Conn // below conn, which may be TLS
	broken bool     // after an error, when nothing is worth a farewell

	frame []byte
	done  chan struct{} // closed when the receiver can't be written to any more
	mu    sync.Mutex
	why   error // why it is closed
	wait  sync.WaitGroup
}

// Dial connects, and resolves the target's name for it. The receiver's
// certificate is verified here.
func Dial(ctx context.Context, t Target) (*Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	dialer := net.Dialer{KeepAliveConfig: net.KeepAliveConfig{
		Enable: true, Idle: aliveIdle, Interval: aliveEvery, Count: aliveProbes,
	}}
	network := "tcp"
	if t.Protocol == UDP {
		network = "udp"
	}
	socket, err := dialer.DialContext(ctx, network, t.Address)
	if err != nil {
		return nil, fmt.Errorf("connect to syslog receiver: %w", err)
	}
	c := &Conn{target: t, conn: socket, socket: socket, done: make(chan struct{})}
	if s, ok := socket.(syscall.Conn); ok {
		if c.raw, err = s.SyscallConn(); err != nil {
			return nil, errors.Join(fmt.Errorf("connect to syslog receiver: %w", err), socket.Close())
		}
	}
	if t.Protocol == TLS {
		secured := tls.Client(socket, t.TLS)
		if err := secured.HandshakeContext(ctx); err != nil {
			return nil, errors.Join(fmt.Errorf("connect to syslog receiver %s by tls: %w", t.Address, err), socket.Close())
		}
		c.conn = secured
	}
	c.wait.Go(c.listen)
	return c, nil
}

// listen waits for the end of the connection: receivers never send anything. Of
// udp it learns that the port is closed.
func (c *Conn) listen() {
	defer close(c.done)
	var b [512]byte
	for {
		if _, err := c.conn.Read(b[:]); err != nil {
			if !errors.Is(err, syscall.ECONNREFUSED) && !errors.Is(err, syscall.ECONNRESET) {
				err = fmt.Errorf("%w: %w", ErrClosed, err)
			}
			c.mu.Lock()
			c.why = err
			c.mu.Unlock()
			return
		}
	}
}

// Done is closed when the receiver closed the connection.
func (c *Conn) Done() <-chan struct{} { return c.done }

// Err says why Done is closed; nil while it is not.
func (c *Conn) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.why == nil {
		return nil
	}
	return fmt.Errorf("send to syslog receiver %s: %w", c.target.Address, c.why)
}

// Close ends the connection. It waits for no receiver.
func (c *Conn) Close() error {
	end := c.conn
	if c.broken {
		end = c.socket // TLS would wait for room to say goodbye
	}
	err := end.Close()
	c.wait.Wait()
	return err
}

// Send writes messages, each framed as the protocol asks for. It returns as soon
// as ctx ends, also while the receiver takes nothing. After an error the
// connection is of no more use, and any of the messages may have arrived.
func (c *Conn) Send(ctx context.Context, messages [][]byte) error {
	stop := context.AfterFunc(ctx, func() {
		_ = c.conn.SetWriteDeadline(time.Unix(1, 0)) // it fails when the connection is closed
	})
	defer stop()
	err := c.send(ctx, messages)
	if err == nil {
		return nil
	}
	c.broken = true
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return fmt.Errorf("send to syslog receiver %s: %w", c.target.Address, err)
}

func (c *Conn) send(ctx context.Context, messages [][]byte) error {
	if c.target.Protocol == UDP {
		for _, m := range messages {
			if err := c.write(ctx, m[:min(len(m), maxDatagram)]); err != nil {
				return err
			}
		}
		return nil
	}
	c.frame = c.frame[:0]
	for i, m := range messages {
		c.frame = strconv.AppendInt(c.frame, int64(len(m)), 10)
		c.frame = append(c.frame, ' ')
		c.frame = append(c.frame, m...)
		if len(c.frame) < chunk && i < len(messages)-1 {
			continue
		}
		for piece := range slices.Chunk(c.frame, chunk) {
			if err := c.write(ctx, piece); err != nil {
				return err
			}
		}
		c.frame = c.frame[:0]
	}
	return nil
}

// write writes at most a chunk. The context is looked at after the deadline was
// set: whoever ends it later sets a deadline that is over.
func (c *Conn) write(ctx context.Context, b []byte) error {
	if err := c.conn.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	_, err := c.conn.Write(b)
	return err
}

// Confirm waits until the receiver's kernel has everything that was sent, and
// then for settle, at whose end the connection has to be alive: until then,
// whoever closes it with lines unread is noticed. An error says that what was
// sent since the last Confirm has to be sent again.
func (c *Conn) Confirm(ctx context.Context, settle time.Duration) error {
	err := c.confirm(ctx, settle)
	c.broken = c.broken || err != nil
	return err
}

func (c *Conn) confirm(ctx context.Context, settle time.Duration) error {
	if c.target.Protocol != UDP {
		if err := c.drain(ctx); err != nil {
			return err
		}
	}
	timer := time.NewTimer(max(settle, 1))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return fmt.Errorf("send to syslog receiver: %w", context.Cause(ctx))
	case <-c.done:
		return c.Err()
	case <-timer.C:
		return nil
	}
}

// drain waits for the acknowledgement of every byte.
func (c *Conn) drain(ctx context.Context) error {
	if c.raw == nil {
		return nil
	}
	progress := progress{least: math.MaxInt}
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for pause := 200 * time.Microsecond; ; pause = min(2*pause, 50*time.Millisecond) {
		n, err := unacknowledged(c.raw)
		if err != nil {
			return fmt.Errorf("send to syslog receiver: %w", err)
		}
		if n == 0 {
			return nil
		}
		if progress.ended(n, time.Now()) {
			return fmt.Errorf("send to syslog receiver %s: nothing was acknowledged for %s, and %d bytes are not", c.target.Address, confirmTimeout, n)
		}
		timer.Reset(pause)
		select {
		case <-ctx.Done():
			return fmt.Errorf("send to syslog receiver: %w", context.Cause(ctx))
		case <-c.done:
			return c.Err()
		case <-timer.C:
		}
	}
}

// progress watches a number that is to fall.
type progress struct {
	least int       // that there was
	since time.Time // when it came to that
}

// ended reports whether n has not fallen for confirmTimeout.
func (p *progress) ended(n int, now time.Time) bool {
	if n < p.least {
		p.least, p.since = n, now
	}
	return now.Sub(p.since) > confirmTimeout
}
