//go:build device

package e2e

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/project-flotta/flotta-agent/internal/doctor"
	"github.com/project-flotta/flotta-agent/test/site"
)

// TestDoctor has a device examined and packed, while all is well with it and when
// its agent does not run.
func TestDoctor(t *testing.T) {
	t.Parallel()
	const canary = "e2e-cAnary-5d1f"
	r := newRig(t, site.EdgeConfig{})
	r.save("good.yaml", r.workload("good", "args: [sleep]\nenv: [{name: DB_PASSWORD, value: "+canary+"}]", ""))
	r.running("good", "app")
	r.healthy(true)
	r.sub("all is well", func(r *rig) {
		for _, f := range r.examine().Findings {
			if f.Level == doctor.Fail && f.Check != "cgroups" { // the host of the test may have version 1
				r.Errorf("%+v", f)
			}
		}
	})
	r.sub("its bundle has no secret", func(r *rig) { r.bundle(canary, `"phase": "Running"`) })
	r.sub("the agent does not run", func(r *rig) {
		must(r.T, r.edge.Kill(r.ctx, "KILL", "^/usr/bin/flotta-agent")) // or yggd would wait for it
		if result, err := r.edge.Run(r.ctx, "systemctl", "stop", r.edge.Service()); err != nil {
			r.Fatalf("%v: %+v", err, result)
		}
		if result := r.status(); result.Code != 2 || !strings.Contains(result.Stderr, "does not run") {
			r.Errorf("status: %+v", result)
		}
		found := false
		for _, f := range r.examine().Findings {
			found = found || f.Check == "service" && f.Level == doctor.Fail && strings.Contains(f.Advice, "systemctl")
			if f.Check == "endpoint" && f.Level == doctor.Fail {
				r.Errorf("%+v", f)
			}
		}
		if !found {
			r.Error("the doctor does not miss the service")
		}
		r.bundle(canary, "the agent does not run")
	})
}

// examine has the doctor look at the device.
func (r *rig) examine() (report doctor.Report) {
	r.Helper()
	result, err := r.edge.Run(r.ctx, "flotta-agent", "doctor", "-o", "json")
	if result.Code < 0 || result.Code > 1 {
		r.Fatalf("doctor: %v: %+v", err, result)
	}
	if err := json.Unmarshal([]byte(result.Stdout), &report); err != nil {
		r.Fatalf("doctor: %v: %s", err, result.Stdout)
	}
	if (report.Level == doctor.Fail) != (result.Code == 1) || len(report.Findings) < 15 {
		r.Errorf("doctor ends with %d: %+v", result.Code, report)
	}
	return report
}

// bundle looks for a secret of the workload in a support bundle, and for what
// should be there.
func (r *rig) bundle(canary string, want ...string) {
	r.Helper()
	result, err := r.edge.Run(r.ctx, "sh", "-c", "grep -c "+canary+" /var/local/yggdrasil/device/desired.json && flotta-agent support-bundle -o - | tar xzO")
	if err != nil {
		r.Fatalf("bundle: %v: %s", err, result.Stderr)
	}
	if strings.Contains(result.Stdout, canary) || strings.Contains(result.Stdout, "BEGIN PRIVATE KEY-----\n") {
		r.Error("a secret is in the bundle")
	}
	for _, text := range append(want, "DB_PASSWORD", r.edge.ID(), "flotta-test:v1", r.edge.Service()) {
		if !strings.Contains(result.Stdout, text) {
			r.Errorf("%q is not in the bundle", text)
		}
	}
}
