//go:build bench

package fleet_test

import (
	"os"
	"strconv"
	"testing"
	"time"
)

// settings are what the environment says. Defaults are those of the published
// figures.
type settings struct {
	backend string // FLEET_BACKEND: crd or file
	http    string // FLEET_HTTP: h2 or http/1.1
	devices int    // FLEET_DEVICES: that work at a time
	workers int    // FLEET_WORKERS: requests under way at a time, when the limit is looked for
	scale   int    // FLEET_SCALE: devices that are known when the memory is measured; 0: not measured
	lasting time.Duration
	profile string // FLEET_PROFILE: folder for profiles of the server
}

func readSettings(t *testing.T) settings {
	t.Helper()
	text := func(name, fallback string) string {
		if v := os.Getenv(name); v != "" {
			return v
		}
		return fallback
	}
	number := func(name string, fallback int) int {
		n, err := strconv.Atoi(text(name, strconv.Itoa(fallback)))
		must(t, err)
		return n
	}
	lasting, err := time.ParseDuration(text("FLEET_DURATION", "5s"))
	must(t, err)
	return settings{
		backend: text("FLEET_BACKEND", "crd"), http: text("FLEET_HTTP", "h2"),
		devices: number("FLEET_DEVICES", 300), workers: number("FLEET_WORKERS", 32), scale: number("FLEET_SCALE", 10_000),
		lasting: lasting, profile: os.Getenv("FLEET_PROFILE"),
	}
}

// TestFleet measures the Edge API under a fleet and ends with all figures in one
// table. The parts build on one another.
func TestFleet(t *testing.T) {
	s := readSettings(t)
	var figures report
	r := newRig(t, s, &figures)
	r.idle(&figures, "nothing")
	r.join(&figures)
	r.loads(&figures)
	r.replicas(&figures)
	r.scale(&figures)
	figures.print(t)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
