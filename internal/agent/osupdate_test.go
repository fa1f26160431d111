package agent

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// stoppable notes what units are told.
type stoppable struct {
	said []string
	err  error
}

func (s *stoppable) Start(_ context.Context, unit string) error {
	s.said = append(s.said, "start "+unit)
	return s.err
}

func (s *stoppable) Stop(_ context.Context, unit string) error {
	s.said = append(s.said, "stop "+unit)
	return s.err
}

func TestStandstill(t *testing.T) {
	t.Parallel()
	units := &stoppable{}
	s := standstill{marker: filepath.Join(t.TempDir(), "run", "@all"), units: units}
	must(t, s.end(t.Context())) // nothing was stopped
	must(t, s.begin(t.Context()))
	if _, err := os.Stat(s.marker); err != nil {
		t.Error(err)
	}
	must(t, s.begin(t.Context())) // once more, after a kill
	units.err = errors.New("no answer")
	if err := s.end(t.Context()); err == nil {
		t.Error("the units were not started and nothing is said")
	}
	units.err = nil
	must(t, s.end(t.Context()))
	if _, err := os.Stat(s.marker); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the marker is left: %v", err)
	}
	const target = " flotta-workloads.target"
	want := []string{"start" + target, "stop" + target, "stop" + target, "start" + target, "start" + target}
	if diff := cmp.Diff(want, units.said); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestStandstillOfAnAdministrator neither begins nor ends with an update.
func TestStandstillOfAnAdministrator(t *testing.T) {
	t.Parallel()
	units := &stoppable{}
	s := standstill{marker: filepath.Join(t.TempDir(), "@all"), units: units}
	must(t, os.WriteFile(s.marker, nil, 0o600))
	must(t, s.begin(t.Context()))
	must(t, s.end(t.Context()))
	if raw, err := os.ReadFile(s.marker); err != nil || len(raw) > 0 {
		t.Errorf("the marker: %q, %v", raw, err)
	}
	if diff := cmp.Diff([]string{"stop flotta-workloads.target"}, units.said); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestProxies(t *testing.T) {
	t.Parallel()
	got := proxies([]string{"PATH=/bin", "https_proxy=http://a:1", "NO_PROXY=b", "MY_PROXY=c", "AWS_SECRET=d", "odd"})
	if diff := cmp.Diff([]string{"https_proxy=http://a:1", "NO_PROXY=b"}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestOSSettings(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		`max-reboots = -1`: "os.max-reboots", `max-reboots = "3"`: "os.max-reboots", `reboot-grace = "0s"`: "above zero", `min-free = "much"`: "much",
	} {
		if _, err := LoadConfig(writeSettings(t, "[os]\n"+text+"\n")); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}
