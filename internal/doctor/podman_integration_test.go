//go:build integration

package doctor

import (
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/fstest"
	"time"
)

// The real Podman and the real nft are found to be well.
func TestRealPodmanAndNft(t *testing.T) {
	t.Parallel()
	socket := filepath.Join(t.TempDir(), "podman.sock")
	cmd := exec.Command("podman", "system", "service", "--time=0", "unix://"+socket)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatalf("start podman of the Debian package: %v", err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // it was killed
	})
	host := ThisHost()
	look := func(name string) Finding {
		return only(t, name, func(h *Host, s *Subject, _ fstest.MapFS) { *h, s.PodmanSocket = host, socket })[0]
	}
	f := look("podman")
	for end := time.Now().Add(30 * time.Second); f.Level != OK && time.Now().Before(end); f = look("podman") {
		time.Sleep(100 * time.Millisecond)
	}
	if f.Level != OK || !strings.HasPrefix(f.Found, "Podman 4.") && !strings.HasPrefix(f.Found, "Podman 5.") {
		t.Errorf("podman: %+v", f)
	}
	if f := look("nftables"); f.Level != OK {
		t.Errorf("nftables, as root: %+v", f)
	}
}
