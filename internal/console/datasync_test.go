package console

import (
	"bytes"
	"context"
	"errors"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// syncing is a device that synchronises, at the moment now.
func syncing() (d Document, now time.Time) {
	d = example()
	now = d.Started.Add(2 * time.Hour)
	d.DataSync = []DataSync{
		{
			Workload: "camera", LastUpload: now.Add(-3 * time.Second),
			Egress: &DataDirection{
				Files: 1240, Bytes: 3 << 30, Seconds: 812.5, Pending: 3, PendingBytes: 25 << 20, Skipped: 1,
				LastSuccess: now.Add(-20 * time.Second),
				InFlight: []Transfer{
					{Path: "video/2026/03/04/front-door/clip-0001.mp4", Size: 20 << 20, Done: 5 << 20, Since: now.Add(-5 * time.Second), Rate: 1 << 20},
					{Path: "evil\x1b[2J\nname", Size: 100, Done: 100, Since: now.Add(-time.Second), Rate: 100},
				},
			},
			Ingress: &DataDirection{Files: 4, Bytes: 512, Pending: 1, PendingBytes: 7 << 30, Blocked: "a download of 7 GiB would not fit"},
		},
		{
			Workload: "meter",
			Egress: &DataDirection{
				Failed: 2, LastError: `"a": access denied`, Paused: "until 18:00",
				Problems: []DataProblem{{Reason: "WatchLimit", Message: "no more folders are watched"}},
			},
		},
	}
	return d, now
}

func TestDataSyncTable(t *testing.T) {
	t.Parallel()
	d, now := syncing()
	golden(t, "datasync.txt", show(t, d, FormatTable, now))
	golden(t, "datasync.yaml", show(t, d, FormatYAML, now))
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	d, _ := syncing()
	d.DataSync[1].Workload = "quo\"te\\back\nline\xff"
	d.Version = "1.2.3-\"x\""
	raw := Metrics(d)
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(bytes.NewReader(raw))
	if err != nil {
		t.Fatalf("%v:\n%s", err, raw)
	}
	value := func(name string, labels ...string) float64 {
		t.Helper()
		for _, m := range families[name].GetMetric() {
			var got []string
			for _, l := range m.GetLabel() {
				got = append(got, l.GetName(), l.GetValue())
			}
			if cmp.Equal(labels, got) {
				return m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
		t.Errorf("no %s with the labels %q:\n%s", name, labels, raw)
		return -1
	}
	for _, tt := range []struct {
		name, label, workload string
		kind                  string
		want                  float64
	}{
		{"flotta_agent_datasync_files_transferred_counter", "workload_name", "camera", "COUNTER", 1240},
		{"flotta_agent_datasync_bytes_transferred_counter", "workload_name", "camera", "COUNTER", 3 << 30},
		{"flotta_agent_datasync_time_transferred_counter", "workload_name", "camera", "COUNTER", 812500},
		{"flotta_agent_datasync_deleted_files_transferred_counter", "workload_name", "camera", "COUNTER", 0},
		{"flotta_datasync_files_total", "workload", "camera", "COUNTER", 1240},
		{"flotta_datasync_seconds_total", "workload", "camera", "COUNTER", 812.5},
		{"flotta_datasync_pending_bytes", "workload", "camera", "GAUGE", 25 << 20},
		{"flotta_datasync_failed_files", "workload", "quo\"te\\back\nline\uFFFD", "GAUGE", 2},
		{"flotta_datasync_paused", "workload", "quo\"te\\back\nline\uFFFD", "GAUGE", 1},
		{"flotta_datasync_last_success_timestamp_seconds", "workload", "quo\"te\\back\nline\uFFFD", "GAUGE", 0},
		{"flotta_datasync_last_success_timestamp_seconds", "workload", "camera", "GAUGE", float64(d.DataSync[0].Egress.LastSuccess.Unix())},
	} {
		labels := []string{tt.label, tt.workload, "direction", "egress"}
		if got := value(tt.name, labels...); got != tt.want {
			t.Errorf("%s of %s is %v, want %v", tt.name, tt.workload, got, tt.want)
		}
		if got := families[tt.name].GetType().String(); got != tt.kind {
			t.Errorf("%s is a %s", tt.name, got)
		}
	}
	if got := value("flotta_agent_info", "version", "1.2.3-\"x\""); got != 1 {
		t.Errorf("info is %v", got)
	}
	if got := value("flotta_datasync_blocked", "workload", "camera", "direction", "ingress"); got != 1 {
		t.Errorf("blocked is %v", got)
	}
	// A device without data paths has no families without samples.
	none, err := parser.TextToMetricFamilies(bytes.NewReader(Metrics(example())))
	if err != nil {
		t.Fatal(err)
	}
	for name, f := range none {
		if strings.Contains(name, "datasync") || len(f.GetMetric()) != 1 {
			t.Errorf("%s has %d samples", name, len(f.GetMetric()))
		}
	}
}

// FuzzMetrics: whatever a workload is called, Prometheus reads it back.
func FuzzMetrics(f *testing.F) {
	f.Add("plain")
	f.Add("a\"b\\c\nd\xff")
	f.Fuzz(func(t *testing.T, name string) {
		d := Document{Version: name, DataSync: []DataSync{{Workload: name, Egress: &DataDirection{Files: 5}}}}
		parser := expfmt.NewTextParser(model.LegacyValidation)
		families, err := parser.TextToMetricFamilies(bytes.NewReader(Metrics(d)))
		if err != nil {
			t.Fatal(err)
		}
		got := families["flotta_datasync_files_total"].GetMetric()[0].GetLabel()[0].GetValue()
		if want := strings.ToValidUTF8(name, "\uFFFD"); got != want {
			t.Errorf("%q is read as %q", want, got)
		}
	})
}

func TestMetricsOverTheSocket(t *testing.T) {
	t.Parallel()
	cfg := config(t)
	start(t, cfg)
	fetch(t, cfg.Socket)
	raw, err := FetchMetrics(t.Context(), cfg.Socket)
	if err != nil || !strings.Contains(string(raw), "\nflotta_agent_healthy 1\n") {
		t.Errorf("%v:\n%s", err, raw)
	}
}

func TestSyncOverTheSocket(t *testing.T) {
	t.Parallel()
	cfg := config(t)
	asked := make(chan SyncRequest, 10)
	cfg.Sync = func(_ context.Context, r SyncRequest) []SyncResult {
		asked <- r
		return []SyncResult{{Workload: "a", Direction: "egress", Missing: 2}, {Workload: "b", Error: "no"}}
	}
	start(t, cfg, func(s *Server) { s.clientTime = 5 * time.Second })
	fetch(t, cfg.Socket)
	want := SyncRequest{Workloads: []string{"a", "b&c=d\x00"}, Audit: true}
	got, err := Sync(t.Context(), cfg.Socket, want)
	if err != nil || len(got) != 2 || got[0].Missing != 2 {
		t.Errorf("results %+v, %v", got, err)
	}
	if diff := cmp.Diff(want, <-asked); diff != "" {
		t.Errorf("asked (-want +got):\n%s", diff)
	}
	if _, err := Sync(t.Context(), cfg.Socket, SyncRequest{}); err != nil {
		t.Error(err)
	}
	if got := <-asked; len(got.Workloads) != 0 || got.Audit {
		t.Errorf("asked for %+v", got)
	}
}

// Who waits for a long one has no time limit; who goes away ends it, and so does
// the agent's end; and not more than some can wait at once.
func TestLongSync(t *testing.T) {
	t.Parallel()
	cfg := config(t)
	began, ended := make(chan struct{}, 100), make(chan error, 100)
	cfg.Sync = func(ctx context.Context, _ SyncRequest) []SyncResult {
		began <- struct{}{}
		<-ctx.Done()
		ended <- ctx.Err()
		return nil
	}
	stop := start(t, cfg, func(s *Server) { s.clientTime = time.Second })
	fetch(t, cfg.Socket)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, maxSyncs)
	for range maxSyncs {
		go func() {
			_, err := Sync(ctx, cfg.Socket, SyncRequest{})
			done <- err
		}()
		<-began
	}
	if _, err := Sync(t.Context(), cfg.Socket, SyncRequest{}); err == nil || !strings.Contains(err.Error(), "too many") {
		t.Errorf("one too many: %v", err)
	}
	fetch(t, cfg.Socket) // who looks is served
	select {
	case err := <-ended:
		t.Errorf("the time of a client ended it: %v", err)
	case <-time.After(1200 * time.Millisecond):
	}
	cancel()
	for range maxSyncs {
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("synchronisation ended with %v", err)
		}
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("client ended with %v", err)
		}
	}
	go func() {
		_, err := Sync(t.Context(), cfg.Socket, SyncRequest{})
		for err != nil && strings.Contains(err.Error(), "too many") { // until a place is free again
			time.Sleep(time.Millisecond)
			_, err = Sync(t.Context(), cfg.Socket, SyncRequest{})
		}
		done <- err
	}()
	<-began
	stop()
	if err := errors.Join(<-ended, <-done); err == nil {
		t.Error("the agent's end is no end")
	}
}

func TestSyncWithoutOne(t *testing.T) {
	t.Parallel()
	cfg := config(t)
	start(t, cfg)
	fetch(t, cfg.Socket)
	if _, err := Sync(t.Context(), cfg.Socket, SyncRequest{}); err == nil || !strings.Contains(err.Error(), "404") {
		t.Errorf("without a way to: %v", err)
	}
	if _, err := Sync(t.Context(), filepath.Join(t.TempDir(), "none"), SyncRequest{}); err == nil {
		t.Error("asked nobody")
	} else if opErr, ok := errors.AsType[*net.OpError](err); !ok {
		t.Errorf("%v, %v", err, opErr)
	}
}

func TestShowSync(t *testing.T) {
	t.Parallel()
	for want, results := range map[string][]SyncResult{
		"no workload has data paths\n":                        nil,
		"a egress: ok\n":                                      {{Workload: "a", Direction: "egress"}},
		"a egress: ok, 3 missing in the bucket, sent again\n": {{Workload: "a", Direction: "egress", Missing: 3}},
		"a ingress: no \uFFFD[2Jluck\nb: not known\n\"\\x1b]0;x\" egress: also no\n": {{Workload: "a", Direction: "ingress", Error: "no \x1b[2Jluck"}, {Workload: "b", Error: "not known"}, {Workload: "\x1b]0;x", Direction: "egress", Error: "also no"}},
	} {
		var b bytes.Buffer
		well, err := ShowSync(&b, results)
		if err != nil || b.String() != want || well == strings.Contains(want, "luck") {
			t.Errorf("%q, well %v, %v; want %q", b.String(), well, err, want)
		}
	}
	if well, _ := ShowSync(&bytes.Buffer{}, []SyncResult{{Error: "x"}}); well {
		t.Error("a failure is well")
	}
}
