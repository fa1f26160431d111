package yggdrasil

import (
	"context"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/project-flotta/flotta-agent/internal/transport/yggdrasil/pb"
)

// fakeYggd is a dispatcher that follows yggd's rules: one worker a name, an
// address it makes up. Without more it is a 0.2.x: no GetConfig, empty answers.
type fakeYggd struct {
	pb.UnimplementedDispatcherServer
	socket string
	server *grpc.Server
	done   chan struct{}

	config *pb.Config                                      // nil: Unimplemented
	answer func(context.Context, *pb.Data) ([]byte, error) // nil: empty
	refuse atomic.Int32                                    // registrations to refuse before one is accepted

	mu      sync.Mutex
	address string
	count   int
}

// newSocket returns an address of an abstract socket that nobody else has.
func newSocket(t *testing.T) string {
	return fmt.Sprintf("@%s-%p", t.TempDir(), t)
}

func startFake(t *testing.T, f *fakeYggd) *fakeYggd {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "unix", f.socket)
	if err != nil {
		t.Fatal(err)
	}
	f.server = grpc.NewServer(grpc.WaitForHandlers(true))
	f.done = make(chan struct{})
	pb.RegisterDispatcherServer(f.server, f)
	go func() {
		defer close(f.done)
		_ = f.server.Serve(l)
	}()
	t.Cleanup(f.stop)
	return f
}

func (f *fakeYggd) stop() {
	f.server.Stop()
	<-f.done
}

func (f *fakeYggd) Register(_ context.Context, r *pb.RegistrationRequest) (*pb.RegistrationResponse, error) {
	if f.refuse.Add(-1) >= 0 {
		return &pb.RegistrationResponse{}, nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.address != "" {
		return &pb.RegistrationResponse{}, nil
	}
	f.count++
	f.address = fmt.Sprintf("%s-%s-%d-%p", f.socket, r.GetHandler(), f.count, f)
	return &pb.RegistrationResponse{Registered: true, Address: f.address}, nil
}

func (f *fakeYggd) GetConfig(ctx context.Context, in *pb.Empty) (*pb.Config, error) {
	if f.config == nil {
		return f.UnimplementedDispatcherServer.GetConfig(ctx, in)
	}
	return f.config, nil
}

func (f *fakeYggd) Send(ctx context.Context, d *pb.Data) (*pb.Response, error) {
	if f.answer == nil {
		return &pb.Response{}, nil
	}
	raw, err := f.answer(ctx, d)
	return &pb.Response{Response: raw}, err
}

func (f *fakeYggd) registered() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.address
}

// worker returns a client of the registered worker, as yggd dials it.
func (f *fakeYggd) worker(t *testing.T) pb.WorkerClient {
	t.Helper()
	conn, err := grpc.NewClient("unix:"+f.registered(), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.WaitForReady(true), grpc.MaxCallSendMsgSize(2*maxMessageBytes)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return pb.NewWorkerClient(conn)
}
