package collect

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/project-flotta/flotta-agent/internal/containers"
	"github.com/project-flotta/flotta-agent/internal/desired"
	"github.com/project-flotta/flotta-agent/internal/metrics/series"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// TestHTTP reads a workload in the host's network and a node exporter that are
// real servers.
func TestHTTP(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.String() {
		case "/m?x=1":
			_, _ = io.WriteString(w, "orders_total{workload=\"theirs\"} 5\n")
		case "/node":
			_, _ = io.WriteString(w, "node_memory_MemFree_bytes 9\nnode_other 1\n")
		default:
			http.NotFound(w, r)
		}
	}))
	defer server.Close()
	port := portOf(t, server.URL)
	b := newBoard(desired.State{
		Metrics: &protocol.MetricsConfiguration{Receiver: receiver(), System: &protocol.ComponentMetricsConfiguration{Interval: 1}},
		Workloads: []desired.Workload{{Name: "shop", Metrics: &protocol.WorkloadMetrics{
			Port: port, Path: "/m?x=1", Interval: 1, Containers: map[string]protocol.ContainerMetrics{"broken": {Path: "/none"}},
		}}},
	})
	b.list = []containers.Container{
		{Workload: "shop", Container: "web", Running: true, HostNetwork: true},
		{Workload: "shop", Container: "broken", Running: true, HostNetwork: true},
	}
	e, _ := start(t, b, func(c *Config) { c.NodeExporter = server.URL + "/node" })
	awaitStatus(t, e, func(s Status) bool {
		return len(s.Targets) == 3 && !slices.ContainsFunc(s.Targets, func(t TargetStatus) bool { return t.LastScrape.IsZero() })
	})
	b.show(b.list[:1]...)
	awaitStatus(t, e, func(s Status) bool { return len(s.Targets) == 2 })
	shop := func(container string) string {
		return fmt.Sprintf(`container=%s,edgedeviceid=dev`, container)
	}
	rest := fmt.Sprintf("instance=dev:%d,job=shop,workload=shop", port)
	want := []string{
		"node_memory_MemFree_bytes{edgedeviceid=dev,instance=dev,job=node} 9",
		"orders_total{" + shop("web") + ",exported_workload=theirs," + rest + "} 5",
		"up{" + shop("broken") + "," + rest + "} 0",
		"up{" + shop("broken") + "," + rest + "} end",
		"up{" + shop("web") + "," + rest + "} 1",
		"up{edgedeviceid=dev,instance=dev,job=node} 1",
	}
	got := map[string]bool{}
	missing := func(line string) bool { return !got[line] }
	for deadline := time.Now().Add(30 * time.Second); slices.ContainsFunc(want, missing) && time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		for _, p := range b.taken() {
			for _, s := range p.samples {
				if line, _, _ := strings.Cut(labelled(s), " @"); !strings.HasPrefix(line, "scrape_") {
					got[line] = true
				}
			}
		}
	}
	// A scrape that takes too long on a busy machine ends series, which come again.
	maps.DeleteFunc(got, func(line string, _ bool) bool {
		return missing(line) || !slices.Contains(want, line) && (strings.HasSuffix(line, " end") || strings.HasPrefix(line, "up{"))
	})
	if diff := cmp.Diff(want, slices.Sorted(maps.Keys(got))); diff != "" {
		t.Errorf("samples (-want +got):\n%s", diff)
	}
}

func portOf(t *testing.T, address string) int32 {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	port, err := strconv.ParseInt(u.Port(), 10, 32)
	if err != nil {
		t.Fatal(err)
	}
	return int32(port)
}

// labelled shows a sample whole.
func labelled(s series.Sample) string {
	var name string
	var labels []string
	for _, l := range s.Labels {
		if l.Name == series.MetricName {
			name = l.Value
		} else {
			labels = append(labels, l.Name+"="+l.Value)
		}
	}
	value := fmt.Sprint(s.Value)
	if series.IsStale(s.Value) {
		value = "end"
	}
	return fmt.Sprintf("%s{%s} %s @%d", name, strings.Join(labels, ","), value, s.Millis)
}

// awaitStatus waits until the status is as the test wants it.
func awaitStatus(t *testing.T, e *Engine, ok func(Status) bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if s := e.Status(); ok(s) {
			return
		} else if time.Now().After(deadline) {
			t.Fatalf("not in time: %+v", s)
		}
	}
}

// starter is a Units that answers as the test says.
type starter struct {
	mu    sync.Mutex
	asked []string
	err   error
}

func (s *starter) EnableAndStart(_ context.Context, name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked = append(s.asked, name)
	return s.err
}

// TestNodeExporter starts the unit until the exporter answers, and says what is
// wrong as long as it does not.
func TestNodeExporter(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		units := &starter{err: fmt.Errorf("look: %w", ErrNoUnit)}
		x := &exporter{units: units, name: "n.service"}
		reason := func() string { p, _ := x.problem(); return p.Reason }
		step := func(answer error) string {
			x.care(t.Context())
			x.answered(answer)
			time.Sleep(mostPatient)
			return reason()
		}
		silence := errors.New("connection refused")
		if got := reason(); got != "" {
			t.Errorf("before the first attempt: %s", got)
		}
		if got := step(silence); got != "NodeExporterAbsent" {
			t.Errorf("no unit: %s", got)
		}
		units.err = errors.New("start limit hit")
		if got := step(silence); got != "NodeExporterFailed" {
			t.Errorf("a unit that fails: %s", got)
		}
		units.err = nil
		if got := step(silence); got != "NodeExporterSilent" {
			t.Errorf("no answer: %s", got)
		}
		if got := step(nil); got != "" {
			t.Errorf("it answers: %s", got)
		}
		if got := step(nil); got != "" || len(units.asked) != 4 {
			t.Errorf("it still answers: %s, %d starts", got, len(units.asked))
		}
		x.answered(silence)
		x.care(t.Context())
		x.care(t.Context())
		if len(units.asked) != 5 {
			t.Errorf("%d starts, want one more, and not two within a minute", len(units.asked))
		}
		// Where there is none, nobody is bothered for nothing each minute of a year.
		before := len(units.asked)
		for range 24 * 60 {
			x.care(t.Context())
			x.answered(silence)
			time.Sleep(time.Minute)
		}
		if got := len(units.asked) - before; got < 40 || got > 60 {
			t.Errorf("%d attempts in a day", got)
		}
	})
}
