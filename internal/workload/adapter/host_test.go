package adapter_test

import (
	"context"
	"net"
	"os"
	"slices"
	"testing"

	"github.com/project-flotta/flotta-agent/internal/workload"
	"github.com/project-flotta/flotta-agent/internal/workload/adapter"
)

var _ workload.HostTable = (*adapter.Host)(nil)

// TestHost looks at the machine that the test runs on.
func TestHost(t *testing.T) {
	t.Parallel()
	host := adapter.NewHost(adapter.HostConfig{})
	for dir, want := range map[string]bool{"/proc": true, t.TempDir(): false} {
		if there, err := host.Mounted(dir); there != want || err != nil {
			t.Errorf("%s is mounted: %v, %v; want %v", dir, there, err, want)
		}
	}
	if port, err := host.FirstPort(); err != nil || port > 1024 {
		t.Errorf("first port is %d, %v", port, err)
	}
	var lc net.ListenConfig
	listener, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	address := listener.Addr().(*net.TCPAddr).AddrPort()
	sockets, err := host.Sockets()
	if err != nil || !slices.ContainsFunc(sockets, func(s workload.Socket) bool {
		return s.Protocol == "tcp" && s.Address == address.Addr() && s.Port == address.Port() &&
			s.PID == os.Getpid() && s.Command != "" && s.Workload == ""
	}) {
		t.Errorf("own socket %v is not among %+v, %v", address, sockets, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	if err := host.Watch(ctx, cancel); err != nil {
		t.Errorf("watch: %v", err)
	}
}
