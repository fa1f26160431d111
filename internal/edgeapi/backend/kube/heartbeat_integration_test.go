//go:build integration

package kube

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/project-flotta/flotta-agent/internal/edgeapi"
	"github.com/project-flotta/flotta-agent/pkg/api/v1alpha1"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

func report(version string, workloads ...string) protocol.Heartbeat {
	h := protocol.Heartbeat{Status: protocol.StatusUp, Version: version}
	for _, w := range workloads {
		name, status, _ := strings.Cut(w, "=")
		h.Workloads = append(h.Workloads, protocol.WorkloadStatus{Name: name, Status: status})
	}
	return h
}

// What a device reports is in its status, and what the operator owns is as the
// operator left it.
func TestHeartbeat(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	d := r.device("dev1", nil)
	r.patchStatus(d, `{"status":{"dataObc":"x","workloads":[{"name":"w1","phase":"Deploying"}],"conditions":[{"type":"Online","status":"True","reason":"Seen","message":"","lastTransitionTime":"2026-01-01T00:00:00Z"}]}}`)
	version, _ := r.configuration(d)
	r.heartbeat(d, report(version.Version, "w1=Running", "unknown=Running"))
	s := r.get(d)
	if s.Status.Phase != "up" || s.Status.LastSeenTime == nil || s.Status.LastSyncedResourceVersion != version.Version {
		t.Errorf("status %+v", s.Status)
	}
	if len(s.Status.Workloads) != 1 || s.Status.Workloads[0].Phase != "Running" || s.Status.Workloads[0].LastTransitionTime == nil {
		t.Errorf("workloads %+v", s.Status.Workloads)
	}
	if s.Status.DataOBC != "x" || condition(s, "Online").Status != "True" || condition(s, v1alpha1.ConditionConfigurationApplied).Status != "True" {
		t.Errorf("status %+v", s.Status)
	}
	if err := r.backend.Heartbeat(t.Context(), r.name("unknown"), report("")); !errors.Is(err, edgeapi.ErrNotFound) {
		t.Errorf("heartbeat of an unknown device: %v", err)
	}
}

// Defect 7.2.3: the same report again is no write, whatever the order of its
// workloads; and so it is on another replica.
func TestDefect723SameReportIsNoWrite(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	other := r.run()
	d := r.device("dev1", nil, other)
	r.patchStatus(d, `{"status":{"workloads":[{"name":"w1"},{"name":"w2"},{"name":"w3"},{"name":"w4"},{"name":"w5"},{"name":"w6"}]}}`)
	names := []string{"w1=Running", "w2=Running", "w3=Running", "w4=Running", "w5=Running", "w6=Running"}
	version, _ := r.configuration(d)
	r.heartbeat(d, report(version.Version, names...))
	before := r.get(d).ResourceVersion
	r.eventually("other replica is up to date", func() bool {
		return other.devices.find(d).state().object.ResourceVersion == before
	})
	for i := range 20 {
		names = append(names[1:], names[0])
		h := report(version.Version, names...)
		if i >= 10 {
			h = report(version.Version, names[:6]...)
		}
		for _, b := range []*Backend{r.backend, other} {
			if err := b.Heartbeat(t.Context(), d, h); err != nil {
				t.Fatal(err)
			}
		}
	}
	if after := r.get(d).ResourceVersion; after != before {
		t.Errorf("version %s became %s by the same reports", before, after)
	}
}

// What a device says of its workloads beyond flotta v0.2 is in their status;
// counts and progress are no write of their own.
func TestWorkloadDetails(t *testing.T) {
	t.Parallel()
	r := bareRig(t)
	r.backend = r.run()
	r.apply(strings.Replace(twoKeys, "deviceSelector: {matchLabels: {app: web}}", "device: dev1", 1))
	d := r.device("dev1", nil)
	r.patchStatus(d, `{"status":{"workloads":[{"name":"web"}]}}`)
	r.until(d, "workload", func(m protocol.DeviceConfigurationMessage) bool { return len(m.Secrets) == 1 })
	version, _ := r.configuration(d)
	h := report(version.Version, "web=Deploying")
	w := &h.Workloads[0]
	w.Reason, w.Message, w.DesiredDigest = protocol.ReasonPulling, "pulling", "d1"
	w.Since = protocol.NewTime(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC))
	w.Images = []protocol.WorkloadImage{{Container: "app", Reference: "img:1", ID: "sha256:1"}}
	w.Notes = []string{"a note"}
	r.heartbeat(d, h)
	first := r.get(d)
	got := first.Status.Workloads[0]
	if got.Reason != "Pulling" || got.Message != "pulling" || got.DesiredDigest != "d1" || got.AppliedDigest != "" || got.Since == nil ||
		len(got.Images) != 1 || len(got.Notes) != 1 || got.ObservedGeneration != 1 {
		t.Errorf("status %+v", got)
	}
	for i := range 50 {
		w.Message, w.Restarts = fmt.Sprint("pulled ", i), int64(i)
		r.heartbeat(d, h)
	}
	if after := r.get(d); after.ResourceVersion != first.ResourceVersion {
		t.Errorf("version %s became %s by progress", first.ResourceVersion, after.ResourceVersion)
	}
	w.Status, w.Reason, w.Message, w.AppliedDigest = "Running", "", "", "d1"
	r.heartbeat(d, h)
	if got = r.get(d).Status.Workloads[0]; got.Phase != "Running" || got.Reason != "" || got.AppliedDigest != "d1" || got.Restarts != 49 {
		t.Errorf("status %+v", got)
	}
}

// When a device was last heard of is written as often as that is wanted.
func TestSeen(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(c *Config) { c.SeenInterval = 2 * time.Second })
	d := r.device("dev1", nil)
	versions := make(map[string]bool)
	start := time.Now()
	for time.Since(start) < 5*time.Second {
		r.heartbeat(d, report(""))
		versions[r.get(d).ResourceVersion] = true
		time.Sleep(50 * time.Millisecond)
	}
	if n := len(versions); n < 2 || n > 4 {
		t.Errorf("%d writes in 5 s with an interval of 2 s", n)
	}
}

// Defect 7.2.4: what the operator adds while devices report is never lost, with
// two replicas that write the same device.
func TestDefect724LostUpdate(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	other := r.run()
	d := r.device("dev1", nil, other)
	const n = 40
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for i, b := range []*Backend{r.backend, other} {
		wg.Go(func() {
			for k := 0; ; k++ {
				select {
				case <-stop:
					return
				default:
				}
				h := report(fmt.Sprintf("v-%d-%d", i, k), "w-0=Running")
				if err := b.Heartbeat(t.Context(), d, h); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	// The operator, with optimistic concurrency of its own.
	for i := range n {
		r.eventually("operator writes", func() bool {
			object := r.get(d)
			object.Status.Workloads = append(object.Status.Workloads, v1alpha1.WorkloadStatus{Name: fmt.Sprintf("w-%d", i), Phase: "Deploying"})
			err := r.admin.putStatus(t.Context(), edgeDevices, v1alpha1.KindEdgeDevice, object, object.Status, &v1alpha1.EdgeDevice{})
			return err == nil
		})
	}
	close(stop)
	wg.Wait()
	object := r.get(d)
	if len(object.Status.Workloads) != n {
		t.Fatalf("%d workloads, want %d", len(object.Status.Workloads), n)
	}
	for i, w := range object.Status.Workloads {
		if w.Name != fmt.Sprintf("w-%d", i) {
			t.Errorf("entry %d is %s", i, w.Name)
		}
	}
	if object.Status.Workloads[0].Phase != "Running" {
		t.Errorf("phase %q", object.Status.Workloads[0].Phase)
	}
}

// Defect 7.2.8: what a report leaves out stays as it was. 7.2.19: labels fit.
func TestDefect728And7219Hardware(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	d := r.device("dev1", nil)
	h := report("")
	h.Hardware = &protocol.HardwareInfo{
		Hostname: "Host", CPU: &protocol.CPU{Architecture: "x86_64", ModelName: strings.Repeat("m", 80)},
	}
	h.Upgrade = &protocol.UpgradeStatus{CurrentCommitID: "c1"}
	r.heartbeat(d, h)
	h = report("")
	h.Hardware = &protocol.HardwareInfo{Memory: &protocol.Memory{PhysicalBytes: 1 << 30}}
	r.heartbeat(d, h)
	s := r.get(d)
	if s.Status.Hardware == nil || s.Status.Hardware.CPU == nil || s.Status.Hardware.Memory == nil || s.Status.UpgradeInformation == nil {
		t.Fatalf("hardware %+v, upgrade %+v", s.Status.Hardware, s.Status.UpgradeInformation)
	}
	if s.Labels[v1alpha1.LabelHostname] != "host" || s.Labels[v1alpha1.LabelCPUModel] != strings.Repeat("m", 63) {
		t.Errorf("labels %v", s.Labels)
	}
	before := s.ResourceVersion
	r.heartbeat(d, h)
	if after := r.get(d).ResourceVersion; after != before {
		t.Error("the same hardware again was written")
	}
	r.patchMeta(d, `{"metadata":{"labels":{"user":"label"},"annotations":{"user":"annotation"}}}`)
	h.Hardware.Hostname = "other"
	r.heartbeat(d, h)
	if s := r.get(d); s.Labels["user"] != "label" || s.Annotations["user"] != "annotation" || s.Labels[v1alpha1.LabelHostname] != "other" {
		t.Errorf("labels %v, annotations %v", s.Labels, s.Annotations)
	}
}

// A report that says what was said before is no request to the API server at all,
// neither read nor write, until it is time to note that the device was seen.
func TestUnchangedHeartbeatIsNoRequest(t *testing.T) {
	t.Parallel()
	r := bareRig(t)
	var requests atomic.Int64
	r.backend = r.run(through(func(next http.RoundTripper, q *http.Request) (*http.Response, error) {
		if q.URL.Query().Get("watch") == "" {
			requests.Add(1)
		}
		return next.RoundTrip(q)
	}))
	r.apply(strings.Replace(twoKeys, "deviceSelector: {matchLabels: {app: web}}", "device: dev1", 1))
	d := r.device("dev1", nil)
	r.patchStatus(d, `{"status":{"workloads":[{"name":"web"}]}}`)
	r.until(d, "workload", func(m protocol.DeviceConfigurationMessage) bool { return len(m.Secrets) == 1 })
	h := report("v", "web=Running")
	h.Hardware = &protocol.HardwareInfo{Hostname: "host"}
	r.heartbeat(d, h)
	written := r.get(d).ResourceVersion
	r.eventually("the watch has told", func() bool {
		now := r.backend.devices.find(d)
		now.mu.Lock()
		defer now.mu.Unlock()
		return now.written.IsZero() && now.object.ResourceVersion == written
	})
	// Chores of the rendering are done by then as well: they write the same.
	r.heartbeat(d, h)
	before := requests.Load()
	for range 200 {
		r.heartbeat(d, h)
		r.configuration(d)
		if managed, err := r.backend.Managed(t.Context(), d); err != nil || !managed {
			t.Fatal(managed, err)
		}
	}
	if n := requests.Load() - before; n != 0 {
		t.Errorf("%d requests for 200 reports that say the same", n)
	}
	if after := r.get(d).ResourceVersion; after != written {
		t.Errorf("version %s became %s", written, after)
	}
}
