package heartbeat

import (
	"fmt"
	"log/slog"
	"os"
	"syscall"
	"testing"

	"github.com/project-flotta/flotta-agent/internal/diskq"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

const killedDirVar = "HEARTBEAT_TEST_KILLED_DIR"

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }

// TestMain is also the body of the process that TestEventsOfAKilledAgent starts.
func TestMain(m *testing.M) {
	dir := os.Getenv(killedDirVar)
	if dir == "" {
		os.Exit(m.Run())
	}
	q, err := diskq.Open(diskq.Config{Dir: dir})
	if err != nil {
		os.Exit(3)
	}
	r, err := New(Config{Sender: hanging{}, Desired: &source{}, Events: q})
	if err != nil {
		os.Exit(4)
	}
	for i := range 5 {
		r.Event(protocol.EventInfo{Reason: "R", Message: fmt.Sprint(i)})
	}
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {}
}
