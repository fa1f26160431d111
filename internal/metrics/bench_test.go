package metrics

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// BenchmarkPath takes scrapes of 500 series through the whole path: Put, spool,
// request, a receiver on the loopback that reads and takes everything. It says how
// many bytes go to the disk and over the line for each sample, and how much
// memory is in use in the middle of a backlog.
func BenchmarkPath(b *testing.B) {
	const each = 500
	var line atomic.Int64
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		line.Add(n)
		w.WriteHeader(http.StatusNoContent)
	}))
	defer s.Close()
	bench := newBench(b, nil, protocol.MetricsConfiguration{})
	before, n := written(b), 0
	for b.Loop() {
		bench.put(scrapeOf("a", n, each)...)
		n++
	}
	put := b.Elapsed()
	var memory runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&memory)
	idle := memory.HeapAlloc
	bench.tell(to(s.URL))
	bench.run()
	bench.flush()
	if err := bench.engine.queue.Sync(); err != nil {
		b.Fatal(err)
	}
	runtime.ReadMemStats(&memory)
	samples := float64(n * each)
	b.ReportMetric(samples/put.Seconds(), "put-samples/s")
	b.ReportMetric(float64(written(b)-before)/samples, "disk-B/sample")
	b.ReportMetric(float64(line.Load())/samples, "line-B/sample")
	b.ReportMetric(float64(memory.HeapSys-memory.HeapReleased)/1e6, "heap-MB")
	b.ReportMetric(float64(idle)/1e6, "idle-MB")
}

// BenchmarkDeliver takes a backlog off the spool as fast as the receiver takes it.
func BenchmarkDeliver(b *testing.B) {
	const each, scrapes = 500, 2000
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.WriteHeader(http.StatusNoContent)
	}))
	defer s.Close()
	for b.Loop() {
		b.StopTimer()
		bench := newBench(b, nil, to(s.URL))
		for n := range scrapes {
			bench.put(scrapeOf("a", n, each)...)
		}
		b.StartTimer()
		bench.run()
		bench.flush()
	}
	b.ReportMetric(float64(b.N*each*scrapes)/b.Elapsed().Seconds(), "samples/s")
}

// written returns how many bytes this process had written to disks.
func written(b *testing.B) int64 {
	b.Helper()
	text, err := os.ReadFile("/proc/self/io")
	if err != nil {
		b.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, "write_bytes: "); ok {
			n, err := strconv.ParseInt(strings.TrimSpace(value), 10, 64)
			if err != nil {
				b.Fatal(err)
			}
			return n
		}
	}
	b.Fatal("/proc/self/io has no write_bytes")
	return 0
}
