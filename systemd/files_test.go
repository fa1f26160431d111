package systemd

import (
	"io/fs"
	"testing"
)

func TestEveryFileHasItsPlace(t *testing.T) {
	t.Parallel()
	n := 0
	err := fs.WalkDir(Files, ".", func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		n++
		if InstallPath(path) == "" {
			t.Errorf("%s has no place on a device", path)
		}
		return nil
	})
	if err != nil || n < 6 {
		t.Errorf("%d files, %v", n, err)
	}
	for path, want := range map[string]string{
		"user/flotta.slice":            "/usr/lib/systemd/user/flotta.slice",
		"user-preset/85-x.preset":      "/usr/lib/systemd/user-preset/85-x.preset",
		"tmpfiles.d/flotta-agent.conf": "/usr/lib/tmpfiles.d/flotta-agent.conf",
		"sysusers.d/flotta-agent.conf": "/usr/lib/sysusers.d/flotta-agent.conf",
		"elsewhere/x":                  "",
		"user/":                        "",
	} {
		if got := InstallPath(path); got != want {
			t.Errorf("InstallPath(%q) = %q, want %q", path, got, want)
		}
	}
}
