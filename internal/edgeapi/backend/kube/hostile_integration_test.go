//go:build integration

package kube

import (
	"bytes"
	"encoding/json"
	"io"
	"math"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// Whatever a device reports is stored as far as it can be, bounded, and never
// refused for ever: a device sends again what was not taken.
func TestHostileReport(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	d := r.device("dev1", nil)
	r.patchStatus(d, `{"status":{"workloads":[{"name":"w1"}]}}`)
	r.eventually("workload seen", func() bool { return len(r.backend.devices.find(d).state().object.Status.Workloads) == 1 })
	huge := strings.Repeat("x", 1<<19)
	for name, h := range map[string]protocol.Heartbeat{
		"nothing": {},
		"texts":   {Status: huge, Version: huge, Upgrade: &protocol.UpgradeStatus{CurrentCommitID: huge, LastUpgradeStatus: "\xff\x00", LastUpgradeTime: huge}},
		"workloads": {Status: "up", Workloads: append(make([]protocol.WorkloadStatus, 10_000),
			protocol.WorkloadStatus{Name: "w1", Status: huge}, protocol.WorkloadStatus{Name: huge, Status: "Running"})},
		"details": {Workloads: []protocol.WorkloadStatus{{
			Name: "w1", Reason: huge, Message: "\x00\xff" + huge, DesiredDigest: huge, AppliedDigest: huge, Restarts: math.MinInt64,
			Since:  protocol.Time{Time: time.Date(0, 1, 1, 0, 0, 0, 0, time.UTC)},
			Images: slices.Repeat([]protocol.WorkloadImage{{Container: "\x1b", Reference: huge, ID: huge}}, 10),
			Notes:  slices.Repeat([]string{huge, "\xff", ""}, 20),
		}}},
		"playbooks": {PlaybookExecutions: append(make([]protocol.PlaybookExecutionStatus, 10_000), protocol.PlaybookExecutionStatus{Name: huge, Status: huge})},
		"hardware":  {Hardware: &protocol.HardwareInfo{Hostname: huge, CPU: &protocol.CPU{ModelName: huge, Flags: []string{huge}}}},
		"numbers": {Hardware: &protocol.HardwareInfo{
			CPU: &protocol.CPU{Frequency: -1e300, Count: math.MinInt64}, Memory: &protocol.Memory{PhysicalBytes: math.MinInt64},
			HostDevices: []protocol.HostDevice{{UID: -1, GID: math.MaxInt64, Major: -5}}, Disks: make([]protocol.Disk, 100), Interfaces: make([]protocol.Interface, 100),
		}},
		"control characters": {Status: "\x00\x1b[31m", Hardware: &protocol.HardwareInfo{
			Hostname: "\x00", SystemVendor: &protocol.SystemVendor{Manufacturer: "../../\xff", ProductName: "-_.", SerialNumber: strings.Repeat("é", 100)},
		}},
	} {
		if err := r.backend.Heartbeat(t.Context(), d, h); err != nil {
			t.Errorf("%s: %.300v", name, err)
		}
		if raw, err := json.Marshal(r.get(d).Status); err != nil || len(raw) > maxHardwareBytes {
			t.Errorf("%s: the status has %d bytes, %v", name, len(raw), err)
		}
	}
	r.heartbeat(d, report("v", "w1=Running"))
	if s := r.get(d).Status; len(s.Workloads) != 1 || s.Workloads[0].Phase != "Running" || len(s.PlaybookExec) != 0 {
		t.Errorf("status %+v", s)
	}
}

// Hardware that grows by reports that are small each has a bound as well.
func TestHardwareBound(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	d := r.device("dev1", nil)
	big := strings.Repeat("x", 200<<10)
	for _, h := range []protocol.HardwareInfo{
		{CPU: &protocol.CPU{Architecture: "a"}},
		{Boot: &protocol.Boot{PXEInterface: big}},
		{SystemVendor: &protocol.SystemVendor{SerialNumber: big}},
		{Disks: []protocol.Disk{{Name: "sda", SMART: big}}},
		{Memory: &protocol.Memory{PhysicalBytes: 7}},
	} {
		next := report("")
		next.Hardware = &h
		r.heartbeat(d, next)
	}
	hw := r.get(d).Status.Hardware
	if hw.Boot == nil || hw.SystemVendor == nil || len(hw.Disks) != 0 || hw.CPU == nil || hw.Memory == nil {
		t.Errorf("boot %v, vendor %v, disks %d", hw.Boot != nil, hw.SystemVendor != nil, len(hw.Disks))
	}
}

// What the API server does not take of a report's hardware is left out.
func TestRefusedHardware(t *testing.T) {
	t.Parallel()
	r := bareRig(t)
	r.backend = r.run(through(func(next http.RoundTripper, q *http.Request) (*http.Response, error) {
		if q.Method != http.MethodPut {
			return next.RoundTrip(q)
		}
		body, err := io.ReadAll(q.Body)
		if err != nil {
			return nil, err
		}
		q.Body = io.NopCloser(bytes.NewReader(body))
		if !bytes.Contains(body, []byte("poison")) {
			return next.RoundTrip(q)
		}
		const refusal = `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Invalid","code":422}`
		return &http.Response{
			StatusCode: http.StatusUnprocessableEntity, Header: http.Header{"Content-Type": {"application/json"}},
			Body: io.NopCloser(strings.NewReader(refusal)), Request: q,
		}, nil
	}))
	d := r.device("dev1", nil)
	h := report("v1")
	h.Hardware = &protocol.HardwareInfo{Boot: &protocol.Boot{PXEInterface: "poison"}}
	r.heartbeat(d, h)
	if s := r.get(d).Status; s.LastSyncedResourceVersion != "v1" || s.Hardware != nil {
		t.Errorf("status %+v", s)
	}
}
