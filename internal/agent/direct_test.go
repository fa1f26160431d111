package agent

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/project-flotta/flotta-agent/internal/pki"
)

// certified returns settings whose credential names somebody.
func certified(t *testing.T, name string) Config {
	t.Helper()
	c := Config{StateDir: t.TempDir()}.withDefaults()
	c.Server.CertFile = filepath.Join(t.TempDir(), "device.pem")
	if name == "" {
		return c
	}
	authority, err := pki.NewAuthority(time.Now())
	must(t, err)
	pair, err := authority.IssueRegister(0, time.Now())
	must(t, err)
	if name != pki.RegisterName {
		key, err := pki.ParseKey(pair.KeyPEM)
		must(t, err)
		text, err := pki.CertificateRequest(key, name)
		must(t, err)
		request, err := pki.ParseRequest(text)
		must(t, err)
		pair.CertPEM, err = authority.IssueDevice(request, pki.DeviceProfile{ID: name, Namespace: "n"}, time.Now())
		must(t, err)
	}
	must(t, os.WriteFile(c.Server.CertFile, append(pair.CertPEM, pair.KeyPEM...), 0o600))
	return c
}

func TestDeviceID(t *testing.T) {
	t.Parallel()
	machine := filepath.Join(t.TempDir(), "machine-id")
	must(t, os.WriteFile(machine, []byte("0123456789abcdef0123456789abcdef\n"), 0o444))
	fresh := filepath.Join(t.TempDir(), "machine-id")
	must(t, os.WriteFile(fresh, []byte("uninitialized\n"), 0o444))
	set := certified(t, "by-certificate")
	set.Server.DeviceID = "by-setting"
	for name, test := range map[string]struct {
		cfg     Config
		machine string
		want    string
	}{
		"settings":             {set, machine, "by-setting"},
		"certificate":          {certified(t, "by-certificate"), machine, "by-certificate"},
		"register certificate": {certified(t, pki.RegisterName), machine, "0123456789abcdef0123456789abcdef"},
		"no certificate":       {certified(t, ""), machine, "0123456789abcdef0123456789abcdef"},
	} {
		if id, err := deviceID(test.cfg, test.machine); err != nil || id != test.want {
			t.Errorf("%s: %q, %v, want %q", name, id, err, test.want)
		}
	}
	// Neither: it is made up, and stays, whatever the machine is called later.
	for _, path := range []string{fresh, filepath.Join(t.TempDir(), "none")} {
		cfg := certified(t, "")
		if id, err := knownDeviceID(cfg, path); id != "" || err != nil {
			t.Errorf("known %q, %v", id, err)
		}
		first, err := deviceID(cfg, path)
		if err != nil || len(first) != 32 || !validDeviceID(first) {
			t.Errorf("made up %q, %v", first, err)
		}
		if again, err := deviceID(cfg, path); err != nil || again != first {
			t.Errorf("then %q, %v, before %q", again, err, first)
		}
		if later, err := deviceID(cfg, machine); err != nil || later != first {
			t.Errorf("with an id of the machine %q, %v, before %q", later, err, first)
		}
		must(t, os.WriteFile(filepath.Join(cfg.StateDir, "device-id"), []byte("../x\n"), 0o600))
		if id, err := deviceID(cfg, path); err == nil || !strings.Contains(err.Error(), "device-id") {
			t.Errorf("a damaged one: %q, %v", id, err)
		}
	}
}

func TestDirectWantsAServer(t *testing.T) {
	t.Parallel()
	err := RunDirect(t.Context(), Config{}.withDefaults(), DirectEnv{}, slog.New(slog.DiscardHandler))
	if !errors.Is(err, ErrNoServer) {
		t.Errorf("err %v", err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
