package yggdrasil

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/stats"
)

// link is one connection to the dispatcher. A registration is worth as much as
// the yggd that gave it, and a new yggd may answer at the same address before
// anything else is noticed; that the connection ended is what tells.
type link struct {
	net.Conn
	pid  int // of the process that listens; 0 when it is in another pid namespace
	once sync.Once
	lost chan struct{}
}

// Close closes the connection and tells that it is lost.
func (l *link) Close() error {
	l.once.Do(func() { close(l.lost) })
	return l.Conn.Close()
}

// dispatcher returns the client connection to yggd, which connects when it is
// used and reconnects by itself.
func (w *Worker) dispatcher() (*grpc.ClientConn, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return nil, errors.New("worker is closed")
	}
	if w.conn != nil {
		return w.conn, nil
	}
	conn, err := grpc.NewClient("passthrough:///yggd",
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(w.dial),
		grpc.WithNoProxy(),
		grpc.WithIdleTimeout(0), // an idle connection would look like a lost one
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 200 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 5 * time.Second},
			MinConnectTimeout: 5 * time.Second,
		}),
		grpc.WithStatsHandler(handover{}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessageBytes)),
	)
	if err != nil {
		return nil, fmt.Errorf("create client of %s: %w", w.socket, err)
	}
	w.conn = conn
	return conn, nil
}

func (w *Worker) dial(ctx context.Context, _ string) (net.Conn, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", w.socket)
	if err != nil {
		return nil, err
	}
	cred, err := checkPeer(c)
	if err != nil {
		_ = c.Close()
		return nil, fmt.Errorf("dispatcher at %s: %w", w.socket, err)
	}
	l := &link{Conn: c, pid: int(cred.Pid), lost: make(chan struct{})}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.link == nil {
		// The pid is 0 when yggd is in another pid namespace.
		w.child = l.pid == w.parent || l.pid == 0
	}
	w.link = l
	return l, nil
}

func (w *Worker) currentLink() *link {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.link
}

// connected returns the link when the dispatcher answers, or ctx's error.
func (w *Worker) connected(ctx context.Context, conn *grpc.ClientConn) (*link, error) {
	for {
		conn.Connect()
		state := conn.GetState()
		if state == connectivity.Ready {
			return w.currentLink(), nil
		}
		if !conn.WaitForStateChange(ctx, state) {
			return nil, ctx.Err()
		}
	}
}

// Close ends the connection to yggd. Calls under way fail.
func (w *Worker) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
	if w.conn == nil {
		return nil
	}
	conn := w.conn
	w.conn = nil
	return conn.Close()
}

type handoverKey struct{}

// handover notes that a call's message was handed to the connection. Before
// that, a failed call is known not to have been delivered.
type handover struct{}

var _ stats.Handler = handover{}

func (handover) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context   { return ctx }
func (handover) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }
func (handover) HandleConn(context.Context, stats.ConnStats)                       {}

func (handover) HandleRPC(ctx context.Context, s stats.RPCStats) {
	if _, ok := s.(*stats.OutPayload); !ok {
		return
	}
	if note, ok := ctx.Value(handoverKey{}).(func()); ok {
		note()
	}
}
