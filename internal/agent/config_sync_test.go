package agent

import (
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/project-flotta/flotta-agent/internal/datasync"
)

// engineSettings returns what the settings make of the engine.
func engineSettings(t *testing.T, text string) datasync.Config {
	t.Helper()
	c, err := LoadConfig(writeSettings(t, text))
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	var e datasync.Config
	c.Sync.engine(&e)
	return e
}

func window(t *testing.T, text string) datasync.Period {
	t.Helper()
	p, err := datasync.ParseWindow(text)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestSyncSettings(t *testing.T) {
	t.Parallel()
	defaults := datasync.Config{Interval: 15 * time.Second, Walk: 15 * time.Minute, Audit: 24 * time.Hour, Transfers: 8}
	opts := cmp.Options{cmpopts.EquateComparable(datasync.Period{}), cmpopts.EquateEmpty(), cmpopts.IgnoreUnexported(datasync.Config{})}
	if diff := cmp.Diff(defaults, engineSettings(t, ""), opts); diff != "" {
		t.Errorf("defaults (-want +got):\n%s", diff)
	}
	got := engineSettings(t, `
[sync]
interval = "5s"
walk = "1h"
audit = "0s"
reserve = "12.5%"
quota = "1.5GiB"
transfers = 2
upload-limit = "512KiB/s"
download-limit = "8Mbit/s"
[[sync.window]]
when = "Mon-Fri 08:00-18:00"
upload = "4 KiB/s"
download = "unlimited"
[[sync.window]]
when = "22:00-06:00"
pause = true
`)
	want := datasync.Config{
		Interval: 5 * time.Second, Walk: time.Hour, Audit: -1, ReserveShare: 0.125, Quota: 3 << 29, Transfers: 2,
		Rates: datasync.Timetable{
			Otherwise: datasync.Rate{Upload: 512 << 10, Download: 1e6},
			Windows: []datasync.Window{
				{When: window(t, "Mon-Fri 08:00-18:00"), Rate: datasync.Rate{Upload: 4 << 10, Download: datasync.Unlimited}},
				{When: window(t, "22:00-06:00"), Pause: true},
			},
		},
	}
	if diff := cmp.Diff(want, got, opts); diff != "" {
		t.Errorf("settings (-want +got):\n%s", diff)
	}
	for text, want := range map[string]datasync.Config{
		"reserve = \"0\"":     {ReserveBytes: -1},
		"reserve = \"0%\"":    {ReserveBytes: -1},
		"reserve = \"2 GB\"":  {ReserveBytes: 2e9},
		"reserve = \"99%\"":   {ReserveShare: 0.99},
		"reserve = \"512b\"":  {ReserveBytes: 512},
		"quota = \"0\"":       {},
		"quota = \"500 kib\"": {Quota: 500 << 10},
	} {
		got := engineSettings(t, "[sync]\n"+text)
		if got.ReserveBytes != want.ReserveBytes || got.ReserveShare != want.ReserveShare || got.Quota != want.Quota {
			t.Errorf("%s: %d bytes, share %v, quota %d", text, got.ReserveBytes, got.ReserveShare, got.Quota)
		}
	}
}

func TestStopTimeout(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]time.Duration{"": 10 * time.Second, "[sync]\nstop-timeout = \"0s\"": 0, "[sync]\nstop-timeout = \"30s\"": 30 * time.Second} {
		if c, err := LoadConfig(writeSettings(t, text)); err != nil || c.Sync.StopTimeout.Duration() != want {
			t.Errorf("%q: %v, %v", text, c.Sync.StopTimeout.Duration(), err)
		}
	}
}

// Each message names the file, the key and the value, and shows a good one.
func TestBadSyncSettings(t *testing.T) {
	t.Parallel()
	for text, want := range map[string][]string{
		`walk = "soon"`:           {"walk", "soon", "15s"},
		`walk = "0s"`:             {"walk", "0s", "above zero"},
		`walk = 15`:               {"walk", "15s"},
		`audit = "-1h"`:           {"audit", "-1h", "below zero"},
		`audit = 24`:              {"audit", "15s"},
		`reserve = "100%"`:        {"reserve", "100%", "10%"},
		`reserve = "-1GiB"`:       {"reserve", "-1GiB", "1GiB"},
		`reserve = "nan%"`:        {"reserve", "nan%", "10%"},
		`quota = "5 apples"`:      {"quota", "5 apples", "2GiB"},
		`quota = "5"`:             {"quota", "5", "2GiB"},
		`quota = 5`:               {"quota", "5", "2GiB"},
		`quota = "9999999TiB"`:    {"quota", "9999999TiB", "2GiB"},
		`transfers = 0`:           {"transfers", "0", "from 1 to 64"},
		`transfers = 65`:          {"transfers", "65", "from 1 to 64"},
		`transfers = -1`:          {"transfers", "-1", "from 1 to 64"},
		`transfers = "many"`:      {"transfers"},
		`upload-limit = "5"`:      {"upload-limit", "5", "512KiB/s"},
		`upload-limit = 5`:        {"upload-limit", "5", "512KiB/s"},
		`download-limit = "1B/s"`: {"download-limit", "1B/s", "512KiB/s"},
		`stop-timeout = "31s"`:    {"stop-timeout", "31s", "at most 30s"},
		`stop-timeout = "x"`:      {"stop-timeout", "x", "36h"},
		`transfer = 5`:            {"transfer", "unknown"},
		"[[sync.window]]":         {"window", "1", "when", "Mon-Fri"},
		"[[sync.window]]\nwhen=\"Someday\"\npause=true":               {"when", "Someday", "Mon-Fri 08:00-18:00"},
		"[[sync.window]]\nwhen=\"Mon\"":                               {"window", "Mon", "pause = true"},
		"[[sync.window]]\nwhen=\"Mon\"\npause=true\nupload=\"1MB/s\"": {"window", "Mon", "one of the two"},
		"[[sync.window]]\nwhen=\"Mon\"\nupload=\"fast\"":              {"upload", "fast", "512KiB/s"},
		"[[sync.window]]\nwhen=\"Mon\"\nspeed=\"1MB/s\"":              {"speed", "unknown"},
	} {
		_, err := LoadConfig(writeSettings(t, "[sync]\n"+text+"\n"))
		if err == nil {
			t.Errorf("%s is taken", text)
			continue
		}
		for _, part := range append(want, "agent.toml") {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%s: %q does not say %q", text, err, part)
			}
		}
	}
}

// The shipped file shows settings that are taken, and most of them are the
// defaults.
func TestShippedSettings(t *testing.T) {
	t.Parallel()
	raw, err := os.ReadFile("../../config/agent.toml")
	if err != nil {
		t.Fatal(err)
	}
	shown := regexp.MustCompile(`(?m)^#(\[\[?[a-z.]+\]\]?|[a-z-]+ = .*)$`).ReplaceAllString(string(raw), "$1")
	path := writeSettings(t, shown)
	got, err := LoadConfig(path)
	if err != nil {
		t.Fatalf("%v in\n%s", err, shown)
	}
	defaults, err := LoadConfig(writeSettings(t, string(raw)))
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Sync.Windows) != 2 {
		t.Errorf("%d windows are shown", len(got.Sync.Windows))
	}
	if got.Server.Address == "" {
		t.Error("no address of a server is shown")
	}
	// These show how to write what by default is nothing.
	got.Sync.Windows, got.Sync.Reserve = nil, Reserve{}
	got.Server.Address, got.Server.CAFiles = "", nil
	got.Sync.UploadLimit, got.Sync.DownloadLimit = 0, 0
	got.Identity.RenewAt = 0
	defaults.Identity.RenewAt = 0
	opts := cmp.Options{cmpopts.EquateComparable(Span{}, Reserve{}, Period{})}
	if diff := cmp.Diff(defaults, got, opts); diff != "" {
		t.Errorf("what is shown is not what holds (-holds +shown):\n%s", diff)
	}
}

func TestParseSize(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"", " ", "B", "x", "-5B", "+5B", "1e9B", "5", "5 XB", "1.2.3GB", "0x5B", "infB", "5GiB/s"} {
		if n, err := parseSize(text); err == nil {
			t.Errorf("%q is %d", text, n)
		}
	}
}
