package yggdrasil

import (
	"context"
	"fmt"
	"log/slog"
	"net"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/project-flotta/flotta-agent/internal/transport"
	"github.com/project-flotta/flotta-agent/internal/transport/yggdrasil/pb"
)

// maxStreams bounds the calls that one connection may have waiting, and with
// that the messages held in memory. yggd makes one call a connection.
const maxStreams = 4

// session serves the worker's socket for as long as one registration holds.
type session struct {
	at     *registration
	server *grpc.Server
	ended  chan struct{} // closed when the socket is no longer served
	err    error         // why; valid once ended is closed
}

// registration is what yggd assigned.
type registration struct {
	address string
	link    *link // the connection to the yggd that assigned it
}

// valid reports whether the yggd that gave r is still there.
func (r *registration) valid() bool {
	if r == nil {
		return false
	}
	select {
	case <-r.link.lost:
		return false
	default:
		return true
	}
}

// open listens at r's address and serves h there.
func (w *Worker) open(ctx context.Context, r *registration, h transport.Handler) (*session, error) {
	inner, err := (&net.ListenConfig{}).Listen(ctx, "unix", r.address)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", r.address, err)
	}
	s := &session{
		at: r,
		server: grpc.NewServer(
			grpc.MaxRecvMsgSize(maxMessageBytes),
			grpc.MaxConcurrentStreams(maxStreams),
			grpc.WaitForHandlers(true),
		),
		ended: make(chan struct{}),
	}
	pb.RegisterWorkerServer(s.server, &service{run: ctx, delivering: w.delivering, to: h, log: w.cfg.Log})
	guarded := &guardedListener{Listener: inner, log: w.cfg.Log, check: func(c net.Conn) error {
		_, err := checkPeer(c)
		return err
	}}
	go func() {
		defer close(s.ended)
		s.err = s.server.Serve(guarded)
	}()
	return s, nil
}

// close ends the session after the delivery that is under way. It may be called
// on nil.
func (s *session) close() {
	if s == nil {
		return
	}
	s.server.Stop()
	<-s.ended
}

// service is what yggd calls.
type service struct {
	pb.UnimplementedWorkerServer
	// A delivery that yggd stopped waiting for (it does after a minute) is not
	// to be cut off: it goes on under Run's context.
	run        context.Context //nolint:containedctx // see above
	delivering chan struct{}
	to         transport.Handler
	log        *slog.Logger
}

// Send hands d to the handler and returns when that did.
func (s *service) Send(ctx context.Context, d *pb.Data) (*pb.Response, error) {
	release, err := s.turn(ctx)
	if err != nil {
		return nil, err
	}
	defer release()
	err = s.to.Receive(s.run, transport.Message{
		ID:         d.GetMessageId(),
		ResponseTo: d.GetResponseTo(),
		Directive:  d.GetDirective(),
		Metadata:   d.GetMetadata(),
		Content:    d.GetContent(),
	})
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	return &pb.Response{}, nil
}

// NotifyEvent passes on that the control plane no longer manages this device;
// other events are only logged, because the next Send tells as much.
func (s *service) NotifyEvent(ctx context.Context, n *pb.EventNotification) (*pb.EventReceipt, error) {
	if n.GetName() != pb.Event_RECEIVED_DISCONNECT {
		s.log.Info("yggd reports an event", slog.String("event", n.GetName().String()), slog.String("detail", n.GetDetail()))
		return &pb.EventReceipt{}, nil
	}
	release, err := s.turn(ctx)
	if err != nil {
		return nil, err
	}
	defer release()
	s.to.Disconnected(s.run)
	return &pb.EventReceipt{}, nil
}

// turn waits for the deliveries that came before. Waiters on a channel are
// served in the order in which they came.
func (s *service) turn(ctx context.Context) (release func(), err error) {
	select {
	case s.delivering <- struct{}{}:
		release = func() { <-s.delivering }
		if err := ctx.Err(); err != nil { // select is free to choose
			release()
			return nil, status.FromContextError(err).Err()
		}
		return release, nil
	case <-ctx.Done():
		return nil, status.FromContextError(ctx.Err()).Err()
	case <-s.run.Done():
		return nil, status.Error(codes.Unavailable, "worker is stopping")
	}
}
