package workload

import (
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/project-flotta/flotta-agent/internal/workload/manifest"
)

func TestDecide(t *testing.T) {
	t.Parallel()
	plan := manifest.Plan{Digest: "new"}
	proven := onDisk{exists: true, manifest: "sum", record: record{Digest: "new", ManifestSum: "sum", RestartPolicy: "Always"}}
	job := proven
	job.record.RestartPolicy = "Never"
	older := onDisk{exists: true, manifest: "oldsum", record: record{Digest: "old", ManifestSum: "oldsum", RestartPolicy: "Always"}}
	swapped := onDisk{exists: true, manifest: "sum", previous: "oldsum", record: older.record}
	unproven := onDisk{exists: true, manifest: "sum"}
	active, inactive, busy := Unit{Enabled: true, State: UnitActive}, Unit{Enabled: true, State: UnitInactive}, Unit{Enabled: true, State: "activating"}
	down := Unit{Enabled: true, State: UnitFailed}
	waits := Unit{Enabled: true, State: "activating", Waiting: true}
	none := Unit{State: UnitInactive}
	running, old := &Pod{Digest: "new"}, &Pod{Digest: "old"}
	for name, test := range map[string]struct {
		seen    seen
		blocked bool
		want    action
	}{
		"nothing there":                       {seen{unit: none}, false, actApply},
		"nothing there, blocked":              {seen{unit: none}, true, actNothing},
		"as desired":                          {seen{proven, active, running}, false, actNothing},
		"as desired, blocked":                 {seen{proven, active, running}, true, actNothing},
		"not enabled":                         {seen{proven, Unit{State: UnitActive}, running}, false, actStart},
		"stopped":                             {seen{proven, inactive, nil}, false, actStart},
		"failed":                              {seen{proven, down, nil}, false, actStart},
		"systemd at work":                     {seen{proven, busy, nil}, false, actNothing},
		"systemd pauses":                      {seen{proven, waits, nil}, false, actNothing},
		"active without its pod":              {seen{proven, active, nil}, false, actRestart},
		"another pod":                         {seen{proven, active, old}, false, actRestart},
		"ran to its end":                      {seen{job, inactive, nil}, false, actNothing},
		"job that failed":                     {seen{job, down, nil}, false, actStart},
		"older version":                       {seen{older, active, old}, false, actApply},
		"older version, blocked":              {seen{older, active, old}, true, actNothing},
		"older version stopped, blocked":      {seen{older, inactive, nil}, true, actStart},
		"crash after swap":                    {seen{swapped, active, old}, false, actApply},
		"crash after swap, blocked":           {seen{swapped, active, old}, true, actRestore},
		"crash after restart":                 {seen{swapped, active, running}, false, actProve},
		"crash of a first start":              {seen{unproven, active, running}, false, actProve},
		"crash before enabling":               {seen{unproven, none, nil}, false, actApply},
		"unproven and never ran, blocked":     {seen{unproven, waits, nil}, true, actRemove},
		"unproven and about to run, blocked":  {seen{unproven, busy, nil}, true, actNothing},
		"unproven and its pod runs, blocked":  {seen{unproven, active, running}, true, actNothing},
		"record without a manifest":           {seen{onDisk{exists: true, record: proven.record}, active, running}, false, actApply},
		"record without a manifest, blocked":  {seen{onDisk{exists: true, record: proven.record}, active, running}, true, actNothing},
		"restart in between of older and new": {seen{swapped, busy, nil}, false, actApply},
	} {
		if got := decide(plan, "sum", test.seen, test.blocked); got != test.want {
			t.Errorf("%s: %q, want %q", name, got, test.want)
		}
	}
}

func TestLeftover(t *testing.T) {
	t.Parallel()
	none := Unit{State: UnitInactive}
	for name, test := range map[string]struct {
		seen seen
		want action
	}{
		"nothing":  {seen{unit: none}, actNothing},
		"a folder": {seen{disk: onDisk{exists: true}, unit: none}, actRemove},
		"a pod":    {seen{unit: none, pod: &Pod{}}, actRemove},
		"enabled":  {seen{unit: Unit{Enabled: true, State: UnitInactive}}, actRemove},
		"failed":   {seen{unit: Unit{State: UnitFailed}}, actRemove},
	} {
		if got := leftover(test.seen); got != test.want {
			t.Errorf("%s: %q, want %q", name, got, test.want)
		}
	}
}

func TestRetryPause(t *testing.T) {
	t.Parallel()
	var r retry
	want := []time.Duration{5, 10, 20, 40, 80, 160, 300, 300}
	for i, seconds := range want {
		base := seconds * time.Second
		got := r.fail("a", failure{}, 5*time.Second, 5*time.Minute)
		if got < base*8/10 || got > base*12/10 {
			t.Errorf("pause %d is %s, want about %s", i+1, got, base)
		}
	}
	for range 100 {
		r.fail("a", failure{}, 5*time.Second, 5*time.Minute)
	}
	if got := r.fail("a", failure{}, 5*time.Second, 5*time.Minute); got < 4*time.Minute {
		t.Errorf("pause 109 is %s", got)
	}
	if got := r.fail("b", failure{}, 5*time.Second, 5*time.Minute); got > 6*time.Second || r.failures != 1 {
		t.Errorf("another digest: pause %s after %d failures", got, r.failures)
	}
}

func TestFailureText(t *testing.T) {
	t.Parallel()
	f := failure{err: &failure{err: errSuperseded}, output: []string{strings.Repeat("ä", 5000), "the last line"}}
	text := f.text()
	if len(text) > maxMessage || !strings.HasSuffix(text, "the last line") || !utf8.ValidString(text) {
		t.Errorf("%d bytes: %s", len(text), text)
	}
	f = failure{err: failed("x", &failure{err: errSuperseded}), output: nil}
	if f.text() != "superseded" {
		t.Errorf("text %q", f.text())
	}
	if got := bounded(strings.Repeat("ä", 5000) + "\xff"); len(got) > maxMessage || !utf8.ValidString(got) {
		t.Errorf("%d bytes", len(got))
	}
}
