package adapter

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/project-flotta/flotta-agent/internal/durable"
	"github.com/project-flotta/flotta-agent/internal/systemd"
	"github.com/project-flotta/flotta-agent/internal/workload"
	shipped "github.com/project-flotta/flotta-agent/systemd"
)

// withoutManager returns units whose service manager is not there: what talks to
// it fails.
func withoutManager(t *testing.T) *Units {
	t.Helper()
	client, err := systemd.New(systemd.Config{Socket: filepath.Join(t.TempDir(), "none")})
	if err != nil {
		t.Fatal(err)
	}
	units, err := NewUnits(UnitsConfig{Client: client, DropIns: filepath.Join(t.TempDir(), "user")})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(units.dropIns, 0o755); err != nil {
		t.Fatal(err)
	}
	return units
}

func TestNewUnitsRefuses(t *testing.T) {
	t.Parallel()
	client, err := systemd.New(systemd.Config{Socket: "/none"})
	if err != nil {
		t.Fatal(err)
	}
	for _, cfg := range []UnitsConfig{{}, {Client: client}, {Client: client, DropIns: "relative"}, {DropIns: "/x"}} {
		if _, err := NewUnits(cfg); err == nil {
			t.Errorf("NewUnits(%+v) accepted it", cfg)
		}
	}
}

func allSettings() []workload.UnitSettings {
	return []workload.UnitSettings{
		{Completes: true},
		{StopTimeout: time.Nanosecond},
		{StopTimeout: 90 * time.Second},
		{Completes: true, StopTimeout: time.Hour},
		{Mounts: []string{"/a"}},
		{AutoUpdate: true},
		{Devices: []string{"/dev/serial/by-id/usb-FTDI_%C_x", "/dev/ttyUSB0"}},
		{Mounts: []string{"/a"}, Devices: []string{"/dev/ends in ", `/dev/back\slash\`, "/dev/a b"}, Completes: true},
		{AutoUpdate: true, Completes: true, StopTimeout: time.Second},
		{Completes: true, StopTimeout: time.Second, Mounts: []string{"/", "/a b", "/ends in ", `/back\slash\`, "/100%", `/"quoted'`, "/ä", "/#;=[x]"}},
	}
}

func TestDropInSaysWhatItWasMadeFrom(t *testing.T) {
	t.Parallel()
	for _, s := range allSettings() {
		text, err := dropIn(s)
		if err != nil {
			t.Errorf("dropIn(%+v): %v", s, err)
			continue
		}
		if got := settingsOf(text); !got.Equal(s) {
			t.Errorf("settings %+v come back as %+v", s, got)
		}
		for line := range strings.Lines(string(text)) {
			if trimmed := strings.TrimSuffix(line, "\n"); strings.HasSuffix(trimmed, " ") || strings.HasSuffix(trimmed, `\`) {
				t.Errorf("systemd does not take this line as it is: %q", line)
			}
		}
		// Any change by hand is seen.
		for i := range text {
			changed := append([]byte(nil), text...)
			changed[i] ^= 1
			if got := settingsOf(changed); got.Equal(s) || got.Equal(workload.UnitSettings{}) {
				t.Fatalf("with byte %d changed, it stands for %+v", i, got)
			}
		}
		for _, changed := range []string{string(text) + "\n", string(text) + "[Service]\nExecStartPre=/bin/false\n", string(text[:len(text)-1]), "\n"} {
			if got := settingsOf([]byte(changed)); !got.Equal(altered) {
				t.Errorf("a drop-in changed to %q stands for %+v", changed, got)
			}
		}
	}
	if text, err := dropIn(workload.UnitSettings{Mounts: []string{}}); text != nil || err != nil {
		t.Errorf("zero settings give %q, %v", text, err)
	}
}

func TestDropInOfDevices(t *testing.T) {
	t.Parallel()
	text, err := dropIn(workload.UnitSettings{Mounts: []string{"/mnt/x"}, Devices: []string{"/dev/100%", "/dev/lost ", "/dev/tty A"}})
	const want = "\n[Unit]\nConditionPathIsMountPoint=/mnt/x\nConditionPathExists=/dev/100%%\nConditionPathExists=/dev/tty A\n"
	if err != nil || !strings.HasSuffix(string(text), want) {
		t.Errorf("%q, %v, want it to end in %q", text, err, want)
	}
}

func TestDropInRefuses(t *testing.T) {
	t.Parallel()
	for _, s := range []workload.UnitSettings{
		altered,
		{StopTimeout: -time.Second},
		{Mounts: []string{""}},
		{Mounts: []string{"relative"}},
		{Mounts: []string{"!/negated"}},
		{Mounts: []string{"/a\n[Service]\nExecStartPre=/bin/false"}},
		{Mounts: []string{"/a\x00"}},
		{Mounts: []string{"/\xff"}},
		{Mounts: []string{"/fine", "/tab\t"}},
		{Devices: []string{"tty"}},
		{Devices: []string{"/dev/a\n[Service]\nExecStartPre=/bin/false"}},
	} {
		if text, err := dropIn(s); err == nil {
			t.Errorf("dropIn(%+v) = %q", s, text)
		}
	}
}

func TestDropInText(t *testing.T) {
	t.Parallel()
	text, err := dropIn(workload.UnitSettings{Completes: true, StopTimeout: 29500 * time.Millisecond, Mounts: []string{"/mnt/50% of it "}})
	if err != nil {
		t.Fatal(err)
	}
	const want = `# Written by flotta-agent, which undoes what is changed here. What is to differ
# goes into another drop-in, whose name sorts after this one's.
# settings: {"completes":true,"stopTimeout":29500000000,"mounts":["/mnt/50% of it "]}

[Unit]
ConditionPathIsMountPoint=/mnt/50%% of it /

[Service]
TimeoutStopSec=90
TimeoutStartSec=930
ExecReload=
ExecReload=-/usr/bin/podman stop --ignore --time=30 --filter=label=io.project-flotta.workload=%i
ExecReload=/usr/bin/podman play kube --replace --service-container=true /var/local/yggdrasil/device/workloads/%i/manifest.yaml
Restart=no
ExecStop=
ExecStop=-/usr/bin/podman stop --ignore --time=30 --filter=label=io.project-flotta.workload=%i
ExecStop=/usr/bin/podman pod stop --ignore --time=30 %i
ExecStopPost=
ExecStopPost=-/usr/bin/podman pod stop --ignore --time=30 %i
`
	if diff := cmp.Diff(want, string(text)); diff != "" {
		t.Errorf("drop-in (-want +got):\n%s", diff)
	}
}

// TestDropInPlaysWhatTheTemplatePlays: the one repeats a line of the other.
func TestDropInPlaysWhatTheTemplatePlays(t *testing.T) {
	t.Parallel()
	for _, path := range []string{"user/flotta-workload@.service", "system/flotta-workload@.service"} {
		raw, err := shipped.Files.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range []string{"ExecStart=" + playCommand, "ExecReload=" + playCommand, "TimeoutStartSec=900"} {
			if !strings.Contains(string(raw), "\n"+line+"\n") {
				t.Errorf("%s lacks %s", path, line)
			}
		}
	}
}

// TestConfigureFiles is about the files: the manager is not there, so every
// change of them ends in its absence.
func TestConfigureFiles(t *testing.T) {
	t.Parallel()
	u, ctx := withoutManager(t), t.Context()
	configure := func(s workload.UnitSettings) {
		t.Helper()
		if err := u.Configure(ctx, "w", s); !errors.Is(err, systemd.ErrUnavailable) {
			t.Fatalf("Configure(%+v): %v, want ErrUnavailable", s, err)
		}
	}
	is := func(want workload.UnitSettings) {
		t.Helper()
		if got, err := u.settings("w"); err != nil || !got.Equal(want) {
			t.Errorf("settings are %+v, %v, want %+v", got, err, want)
		}
	}
	is(workload.UnitSettings{})
	for _, s := range allSettings() {
		configure(s)
		is(s)
		configure(s) // the manager may not have read it: asked again
	}
	path := u.dropInPath("w")
	folder := filepath.Dir(path)
	for _, one := range []string{path, folder} {
		if info, err := os.Stat(one); err != nil || info.Mode().Perm()&0o044 != 0o044 {
			t.Errorf("%s cannot be read by others: %v, %v", one, info, err)
		}
	}
	if names, err := u.configured(); err != nil || !cmp.Equal(names, []string{"w"}) {
		t.Errorf("configured = %v, %v", names, err)
	}

	// By hand: emptied, made a folder or a link to something large; all are seen
	// and undone.
	s := allSettings()[0]
	for what, spoil := range map[string]func() error{
		"empty":  func() error { return os.WriteFile(path, nil, 0o600) },
		"folder": func() error { return errors.Join(os.Remove(path), os.MkdirAll(path+"/x", 0o755)) },
		"link":   func() error { return errors.Join(os.Remove(path), os.Symlink("/dev/zero", path)) },
	} {
		configure(s)
		if err := spoil(); err != nil {
			t.Fatal(err)
		}
		if got, err := u.settings("w"); err != nil || !got.Equal(altered) {
			t.Errorf("%s: settings are %+v, %v", what, got, err)
		}
		configure(s)
		is(s)
	}

	// Nothing is left but what is not ours.
	if err := os.WriteFile(filepath.Join(folder, durable.TempPrefix+"crash"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	theirs := filepath.Join(folder, "90-theirs.conf")
	if err := os.WriteFile(theirs, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	configure(workload.UnitSettings{})
	is(workload.UnitSettings{})
	if entries, err := os.ReadDir(folder); err != nil || len(entries) != 1 || entries[0].Name() != "90-theirs.conf" {
		t.Errorf("left in the folder: %v, %v", entries, err)
	}
	configure(s)
	if err := os.Remove(theirs); err != nil {
		t.Fatal(err)
	}
	configure(workload.UnitSettings{})
	if _, err := os.Stat(folder); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the empty folder stays: %v", err)
	}
}

func TestConfigureCostsNothingWhenInForce(t *testing.T) {
	t.Parallel()
	u := withoutManager(t)
	s := allSettings()[0]
	_ = u.Configure(t.Context(), "w", s)
	u.setLoaded("w", true)
	u.setLoaded("none", true)
	if err := errors.Join(u.Configure(t.Context(), "w", s), u.Configure(t.Context(), "none", workload.UnitSettings{})); err != nil {
		t.Errorf("the manager was asked: %v", err)
	}
	// A folder of an administrator's, or something that is no workload's.
	for _, name := range []string{"flotta-workload@.service.d", "flotta-workload@x.service.d", "other.service.d"} {
		if err := os.Mkdir(filepath.Join(u.dropIns, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	units := map[string]workload.Unit{"w": {State: workload.UnitActive}}
	if err := u.addSettings(units); err != nil {
		t.Fatal(err)
	}
	if want := map[string]workload.Unit{"w": {State: workload.UnitActive, Settings: s}}; !cmp.Equal(units, want) {
		t.Errorf("units %+v, want %+v", units, want)
	}
}

func FuzzSettingsOf(f *testing.F) {
	for _, s := range allSettings() {
		text, err := dropIn(s)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Add([]byte(settingsLine + "{}\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		s := settingsOf(text)
		if s.Equal(altered) {
			return
		}
		if again, err := dropIn(s); err != nil || string(again) != string(text) {
			t.Errorf("%q stands for %+v, which is written as %q, %v", text, s, again, err)
		}
	})
}
