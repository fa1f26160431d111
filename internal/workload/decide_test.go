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
	job.record.RestartPolicy, job.record.Containers = "Never", []string{"main"}
	mustSucceed := job
	mustSucceed.record.RestartPolicy = "OnFailure"
	done := job
	done.record.Completed = true
	ran := func(status string, code int32) *Pod {
		return &Pod{Workload: "a", Digest: "new", Containers: []Container{{Name: "a-main", Status: status, ExitCode: code}}}
	}
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
		"as desired":                          {seen{disk: proven, unit: active, pod: running}, false, actNothing},
		"as desired, blocked":                 {seen{disk: proven, unit: active, pod: running}, true, actNothing},
		"not enabled":                         {seen{disk: proven, unit: Unit{State: UnitActive}, pod: running}, false, actStart},
		"stopped":                             {seen{disk: proven, unit: inactive}, false, actStart},
		"failed":                              {seen{disk: proven, unit: down}, false, actStart},
		"systemd at work":                     {seen{disk: proven, unit: busy}, false, actNothing},
		"systemd pauses":                      {seen{disk: proven, unit: waits}, false, actNothing},
		"active without its pod":              {seen{disk: proven, unit: active}, false, actRestart},
		"another pod":                         {seen{disk: proven, unit: active, pod: old}, false, actRestart},
		"job stopped":                         {seen{disk: job, unit: inactive}, false, actStart},
		"job runs":                            {seen{disk: job, unit: active, pod: ran("running", 0)}, false, actNothing},
		"job ran to its end":                  {seen{disk: job, unit: inactive, pod: ran("exited", 0)}, false, actFinish},
		"job failed and may":                  {seen{disk: job, unit: inactive, pod: ran("exited", 1)}, false, actFinish},
		"job failed and may not":              {seen{disk: mustSucceed, unit: inactive, pod: ran("exited", 1)}, false, actStart},
		"job succeeded after all":             {seen{disk: mustSucceed, unit: down, pod: ran("exited", 0)}, false, actFinish},
		"job is done but enabled":             {seen{disk: done, unit: inactive}, false, actFinish},
		"job is done":                         {seen{disk: done, unit: none}, false, actNothing},
		"job is done and blocked":             {seen{disk: done, unit: none}, true, actNothing},
		"job is done and run by hand":         {seen{disk: done, unit: Unit{State: UnitActive}, pod: ran("running", 0)}, false, actNothing},
		"settings changed by hand":            {seen{disk: proven, unit: Unit{Enabled: true, State: UnitActive, Settings: UnitSettings{Completes: true}}, pod: running}, false, actStart},
		"older version":                       {seen{disk: older, unit: active, pod: old}, false, actApply},
		"older version, blocked":              {seen{disk: older, unit: active, pod: old}, true, actNothing},
		"older version stopped, blocked":      {seen{disk: older, unit: inactive}, true, actStart},
		"crash after swap":                    {seen{disk: swapped, unit: active, pod: old}, false, actApply},
		"crash after swap, blocked":           {seen{disk: swapped, unit: active, pod: old}, true, actRestore},
		"crash after restart":                 {seen{disk: swapped, unit: active, pod: running}, false, actProve},
		"crash of a first start":              {seen{disk: unproven, unit: active, pod: running}, false, actProve},
		"crash before enabling":               {seen{disk: unproven, unit: none}, false, actApply},
		"unproven and never ran, blocked":     {seen{disk: unproven, unit: waits}, true, actRemove},
		"unproven and about to run, blocked":  {seen{disk: unproven, unit: busy}, true, actNothing},
		"unproven and its pod runs, blocked":  {seen{disk: unproven, unit: active, pod: running}, true, actNothing},
		"record without a manifest":           {seen{disk: onDisk{exists: true, record: proven.record}, unit: active, pod: running}, false, actApply},
		"record without a manifest, blocked":  {seen{disk: onDisk{exists: true, record: proven.record}, unit: active, pod: running}, true, actNothing},
		"restart in between of older and new": {seen{disk: swapped, unit: busy}, false, actApply},
	} {
		target := target{kind: wanted, plan: plan, sum: "sum", blocked: test.blocked}
		if got := target.decide(test.seen); got != test.want {
			t.Errorf("%s: %q, want %q", name, got, test.want)
		}
	}
}

// TestDecideWhatIsLacking: what a start needs is put back whatever runs, but not
// where nothing is to be started.
func TestDecideWhatIsLacking(t *testing.T) {
	t.Parallel()
	proven := onDisk{exists: true, manifest: "sum", record: record{Digest: "new", ManifestSum: "sum", RestartPolicy: "Always"}}
	done := proven
	done.record.Completed = true
	older := onDisk{exists: true, manifest: "oldsum", record: record{Digest: "old", ManifestSum: "oldsum"}}
	running := &Pod{Digest: "new"}
	for name, test := range map[string]struct {
		seen seen
		want action
	}{
		"it runs":         {seen{disk: proven, unit: Unit{Enabled: true, State: UnitActive}, pod: running}, actStart},
		"systemd pauses":  {seen{disk: proven, unit: Unit{Enabled: true, State: "activating", Waiting: true}}, actStart},
		"systemd at work": {seen{disk: proven, unit: Unit{Enabled: true, State: "activating"}}, actStart},
		"another pod":     {seen{disk: proven, unit: Unit{Enabled: true, State: UnitActive}}, actRestart},
		"it is done":      {seen{disk: done, unit: Unit{State: UnitInactive}}, actNothing},
		"an older one":    {seen{disk: older, unit: Unit{Enabled: true, State: UnitActive}}, actApply},
	} {
		target := target{kind: wanted, plan: manifest.Plan{Digest: "new"}, sum: "sum", lacking: "secret s"}
		if got := target.decide(test.seen); got != test.want {
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
		"settings": {seen{unit: Unit{State: UnitInactive, Settings: UnitSettings{Completes: true}}}, actRemove},
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
