//go:build integration

package identity

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/project-flotta/flotta-agent/internal/pki"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// mountSite puts a site on a small file system of its own.
func mountSite(t *testing.T) (s *site, dir string) {
	t.Helper()
	s = newSite(t, "mnt/client.pem", "mnt/key.pem")
	dir = filepath.Dir(s.settings.KeyFile)
	if err := unix.Mount("flotta-test", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "size=64k,mode=0700"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	s.provision(t)
	return s, dir
}

func TestReadOnlyFolder(t *testing.T) {
	t.Parallel()
	s, dir := mountSite(t)
	if err := unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	api := &fakeAPI{ca: s.ca, approved: true}
	err := newDevice(t, s, api, nil).ensure(t.Context())
	if err == nil || !strings.Contains(err.Error(), dir) || !strings.Contains(err.Error(), "read-only") {
		t.Errorf("ensure = %v, want the folder and the reason", err)
	}
	if len(api.sent) > 0 {
		t.Errorf("sent: %v", api.sent)
	}
}

func TestFullDisk(t *testing.T) {
	t.Parallel()
	s, dir := mountSite(t)
	fill := func() {
		t.Helper()
		f := must[*os.File](t)(os.Create(filepath.Join(dir, "filler")))
		for {
			if _, err := f.Write(make([]byte, 4096)); err != nil {
				break
			}
		}
		_ = f.Close()
	}
	api := &fakeAPI{ca: s.ca, approved: true}
	d := newDevice(t, s, api, nil)

	// No room for the key: nothing is asked for that could be asked for once only.
	fill()
	if err := d.ensure(t.Context()); err == nil {
		t.Error("registered on a full disk")
	}
	if n := len(api.messages(protocol.DirectiveRegistration)); n > 0 {
		t.Errorf("registration sent %d times without a key on the disk", n)
	}
	// Room for the key, not for the certificate: the same key is used again.
	_ = os.Remove(filepath.Join(dir, "filler"))
	if _, err := d.credential.pendingKey(); err != nil {
		t.Fatal(err)
	}
	fill()
	if err := d.ensure(t.Context()); err == nil {
		t.Error("registered on a full disk")
	}
	if got := inPlace(t, s.settings); got != pki.RegisterName {
		t.Errorf("in place: %q", got)
	}
	_ = os.Remove(filepath.Join(dir, "filler"))
	if err := d.ensure(t.Context()); err != nil {
		t.Error(err)
	}
	if got := inPlace(t, s.settings); got != "dev1" {
		t.Errorf("in place: %q", got)
	}
}
