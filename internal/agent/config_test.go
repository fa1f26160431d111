package agent

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/project-flotta/flotta-agent/internal/datasync"
	"github.com/project-flotta/flotta-agent/internal/desired"
)

func writeSettings(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "agent.toml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestLoadConfigDefaultsWithoutFile(t *testing.T) {
	t.Parallel()
	c, err := LoadConfig(filepath.Join(t.TempDir(), "absent.toml"))
	if err != nil {
		t.Fatal(err)
	}
	if c.StateDir != "/var/local/yggdrasil/device" || c.Runtime.User != "flotta" || c.Runtime.Mode != "user" {
		t.Errorf("defaults = %+v", c)
	}
	if got := time.Duration(c.Sync.Interval); got != 15*time.Second {
		t.Errorf("sync.interval = %v, want 15s", got)
	}
	if got := time.Duration(c.Sync.FinalTimeout); got != time.Minute {
		t.Errorf("sync.final-timeout = %v, want 60s", got)
	}
}

func TestLoadConfigReadsSettings(t *testing.T) {
	t.Parallel()
	c, err := LoadConfig(writeSettings(t, "state-dir = \"/srv/x\"\nlog-level = \"debug\"\n[sync]\ninterval = \"2s\"\n"))
	if err != nil {
		t.Fatal(err)
	}
	if c.StateDir != "/srv/x" || time.Duration(c.Sync.Interval) != 2*time.Second || c.Level().String() != "DEBUG" {
		t.Errorf("settings = %+v", c)
	}
}

func TestLoadConfigNamesWhatIsWrong(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct{ text, want string }{
		"collection upside down": {"[images]\ngc-high = 0.5\ngc-low = 0.6\n", "gc-low"},
		"collection never ends":  {"[images]\ngc-high = 1.5\n", "gc-high"},
		"unknown key":            {"[sync]\nintervall = \"2s\"\n", "intervall"},
		"bad duration":           {"[sync]\ninterval = \"soon\"\n", "soon"},
		"negative duration":      {"[sync]\ninterval = \"-1s\"\n", "above zero"},
		"relative state":         {"state-dir = \"x\"\n", "state-dir"},
		"bad level":              {"log-level = \"loud\"\n", "log-level"},
		"renewal too late":       {"[identity]\nrenew-at = 0.99\n", "renew-at"},
		"renewal never":          {"[identity]\nrenew-at = nan\n", "renew-at"},
		"renewal negative":       {"[identity]\nrenew-at = -0.5\n", "renew-at"},
		"no final timeout":       {"[sync]\nfinal-timeout = \"0s\"\n", "above zero"},
		"bad retention":          {"[volumes]\nretention = \"long\"\n", "long"},
		"negative retention":     {"[volumes]\nretention = \"-1h\"\n", "below zero"},
		"metrics for all":        {"[console]\nmetrics-address = \"0.0.0.0:9180\"\n", "loopback"},
		"metrics nowhere":        {"[console]\nmetrics-address = \"localhost\"\n", "console.metrics-address"},
		"syntax":                 {"state-dir = \n", "line 1"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := LoadConfig(writeSettings(t, tc.text))
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error = %v, want it to name %q", err, tc.want)
			}
		})
	}
}

func TestMetricsAddress(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{"": "", "[console]\nmetrics-address = \"[::1]:9180\"\n": "[::1]:9180"} {
		if c, err := LoadConfig(writeSettings(t, text)); err != nil || c.Console.MetricsAddress != want {
			t.Errorf("%q: %q, %v", text, c.Console.MetricsAddress, err)
		}
	}
}

func TestRetentionMayBeZero(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]time.Duration{
		"": 7 * 24 * time.Hour, "[volumes]\nretention = \"0s\"\n": 0, "[volumes]\nretention = \"36h\"\n": 36 * time.Hour,
	} {
		c, err := LoadConfig(writeSettings(t, text))
		if err != nil || c.Volumes.Retention.Duration() != want {
			t.Errorf("%q: retention %v, %v; want %v", text, c.Volumes.Retention.Duration(), err, want)
		}
	}
}

func FuzzParseConfig(f *testing.F) {
	f.Add([]byte("state-dir = \"/x\"\n[sync]\ninterval = \"2s\"\n"))
	f.Add([]byte("[runtime"))
	f.Add([]byte("[sync]\nreserve = \"10%\"\nquota = \"2GiB\"\nupload-limit = \"1MB/s\"\n[[sync.window]]\nwhen = \"Mon 08:00-09:00\"\npause = true\n"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		var c Config
		if err := parseConfig(raw, &c); err != nil {
			return
		}
		c = c.withDefaults()
		if err := c.Validate(); err != nil {
			return
		}
		// What is taken, the engine takes.
		e := datasync.Config{Desired: noDesire{}, VolumesDir: "/v", IndexPath: "/i"}
		c.Sync.engine(&e)
		if err := e.Validate(); err != nil {
			t.Errorf("%s: %v", raw, err)
		}
	})
}

type noDesire struct{}

func (noDesire) Current() *desired.Snapshot { return nil }
