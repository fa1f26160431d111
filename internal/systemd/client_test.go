package systemd_test

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/project-flotta/flotta-agent/internal/systemd"
)

func client(t *testing.T, socket string, timeout time.Duration) *systemd.Client {
	t.Helper()
	c, err := systemd.New(systemd.Config{Socket: socket, Timeout: timeout})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func calls(ctx context.Context, c *systemd.Client) map[string]error {
	_, units := c.Units(ctx, "*")
	_, unit := c.Unit(ctx, "x.service")
	_, wants := c.Wants(ctx, "x.target")
	return map[string]error{
		"units": units, "unit": unit, "wants": wants, "start": c.Start(ctx, "x.service"),
		"stop": c.Stop(ctx, "x.service"), "enable": c.Enable(ctx, "x.service"), "reload": c.Reload(ctx),
		"watch": c.Watch(ctx, "x", func(string) {}),
	}
}

func TestNewRefuses(t *testing.T) {
	t.Parallel()
	for _, cfg := range []systemd.Config{{}, {Socket: "relative"}, {Socket: "/s", Timeout: -1}} {
		if _, err := systemd.New(cfg); err == nil {
			t.Errorf("New(%+v) accepted it", cfg)
		}
	}
}

func TestAbsentManagerIsUnavailable(t *testing.T) {
	t.Parallel()
	c := client(t, filepath.Join(t.TempDir(), "none"), 0)
	for name, err := range calls(t.Context(), c) {
		if !errors.Is(err, systemd.ErrUnavailable) {
			t.Errorf("%s: %v, want ErrUnavailable", name, err)
		}
	}
}

// TestSilentManager has one that accepts connections and never says a word.
func TestSilentManager(t *testing.T) {
	t.Parallel()
	socket := filepath.Join(t.TempDir(), "s")
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	c := client(t, socket, 50*time.Millisecond)
	for name, err := range calls(t.Context(), c) {
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: %v, want DeadlineExceeded", name, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := c.Watch(ctx, "x", func(string) {}); err != nil {
		t.Errorf("watching after the end of its context: %v, want nil", err)
	}
}

func TestUserSocket(t *testing.T) {
	t.Parallel()
	if got, want := systemd.UserSocket(995), "/run/user/995/systemd/private"; got != want {
		t.Errorf("UserSocket = %s, want %s", got, want)
	}
}
