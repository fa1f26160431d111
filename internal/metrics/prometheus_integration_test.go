//go:build integration

package metrics

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/project-flotta/flotta-agent/internal/metrics/series"
	"github.com/project-flotta/flotta-agent/test/testenv"
)

// prometheus is a real one, which can be killed and started again.
type prometheus struct {
	t       testing.TB
	dir     string
	address string
	cmd     *exec.Cmd
}

func startPrometheus(t testing.TB) *prometheus {
	t.Helper()
	port, err := testenv.FreePort("127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	p := &prometheus{t: t, dir: t.TempDir(), address: net.JoinHostPort("127.0.0.1", strconv.Itoa(port))}
	if err := os.WriteFile(filepath.Join(p.dir, "prometheus.yml"), []byte("global: {}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.kill)
	p.start()
	return p
}

func (p *prometheus) start() {
	p.t.Helper()
	log, err := os.OpenFile(filepath.Join(p.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		p.t.Fatal(err)
	}
	defer log.Close()
	p.cmd = exec.Command("prometheus",
		"--config.file="+filepath.Join(p.dir, "prometheus.yml"), "--storage.tsdb.path="+filepath.Join(p.dir, "data"),
		"--web.listen-address="+p.address, "--web.enable-remote-write-receiver",
	)
	p.cmd.Stdout, p.cmd.Stderr = log, log
	if err := p.cmd.Start(); err != nil {
		p.t.Fatalf("start prometheus, of the Debian package of that name: %v", err)
	}
	eventually(p.t, "prometheus is ready", func() bool {
		resp, err := http.Get(p.url("/-/ready"))
		if err != nil {
			return false
		}
		_ = resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
}

func (p *prometheus) url(path string) string { return "http://" + p.address + path }

// kill ends it without a warning.
func (p *prometheus) kill() {
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait()
	if p.t.Failed() {
		text, _ := os.ReadFile(filepath.Join(p.dir, "log"))
		p.t.Logf("prometheus says:\n%s", text[max(0, len(text)-4000):])
	}
}

// values returns what it has of the series, oldest first.
func (p *prometheus) values(selector string) (all []int) {
	p.t.Helper()
	resp, err := http.PostForm(p.url("/api/v1/query"), url.Values{"query": {selector + "[3h]"}})
	if err != nil {
		p.t.Fatal(err)
	}
	defer resp.Body.Close()
	var answer struct {
		Data struct {
			Result []struct{ Values [][2]any }
		}
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		p.t.Fatal(err)
	}
	if n := len(answer.Data.Result); n != 1 {
		p.t.Fatalf("%d series are %s", n, selector)
	}
	for _, v := range answer.Data.Result[0].Values {
		n, err := strconv.Atoi(fmt.Sprint(v[1]))
		if err != nil {
			p.t.Fatal(err)
		}
		all = append(all, n)
	}
	return all
}

// moved sets the time of samples: number n is so many seconds after begin.
func moved(samples []series.Sample, begin time.Time, n int) []series.Sample {
	for i := range samples {
		samples[i].Millis = begin.Add(time.Duration(n) * time.Second).UnixMilli()
	}
	return samples
}

// TestPrometheusHasEverySample kills Prometheus twice while samples come through
// a proxy that is slow, refuses, fails, and loses requests and answers, and
// restarts the device.
func TestPrometheusHasEverySample(t *testing.T) {
	t.Parallel()
	p := startPrometheus(t)
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: p.address})
	proxy.ErrorLog = nil
	proxy.ErrorHandler = func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) }
	var wrong atomic.Int64
	b := newBench(t, nil, to(serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n := rand.IntN(20)
		if n < 5 {
			wrong.Add(1)
		}
		switch n {
		case 0:
			w.Header().Set("Retry-After", "0")
			w.WriteHeader(http.StatusTooManyRequests)
		case 1:
			w.WriteHeader(http.StatusInternalServerError)
		case 2: // taken, but the answer is lost
			proxy.ServeHTTP(nowhere{http.Header{}}, r)
			panic(http.ErrAbortHandler)
		case 3: // lost half way
			_, _ = io.CopyN(io.Discard, r.Body, 100)
			panic(http.ErrAbortHandler)
		case 4:
			time.Sleep(rand.N(300 * time.Millisecond))
			fallthrough
		default:
			proxy.ServeHTTP(w, r)
		}
	}))+"/api/v1/write"))
	b.run()
	const scrapes = 600
	begin := time.Now().Add(-30 * time.Minute)
	hasty := b.hastily()
	for n := range scrapes {
		b.put(moved(scrapeOf("a", n, 10), begin, n)...)
		b.put(moved(scrapeOf("b", n, 2), begin, n)...)
		switch n {
		case 150, 350:
			p.kill()
		case 200, 400:
			p.start()
		case 500:
			hasty()
			b.reopen()
			b.run()
			hasty = b.hastily()
		}
		time.Sleep(rand.N(5 * time.Millisecond)) // so that some are under way when it is killed
	}
	hasty()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	if err := b.engine.Flush(ctx); err != nil {
		t.Error(err)
	}
	if s := b.engine.Status(); s.Queue.Entries > 0 || s.Refused+s.TooOld+s.Damaged > 0 {
		t.Errorf("status %+v", s)
	}
	if wrong.Load() == 0 {
		t.Error("nothing went wrong")
	}
	for _, selector := range []string{`m{target="a",i="0"}`, `m{target="a",i="9"}`, `m{target="b",i="1"}`} {
		if got := p.values(selector); !slices.Equal(got, numbers(0, scrapes)) {
			at := 0
			for at < min(len(got), scrapes) && got[at] == at {
				at++
			}
			t.Errorf("%s has %d values, want %d; those from %d on are %v", selector, len(got), scrapes, at, got[at:min(len(got), at+10)])
		}
	}
}

// hastily has everything delivered without pauses until the function that it
// returns is called.
func (b *bench) hastily() (stop func()) {
	ctx, cancel := context.WithCancel(b.t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			changed := b.engine.Changed()
			if b.engine.Flush(ctx) == nil {
				select {
				case <-changed:
				case <-ctx.Done():
				case <-time.After(10 * time.Millisecond): // Put alone is no change
				}
			}
		}
	}()
	return func() {
		cancel()
		<-done
	}
}

// TestPrometheusTakesNoOldSamples has a device come back after a day, to a
// Prometheus that is not configured for that, and to one that is.
func TestPrometheusTakesNoOldSamples(t *testing.T) {
	t.Parallel()
	for name, config := range map[string]string{"as it comes": "", "with a window": "storage: {tsdb: {out_of_order_time_window: 48h}}\n"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := startPrometheus(t)
			if config != "" {
				p.kill()
				if err := os.WriteFile(filepath.Join(p.dir, "prometheus.yml"), []byte(config), 0o600); err != nil {
					t.Fatal(err)
				}
				p.start()
			}
			b := newBench(t, nil, to(p.url("/api/v1/write")))
			b.run()
			b.put(moved(scrapeOf("other device", 0, 1), time.Now(), 0)...)
			b.flush()
			for n := range 10 {
				b.put(moved(scrapeOf("a", n, 3), time.Now().Add(-2*time.Hour), n)...)
			}
			b.flush()
			s := b.engine.Status()
			if config == "" {
				if s.TooOld != 30 || len(s.Problems) != 1 || s.Problems[0].Reason != ReasonTooOld {
					t.Errorf("status %+v", s)
				}
				return
			}
			if got := p.values(`m{target="a",i="2"}`); s.TooOld != 0 || !slices.Equal(got, numbers(0, 10)) {
				t.Errorf("status %+v, values %v", s, got)
			}
		})
	}
}

// TestPrometheusGetsOddSamples sends what a scrape may hold beside numbers.
func TestPrometheusGetsOddSamples(t *testing.T) {
	t.Parallel()
	p := startPrometheus(t)
	b := newBench(t, nil, to(p.url("/api/v1/write")))
	b.run()
	odd := scrapeOf("ü\"\n\\", 7, 1)
	stale := scrapeOf("stale", 7, 1)
	now := time.Now().Add(-time.Minute)
	b.put(append(moved(odd, now, 0), moved(stale, now, 0)...)...)
	stale[0].Value = series.Stale()
	b.put(moved(stale, now, 1)...)
	b.flush()
	if got := p.values(`m{target="ü\"\n\\"}`); !slices.Equal(got, []int{7}) {
		t.Errorf("values %v", got)
	}
	resp, err := http.PostForm(p.url("/api/v1/query"), url.Values{"query": {`m{target="stale"}`}})
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var answer struct{ Data struct{ Result []any } }
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil || len(answer.Data.Result) != 0 {
		t.Errorf("an ended series is there: %v, %v", answer, err)
	}
}

// BenchmarkPrometheus delivers a backlog of 500 series to a real Prometheus on
// the same machine, as fast as it takes it.
func BenchmarkPrometheus(b *testing.B) {
	const each, scrapes = 500, 1000
	for b.Loop() {
		b.StopTimer()
		p := startPrometheus(b)
		bench := newBench(b, nil, to(p.url("/api/v1/write")))
		begin := time.Now().Add(-30 * time.Minute)
		for n := range scrapes {
			bench.put(moved(scrapeOf("a", n, each), begin, n)...)
		}
		b.StartTimer()
		bench.run()
		bench.flush()
		b.StopTimer()
		if s := bench.engine.Status(); s.Sent != each*scrapes {
			b.Fatalf("status %+v", s)
		}
		p.kill()
		b.StartTimer()
	}
	b.ReportMetric(float64(b.N*each*scrapes)/b.Elapsed().Seconds(), "samples/s")
}
