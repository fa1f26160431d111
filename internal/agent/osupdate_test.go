package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/project-flotta/flotta-agent/internal/systemd"
)

// stoppable notes what units are told. Those that it has end after the target.
type stoppable struct {
	said   []string
	loaded []systemd.UnitStatus
	err    error
}

func (s *stoppable) Units(_ context.Context, pattern string) ([]systemd.UnitStatus, error) {
	s.said = append(s.said, "list "+pattern)
	return s.loaded, s.err
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
	const target, list = " flotta-workloads.target", "list flotta-workload@*.service"
	want := []string{"start" + target, "stop" + target, list, "stop" + target, list, "start" + target, "start" + target}
	if diff := cmp.Diff(want, units.said); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestStandstillWaits for every workload, for as long as it takes, and for all of
// them when one does not stop.
func TestStandstillWaits(t *testing.T) {
	t.Parallel()
	units := &stoppable{loaded: []systemd.UnitStatus{{Name: "flotta-workload@a.service"}, {Name: "flotta-workload@b.service"}}}
	s := standstill{marker: filepath.Join(t.TempDir(), "@all"), units: &stubborn{units, "flotta-workload@a.service"}}
	if err := s.begin(t.Context()); !errors.Is(err, systemd.ErrJob) {
		t.Errorf("a workload that does not stop: %v", err)
	}
	want := []string{"stop flotta-workloads.target", "list flotta-workload@*.service", "stop flotta-workload@a.service", "stop flotta-workload@b.service"}
	if diff := cmp.Diff(want, units.said); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// stubborn has a unit that does not stop.
type stubborn struct {
	*stoppable
	unit string
}

func (s *stubborn) Stop(ctx context.Context, unit string) error {
	err := s.stoppable.Stop(ctx, unit)
	if unit == s.unit {
		err = &systemd.JobError{Unit: unit, Result: "timeout"}
	}
	return err
}

// TestStandstillAfterABoot does not wait for a service manager that is not there
// yet, because it starts the workloads by itself. In the boot that they were stopped
// in, it is told that they were not started.
func TestStandstillAfterABoot(t *testing.T) {
	t.Parallel()
	units := &stoppable{}
	s := standstill{marker: filepath.Join(t.TempDir(), "@all"), units: units}
	must(t, s.begin(t.Context()))
	units.err = fmt.Errorf("start it: %w", systemd.ErrUnavailable)
	if err := s.end(t.Context()); !errors.Is(err, systemd.ErrUnavailable) {
		t.Errorf("in the same boot: %v", err)
	}
	must(t, s.end(t.Context()))
	units.err = systemd.ErrJob
	if err := s.end(t.Context()); !errors.Is(err, systemd.ErrJob) {
		t.Errorf("of another failure: %v", err)
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
	if diff := cmp.Diff([]string{"stop flotta-workloads.target", "list flotta-workload@*.service"}, units.said); diff != "" {
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
