package yggdrasil

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/project-flotta/flotta-agent/internal/transport"
	"github.com/project-flotta/flotta-agent/internal/transport/yggdrasil/pb"
)

func TestSettingsOfYggd(t *testing.T) {
	t.Parallel()
	f := startFake(t, &fakeYggd{socket: newSocket(t), config: &pb.Config{
		ClientId: "dev1", Server: "edge:8043", CertFile: "/etc/c.pem", KeyFile: "/etc/k.pem", CaRoot: "/etc/a.pem;/etc/b.pem",
	}})
	got, err := idleWorker(t, Config{SocketAddr: "unix:" + f.socket, ClientID: "not this"}).Settings(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := transport.Settings{DeviceID: "dev1", Server: "edge:8043", CertFile: "/etc/c.pem", KeyFile: "/etc/k.pem", CAFiles: []string{"/etc/a.pem", "/etc/b.pem"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("settings (-want +got):\n%s", diff)
	}
}

func TestSettingsWaitForYggd(t *testing.T) {
	t.Parallel()
	socket := newSocket(t)
	w := idleWorker(t, Config{SocketAddr: "unix:" + socket})
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := w.Settings(ctx); err == nil {
		t.Error("settings without yggd")
	}
	done := make(chan error, 1)
	go func() {
		_, err := w.Settings(t.Context())
		done <- err
	}()
	startFake(t, &fakeYggd{socket: socket, config: &pb.Config{ClientId: "dev1"}})
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestSettingsWithoutClientID(t *testing.T) {
	t.Parallel()
	f := startFake(t, &fakeYggd{socket: newSocket(t), config: &pb.Config{Server: "edge:8043"}})
	if s, err := idleWorker(t, Config{SocketAddr: "unix:" + f.socket}).Settings(t.Context()); err == nil {
		t.Errorf("accepted: %+v", s)
	}
}

func TestSettingsOfOldYggd(t *testing.T) {
	t.Parallel()
	f := startFake(t, &fakeYggd{socket: newSocket(t)})
	dir := t.TempDir()
	w := idleWorker(t, Config{SocketAddr: "unix:" + f.socket, ConfigDir: dir, ClientID: "dev1"})
	if _, err := w.Settings(t.Context()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("without a file: %v", err)
	}
	writeConfig(t, dir, `
broker = ["mqtt.example:8883"]
cert-file = "/etc/pki/cert.pem"
key-file = "/etc/pki/key.pem"
ca-root = ["/etc/pki/a.pem", ""]
log-level = "error"
`)
	got, err := w.Settings(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := transport.Settings{DeviceID: "dev1", CertFile: "/etc/pki/cert.pem", KeyFile: "/etc/pki/key.pem", CAFiles: []string{"/etc/pki/a.pem"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("settings (-want +got):\n%s", diff)
	}
	writeConfig(t, dir, "cert-file = ")
	if _, err := w.Settings(t.Context()); err == nil {
		t.Error("broken file accepted")
	}
}

func TestDecodeConfigFile(t *testing.T) {
	t.Parallel()
	for _, raw := range []string{"ca-root = 1", "ca-root = [1]", "cert-file = [\"a\"]", "x", "cert-file = \"a\"\ncert-file = \"b\""} {
		if s, err := decodeConfigFile([]byte(raw)); err == nil {
			t.Errorf("%q accepted: %+v", raw, s)
		}
	}
	s, err := decodeConfigFile([]byte(`ca-root = "one.pem"`))
	if err != nil || len(s.CAFiles) != 1 {
		t.Errorf("a single name: %+v, %v", s, err)
	}
}

func FuzzDecodeConfigFile(f *testing.F) {
	f.Add([]byte("cert-file = \"/a\"\nkey-file = \"/b\"\nca-root = [\"/c\"]\nserver = \"h:1\"\n"))
	f.Add([]byte("ca-root = \"x\"\n[section]\na = 1\n"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		s, err := decodeConfigFile(raw)
		if err != nil && (s.CertFile != "" || s.CAFiles != nil) {
			t.Errorf("settings beside an error: %+v", s)
		}
	})
}

func writeConfig(t *testing.T, dir, content string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, "config.toml"), []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}
