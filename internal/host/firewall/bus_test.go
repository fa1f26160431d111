package firewall

import (
	"net"
	"path/filepath"
	"testing"
	"time"
)

// TestBusThatHangs: the ports in nftables do not wait for a message bus that takes
// connections and says nothing.
func TestBusThatHangs(t *testing.T) {
	t.Parallel()
	socket := filepath.Join(t.TempDir(), "bus")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	f := &firewalld{socket: socket, greeting: 50 * time.Millisecond}
	done := make(chan bool, 1)
	go func() {
		running, _ := f.ensure(t.Context(), nil)
		done <- running
	}()
	select {
	case running := <-done:
		if running {
			t.Error("firewalld is said to run")
		}
	case <-time.After(20 * time.Second):
		t.Error("it waits for ever")
	}
}
