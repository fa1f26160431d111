package playbook

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"testing"
)

// TestMain makes the test binary the program that units of playbooks start, and a
// life of the agent, so that both can be killed.
func TestMain(m *testing.M) {
	var err error
	switch {
	case len(os.Args) == 3 && os.Args[1] == "playbook-run":
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		err = Execute(ctx, os.Args[2], slog.New(slog.NewTextHandler(os.Stderr, nil)))
		stop()
	case os.Getenv(lifeEnv) != "":
		err = live(os.Getenv(lifeEnv))
	default:
		os.Exit(m.Run())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}
