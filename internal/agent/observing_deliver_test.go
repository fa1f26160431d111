package agent

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/project-flotta/flotta-agent/internal/containers"
	"github.com/project-flotta/flotta-agent/internal/desired"
	"github.com/project-flotta/flotta-agent/internal/logs"
	"github.com/project-flotta/flotta-agent/internal/metrics"
	"github.com/project-flotta/flotta-agent/internal/metrics/series"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// nothingRuns is a list of no containers.
type nothingRuns struct{}

func (nothingRuns) Current() ([]containers.Container, bool) { return nil, true }
func (nothingRuns) Changed() <-chan struct{}                { return nil }

// A device that leaves sends what it has measured before its spool goes, and is
// not held up where nobody wants that.
func TestLastMetricsAreDelivered(t *testing.T) {
	t.Parallel()
	var requests atomic.Int32
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		requests.Add(1)
		w.WriteHeader(http.StatusNoContent)
	}))
	defer receiver.Close()
	for name, tc := range map[string]struct {
		url  string
		want int32
	}{"somebody wants them": {receiver.URL, 1}, "nobody does": {"", 0}} {
		dir := t.TempDir()
		store, err := desired.Open(filepath.Join(dir, "desired.json"), "dev", slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		m := protocol.DeviceConfigurationMessage{DeviceID: "dev", Version: "1", Configuration: &protocol.DeviceConfiguration{}}
		if tc.url != "" {
			m.Configuration.Metrics = &protocol.MetricsConfiguration{Receiver: &protocol.MetricsReceiverConfiguration{URL: tc.url}}
		}
		raw, err := json.Marshal(m)
		if err == nil {
			err = store.Accept(raw)
		}
		if err != nil {
			t.Fatal(err)
		}
		var o observing
		o.measure.delivery, err = metrics.New(metrics.Config{Dir: filepath.Join(dir, "metrics"), Desired: store})
		if err == nil {
			err = o.measure.delivery.Open()
		}
		if err == nil {
			o.logs, err = logs.New(logs.Config{Desired: store, Containers: nothingRuns{}, Dir: filepath.Join(dir, "logs"), DeviceID: "dev", Log: slog.New(slog.DiscardHandler)})
		}
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- together(ctx, o.measure.delivery.Run, o.logs.Run) }()
		err = o.measure.delivery.Put(ctx, []series.Sample{{Labels: []series.Label{{Name: "__name__", Value: "up"}}, Millis: time.Now().UnixMilli(), Value: 1}})
		if err != nil {
			t.Fatal(err)
		}
		before := requests.Load()
		if err := o.deliver(ctx); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if got := requests.Load() - before; got != tc.want {
			t.Errorf("%s: %d requests, want %d", name, got, tc.want)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if err := o.measure.delivery.Close(); err != nil {
			t.Error(err)
		}
	}
}
