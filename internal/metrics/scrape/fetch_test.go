package scrape_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/project-flotta/flotta-agent/internal/metrics/scrape"
)

func serve(t *testing.T, handler http.HandlerFunc) string {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return server.URL
}

func zipped(t *testing.T, text string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := io.WriteString(w, text); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestFetch(t *testing.T) {
	t.Parallel()
	const text = "a 1\n# EOF\n"
	for name, c := range map[string]struct {
		handler http.HandlerFunc
		want    scrape.Format
	}{
		"classic": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
			_, _ = io.WriteString(w, text)
		}, scrape.Classic},
		"openmetrics": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/openmetrics-text; version=1.0.0; charset=utf-8")
			_, _ = io.WriteString(w, text)
		}, scrape.OpenMetrics},
		"no type": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header()["Content-Type"] = nil
			_, _ = io.WriteString(w, text)
		}, scrape.Classic},
		"gzip": {func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Accept-Encoding") != "gzip" {
				http.Error(w, "gzip is not asked for", http.StatusNotAcceptable)
				return
			}
			w.Header().Set("Content-Encoding", "gzip")
			_, _ = w.Write(zipped(t, text))
		}, scrape.Classic},
		"redirect": {func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/there" {
				http.Redirect(w, r, "/there", http.StatusFound)
				return
			}
			_, _ = io.WriteString(w, text)
		}, scrape.Classic},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			page, err := scrape.Fetch(t.Context(), http.DefaultClient, serve(t, c.handler), scrape.Limits{})
			if err != nil || page.Text != text || page.Format != c.want {
				t.Errorf("%+v, %v", page, err)
			}
		})
	}
}

// TestClientLibrary reads what the client library of Prometheus says, which
// most targets are made with, in both formats.
func TestClientLibrary(t *testing.T) {
	t.Parallel()
	registry := prometheus.NewRegistry()
	orders := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "orders_total", Help: "Quoted \"help\"\nin two lines."}, []string{"place"})
	took := prometheus.NewHistogram(prometheus.HistogramOpts{Name: "took_seconds", Buckets: []float64{0.5, 1}})
	size := prometheus.NewSummary(prometheus.SummaryOpts{Name: "size_bytes", Objectives: map[float64]float64{0.5: 0.1}})
	registry.MustRegister(orders, took, size)
	orders.WithLabelValues("a \"b\"\\\nü").(prometheus.ExemplarAdder).AddWithExemplar(3, prometheus.Labels{"trace_id": "x y"})
	took.(prometheus.ExemplarObserver).ObserveWithExemplar(0.25, prometheus.Labels{"trace_id": "z"})
	size.Observe(7)
	for _, open := range []bool{false, true} {
		address := serve(t, promhttp.HandlerFor(registry, promhttp.HandlerOpts{EnableOpenMetrics: open}).ServeHTTP)
		page, err := scrape.Fetch(t.Context(), http.DefaultClient, address, scrape.Limits{})
		if err != nil || (page.Format == scrape.OpenMetrics) != open {
			t.Fatalf("%+v, %v", page, err)
		}
		got, err := parse(page.Text, page.Format, scrape.Limits{})
		one := "1"
		if open {
			one = "1.0"
		}
		want := []string{
			`__name__="orders_total" place="a \"b\"\\\nü" 3`,
			`__name__="size_bytes" quantile="0.5" 7`, `__name__="size_bytes_sum" 7`, `__name__="size_bytes_count" 1`,
			`__name__="took_seconds_bucket" le="0.5" 1`, `__name__="took_seconds_bucket" le="` + one + `" 1`,
			`__name__="took_seconds_bucket" le="+Inf" 1`, `__name__="took_seconds_sum" 0.25`, `__name__="took_seconds_count" 1`,
		}
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("%v, (-want +got):\n%s\nof %s", err, diff, page.Text)
		}
	}
}

// TestFetchAsks shows a target the headers that a Prometheus server sends.
func TestFetchAsks(t *testing.T) {
	t.Parallel()
	headers := make(chan http.Header, 1)
	address := serve(t, func(_ http.ResponseWriter, r *http.Request) { headers <- r.Header })
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if _, err := scrape.Fetch(ctx, http.DefaultClient, address, scrape.Limits{}); err != nil {
		t.Fatal(err)
	}
	h := <-headers
	if a := h.Get("Accept"); !strings.HasPrefix(a, "application/openmetrics-text;version=1.0.0;") || !strings.Contains(a, "text/plain;version=0.0.4;") {
		t.Errorf("Accept: %q", a)
	}
	var seconds float64
	if _, err := fmt.Sscan(h.Get("X-Prometheus-Scrape-Timeout-Seconds"), &seconds); err != nil || seconds <= 0 || seconds > 60 {
		t.Errorf("timeout %q", h.Get("X-Prometheus-Scrape-Timeout-Seconds"))
	}
}

func TestFetchRefuses(t *testing.T) {
	t.Parallel()
	other := serve(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "a 1\n") })
	for want, handler := range map[string]http.HandlerFunc{
		"the target answered 404 Not Found": http.NotFound,
		"redirects to another host":         func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, other, http.StatusFound) },
		"redirects again and again":         func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/", http.StatusFound) },
		"longer than 100 bytes":             func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(make([]byte, 101)) },
		"protocol buffers": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/vnd.google.protobuf; proto=x")
		},
		`encoding "br"`: func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Content-Encoding", "br") },
		"uncompress": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			_, _ = io.WriteString(w, "this is none of it")
		},
	} {
		if page, err := scrape.Fetch(t.Context(), http.DefaultClient, serve(t, handler), scrape.Limits{Bytes: 100}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v, %v, want an error with %q", page, err, want)
		}
	}
	bomb := zipped(t, strings.Repeat("a", 1<<20))
	_, err := scrape.Fetch(t.Context(), http.DefaultClient, serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Encoding", "gzip")
		_, _ = w.Write(bomb)
	}), scrape.Limits{Bytes: 10_000})
	if err == nil || !strings.Contains(err.Error(), "longer than 10000 bytes") {
		t.Errorf("%d bytes that become a million: %v", len(bomb), err)
	}
}

// raw answers every connection with these bytes and closes it.
func raw(t *testing.T, answer string) string {
	t.Helper()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			_, _ = conn.Read(make([]byte, 4096))
			_, _ = io.WriteString(conn, answer)
			_ = conn.Close()
		}
	}()
	return "http://" + listener.Addr().String()
}

// TestFetchCutOff tells a page that ended too early from a whole one, however
// its length was given.
func TestFetchCutOff(t *testing.T) {
	t.Parallel()
	gz := string(zipped(t, "a 1\nb 2\n"))
	for name, answer := range map[string]string{
		"length":  "HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\na 1\nb",
		"chunks":  "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\na 1\n\r\n",
		"neither": "HTTP/1.0 200 OK\r\n\r\na 1\nb 2",
		"gzip":    "HTTP/1.0 200 OK\r\nContent-Encoding: gzip\r\n\r\n" + gz[:len(gz)-6],
	} {
		if page, err := scrape.Fetch(t.Context(), http.DefaultClient, raw(t, answer), scrape.Limits{}); err == nil || !strings.Contains(err.Error(), "cut off") {
			t.Errorf("%s: %+v, %v", name, page, err)
		}
	}
	page, err := scrape.Fetch(t.Context(), http.DefaultClient, raw(t, "HTTP/1.0 200 OK\r\n\r\na 1\nb 2\n"), scrape.Limits{})
	if err != nil || page.Text != "a 1\nb 2\n" {
		t.Errorf("whole: %+v, %v", page, err)
	}
}

// TestFetchEndsInTime gives up on a target that goes on and on.
func TestFetchEndsInTime(t *testing.T) {
	t.Parallel()
	address := serve(t, func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	})
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := scrape.Fetch(ctx, http.DefaultClient, address, scrape.Limits{}); err == nil {
		t.Error("it came to an end")
	}
}
