package agent

import (
	"bytes"
	"context"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/project-flotta/flotta-agent/internal/durable"
	"github.com/project-flotta/flotta-agent/internal/systemd"
)

func TestRuntimeAccount(t *testing.T) {
	t.Parallel()
	root, err := runtimeAccount(RuntimeConfig{Mode: modeRoot, User: "no-such-user"})
	if err != nil || root != (account{}) || root.podmanSocket() != "/run/podman/podman.sock" ||
		root.managerSocket() != systemd.SystemSocket || root.dropIns() != "/etc/systemd/system" {
		t.Errorf("root mode: %+v, %v", root, err)
	}
	for _, name := range []string{"no-such-user", "root"} {
		if _, err := runtimeAccount(RuntimeConfig{Mode: modeUser, User: name}); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("user %s: %v", name, err)
		}
	}
	flotta := account{uid: 995, gid: 994}
	if flotta.podmanSocket() != "/run/user/995/podman/podman.sock" || flotta.managerSocket() != systemd.UserSocket(995) ||
		flotta.dropIns() != "/etc/systemd/user" {
		t.Errorf("user mode: %s, %s, %s", flotta.podmanSocket(), flotta.managerSocket(), flotta.dropIns())
	}
}

// TestListeningWaits has no service manager at first, and somebody else make the
// socket in the end.
func TestListeningWaits(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		units, err := systemd.New(systemd.Config{Socket: filepath.Join(dir, "manager")})
		if err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		l := listening{
			socket: filepath.Join(dir, "podman.sock"), units: units, pause: time.Second,
			log: slog.New(slog.NewTextHandler(&out, nil)),
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- l.run(ctx) }()
		time.Sleep(time.Minute)
		if err := durable.WriteFile(l.socket, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if n := strings.Count(out.String(), "level=WARN"); n != 1 {
			t.Errorf("it was told %d times: %s", n, out.String())
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}
