package agent

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
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
	if c.StateDir != "/var/local/yggdrasil/device" || c.Runtime.User != "flotta" {
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
		"unknown key":       {"[sync]\nintervall = \"2s\"\n", "intervall"},
		"bad duration":      {"[sync]\ninterval = \"soon\"\n", "soon"},
		"negative duration": {"[sync]\ninterval = \"-1s\"\n", "above zero"},
		"relative state":    {"state-dir = \"x\"\n", "state-dir"},
		"bad level":         {"log-level = \"loud\"\n", "log-level"},
		"renewal too late":  {"[identity]\nrenew-at = 0.99\n", "renew-at"},
		"renewal never":     {"[identity]\nrenew-at = nan\n", "renew-at"},
		"renewal negative":  {"[identity]\nrenew-at = -0.5\n", "renew-at"},
		"no final timeout":  {"[sync]\nfinal-timeout = \"0s\"\n", "above zero"},
		"syntax":            {"state-dir = \n", "line 1"},
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

func FuzzParseConfig(f *testing.F) {
	f.Add([]byte("state-dir = \"/x\"\n[sync]\ninterval = \"2s\"\n"))
	f.Add([]byte("[runtime"))
	f.Fuzz(func(_ *testing.T, raw []byte) {
		c, err := parseConfig(raw)
		if err == nil {
			_ = c.withDefaults().Validate()
		}
	})
}
