//go:build integration

package agent

import (
	"bytes"
	"context"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/project-flotta/flotta-agent/internal/bundle"
)

// What the real Podman says of a container is in a bundle, without the values of
// its variables and the arguments that are secrets.
func TestBundleOfRealContainers(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	podman := func(args ...string) *exec.Cmd {
		cmd := exec.CommandContext(t.Context(), "podman", append([]string{"--root", filepath.Join(dir, "root"), "--runroot", filepath.Join(dir, "run"), "--storage-driver", "vfs"}, args...)...)
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		return cmd
	}
	image := podman("import", "-", "localhost/bundle-test:1")
	image.Stdin = bytes.NewReader(make([]byte, 10240)) // an archive of nothing
	if out, err := image.CombinedOutput(); err != nil {
		t.Fatalf("podman of the Debian package: %v\n%s", err, out)
	}
	create := podman("create", "--name", "bundle-test", "--env", "DB_PASSWORD=env-canary-81", "localhost/bundle-test:1", "/run", "--token", "argument-canary-82", "--secret=option-canary-83")
	if out, err := create.CombinedOutput(); err != nil {
		t.Fatalf("create container: %v\n%s", err, out)
	}
	socket := filepath.Join(dir, "podman.sock")
	service := podman("system", "service", "--time=0", "unix://"+socket)
	if err := service.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = service.Process.Kill()
		_ = service.Wait() // it was killed
	})
	r := newRig(t)
	r.host.Dial = func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", socket)
	}
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		if _, err := r.device.podman(t.Context(), r.host, "version"); err == nil {
			break
		} else if time.Now().After(end) {
			t.Fatal(err)
		}
	}
	raw, err := r.device.inspect(t.Context(), r.host)
	if err != nil || strings.Count(string(raw), "-canary-8") < 3 {
		t.Fatalf("nothing is planted: %v, %s", err, raw)
	}
	archive, names := r.unpack(t, bundle.Config{Items: r.device.containers(r.host), Now: time.Now()})
	if strings.Contains(archive, "-canary-8") {
		at := strings.Index(archive, "-canary-8")
		t.Errorf("a secret is in the archive: %s", archive[max(0, at-300):at+20])
	}
	for _, want := range []string{"DB_PASSWORD=[redacted]", "localhost/bundle-test:1", "bundle-test", "graphRoot"} {
		if !strings.Contains(archive, want) {
			t.Errorf("%q is not in the archive", want)
		}
	}
	if len(names) != 7 { // and the manifest
		t.Errorf("files: %v", names)
	}
}
