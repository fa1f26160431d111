//go:build device

package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/project-flotta/flotta-agent/internal/console"
	"github.com/project-flotta/flotta-agent/pkg/api/v1alpha1"
	"github.com/project-flotta/flotta-agent/test/device"
	"github.com/project-flotta/flotta-agent/test/site"
)

// TestStatus is about what can be seen of workloads: at the device by who stands
// there, and on the other end by who does not.
func TestStatus(t *testing.T) {
	t.Parallel()
	r := newRig(t, site.EdgeConfig{})
	r.save("good.yaml", r.workload("good", "args: [sleep]", ""))
	r.running("good", "app")
	r.sub("a device that is as desired", statusGood)
	r.save("bad.yaml", strings.Replace(r.workload("bad", "args: [sleep]\nimagePullPolicy: Never", ""), imageV1, "localhost/none:v1", 1))
	r.sub("a workload that cannot start beside it", statusBad)
	r.remove("bad.yaml")
	r.gone("bad")
	r.sub("as desired again", statusGood)
	r.sub("the socket is for root and the group", statusAccess)
	r.sub("an agent that was killed", statusAfterKill)
}

// status runs the command on the device.
func (r *rig) status(args ...string) device.Result {
	r.Helper()
	result, err := r.edge.Run(r.ctx, append([]string{"flotta-agent", "status"}, args...)...)
	if result.Code < 0 {
		r.Fatal(err)
	}
	return result
}

func (r *rig) document() (d console.Document, err error) {
	r.Helper()
	result := r.status("-o", "json")
	if result.Code == 2 {
		return d, errors.New(result.Stderr)
	}
	return d, json.Unmarshal([]byte(result.Stdout), &d)
}

// healthy waits until the device says so, or not.
func (r *rig) healthy(want bool) (d console.Document) {
	r.Helper()
	r.until(fmt.Sprint("healthy is ", want), func() (err error) {
		if d, err = r.document(); err == nil && d.Healthy != want {
			err = fmt.Errorf("status is %+v", d)
		}
		return err
	})
	return d
}

func statusGood(r *rig) {
	d := r.healthy(true)
	if d.Device.ID != r.edge.ID() || d.Configuration.Version == "" || d.Version == "" || len(d.Workloads) != 1 {
		r.Errorf("status is %+v", d)
	}
	w := d.Workloads[0]
	if w.Name != "good" || w.Phase != "Running" || w.AppliedDigest == "" || w.AppliedDigest != w.DesiredDigest || w.Since.IsZero() {
		r.Errorf("workload is %+v", w)
	}
	result := r.status()
	if result.Code != 0 || result.Stderr != "" || !strings.Contains(result.Stdout, "NAME") || !strings.Contains(result.Stdout, "current") {
		r.Errorf("%+v", result)
	}
	r.known("good", func(e v1alpha1.WorkloadStatus) bool {
		return e.Reason == "" && e.AppliedDigest == w.AppliedDigest && e.DesiredDigest == w.DesiredDigest && e.Since != nil
	})
}

func statusBad(r *rig) {
	r.until("the broken workload has a reason", func() error {
		d, err := r.document()
		if err == nil && (len(d.Workloads) != 2 || d.Workloads[0].Reason != "ImagePullFailed") {
			err = fmt.Errorf("status is %+v", d)
		}
		return err
	})
	result := r.status()
	if result.Code != 1 || result.Stderr != "" {
		r.Errorf("%+v", result)
	}
	for _, want := range []string{"good", "Running", "bad", "localhost/none:v1", "1 of 2 workloads"} {
		if !strings.Contains(result.Stdout, want) {
			r.Errorf("no %q in\n%s", want, result.Stdout)
		}
	}
	r.known("bad", func(e v1alpha1.WorkloadStatus) bool {
		return e.Reason == "ImagePullFailed" && strings.Contains(e.Message, "localhost/none:v1") && e.DesiredDigest != "" && e.AppliedDigest == ""
	})
}

// known waits until the Edge API knows that of a workload.
func (r *rig) known(workload string, says func(v1alpha1.WorkloadStatus) bool) {
	r.Helper()
	r.until("workload "+workload+" is reported", func() error {
		d, err := r.site.Device(r.edge.ID())
		if err != nil {
			return err
		}
		i := slices.IndexFunc(d.Status.Workloads, func(e v1alpha1.WorkloadStatus) bool { return e.Name == workload })
		if i < 0 || !says(d.Status.Workloads[i]) {
			return fmt.Errorf("workloads are %+v", d.Status.Workloads)
		}
		return nil
	})
}

func statusAccess(r *rig) {
	result, err := r.edge.RunAs(r.ctx, device.User, "flotta-agent", "status")
	must(r.T, err)
	if !strings.Contains(result.Stdout, "good") {
		r.Errorf("the group is told\n%s", result.Stdout)
	}
	result, err = r.edge.Run(r.ctx, "setpriv", "--reuid=nobody", "--clear-groups", "--regid=nogroup", "flotta-agent", "status")
	if err == nil || result.Code != 2 || !strings.Contains(result.Stderr, "as root") {
		r.Errorf("others are told: %+v, %v", result, err)
	}
}

func statusAfterKill(r *rig) {
	before := r.healthy(true)
	must(r.T, r.edge.Kill(r.ctx, "KILL", "^/usr/bin/flotta-agent"))
	r.until("another agent answers in its place", func() error {
		d, err := r.document()
		if err == nil && !d.Started.After(before.Started) {
			err = fmt.Errorf("it was started at %s, the one before at %s", d.Started, before.Started)
		}
		return err
	})
	_, err := r.edge.Run(r.ctx, "systemctl", "stop", r.edge.Service())
	must(r.T, err)
	if result := r.status(); result.Code != 2 || !strings.Contains(result.Stderr, "journalctl -u yggd") {
		r.Errorf("nobody answers, and it says %+v", result)
	}
	_, err = r.edge.Run(r.ctx, "systemctl", "start", r.edge.Service())
	must(r.T, err)
	r.healthy(true)
}

// TestKubeRollout: the counts of a workload follow what its device has applied.
func TestKubeRollout(t *testing.T) {
	t.Parallel()
	r := newKubeRig(t, site.EdgeConfig{})
	counts := func(want string) {
		r.Helper()
		r.says(want, "get", "edgeworkload", "rolled", "-o", `jsonpath={.status.observedGeneration} {.status.updated} {.status.failed}`)
	}
	r.save("w.yaml", r.workload("rolled", "args: [sleep]", ""))
	r.running("rolled", "app")
	counts("1 1")
	// One that ends at once is rolled back: it runs, and is not the new one.
	r.save("w.yaml", r.workload("rolled", "args: [exit, '3']", ""))
	r.until("the update has failed", func() error {
		counts := r.kubectl("get", "edgeworkload", "rolled", "-o", `jsonpath={.status.observedGeneration},{.status.updated},{.status.failed}`)
		if counts != "2,,1" {
			return fmt.Errorf("counts are %s", counts)
		}
		return nil
	})
	r.save("w.yaml", r.workload("rolled", "args: [sleep]\nenv: [{name: ROUND, value: three}]", ""))
	counts("3 1")
	r.remove("w.yaml")
	r.gone("rolled")
}
