//go:build bench

package bench

import (
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/project-flotta/flotta-agent/test/bench/receive"
	"github.com/project-flotta/flotta-agent/test/device"
	"github.com/project-flotta/flotta-agent/test/site"
)

const (
	meters = 20     // workloads with metrics
	every  = 10_000 // milliseconds between two reads of a page
	// observed is the aim for the agent's memory with these and 1,000 lines/s, in MB.
	observed = 40.0
	// watching is how long each state of the receivers is looked at.
	watching = 90 * time.Second
)

var perPage = flag.Int("bench.series", 500, "series of each workload's page")

// observing weighs the agent while it reads 20 workloads of 500 series each every
// 10 seconds and a container that writes about 1,000 lines a second (where the machine allows), with the
// receivers there, and away.
func observing(t *testing.T, figures *report) {
	r := newRig(t, userSettings)
	s := newSink(r)
	must(t, r.site.WriteManifest("receiver.yaml", fmt.Sprintf(`apiVersion: v1
kind: ConfigMap
metadata: {name: receiver}
data: {Address: "%s:%d", Protocol: tcp}
`, site.S3Name, s.lines.Port())))
	must(t, r.site.WriteManifest("device.yaml", fmt.Sprintf(`apiVersion: management.project-flotta.io/v1alpha1
kind: EdgeDevice
metadata: {name: %q}
spec:
  metrics: {receiverConfiguration: {url: "http://%s:%d/api/v1/write"}}
  logCollection: {central: {kind: syslog, syslogConfig: {name: receiver}}}
`, r.edge.ID(), site.S3Name, s.samples.Port())))
	for i := range meters {
		r.meter(fmt.Sprintf("meter-%d", i))
	}
	must(t, r.site.WriteManifest("talker.yaml", r.talker()))
	for i := range meters {
		r.settled(fmt.Sprintf("meter-%d", i))
	}
	r.settled("talker")
	for i := range meters {
		r.page(fmt.Sprintf("meter-%d", i))
	}
	must(t, site.Until(t.Context(), 2*time.Minute, s.flowing))
	time.Sleep(idling)

	r.observe(s, "receivers there", figures)
	s.lines.Cut()
	s.samples.Cut()
	r.observe(s, "receivers away", figures)
	s.lines.Mend()
	s.samples.Mend()
	r.observe(s, "receivers back", figures)
	must(t, site.Until(t.Context(), 6*time.Minute, s.whole)) // attempts are rare after a while
}

// page gives a workload the page that it serves.
func (r *rig) page(name string) {
	r.Helper()
	var page strings.Builder
	for i := range *perPage {
		if i%10 == 0 {
			fmt.Fprintf(&page, "# TYPE http_requests_%d_total counter\n", i/10)
		}
		fmt.Fprintf(&page, "http_requests_%d_total{code=\"200\",method=\"get\",path=\"/api/v1/items/%d\"} %d\n", i/10, i%10, i*17)
	}
	must(r.T, r.edge.WriteFile(site.Export(name)+"/m", []byte(page.String()), 0o644))
}

// meter saves the manifest of a workload that serves a page.
func (r *rig) meter(name string) {
	r.Helper()
	must(r.T, r.site.WriteManifest(name+".yaml", fmt.Sprintf(`apiVersion: management.project-flotta.io/v1alpha1
kind: EdgeWorkload
metadata: {name: %s}
spec:
  type: pod
  device: %q
  metrics: {port: 8080, path: "/read?path=/export/m", interval: %[4]d}
  pod: {spec: {containers: [{name: app, image: %[3]q, args: [serve, "8080"]}]}}
`, name, r.edge.ID(), testImage, every/1000)))
}

// talker is the manifest of a workload whose containers write a numbered line of
// 100 bytes about every millisecond, together.
func (r *rig) talker() string {
	var containers []string
	for i := range talkers {
		path := fmt.Sprintf("/export/%d-%s", i, strings.Repeat("x", 75))
		containers = append(containers, fmt.Sprintf("{name: app%d, image: %q, args: [write, %q, x, %s]}", i, testImage, path, (talkers*time.Millisecond-talkerNeeds).String()))
	}
	return fmt.Sprintf(`apiVersion: management.project-flotta.io/v1alpha1
kind: EdgeWorkload
metadata: {name: talker}
spec:
  type: pod
  device: %q
  logCollection: central
  pod: {spec: {containers: [%s]}}
`, r.edge.ID(), strings.Join(containers, ", "))
}

// talkerNeeds is about how long a line takes beside the pause.
const talkerNeeds = 900 * time.Microsecond

// talkers is how many containers share the lines.
const talkers = 3

// observe weighs the agent for a while.
func (r *rig) observe(s *sink, state string, figures *report) {
	r.Helper()
	proc := "/proc/" + r.agentPID()
	must(r.T, os.WriteFile(proc+"/clear_refs", []byte("5"), 0)) // the peak is that of from now on
	samples, lines := s.counts()
	cpu, written := r.cpuTime(), field(proc+"/io", "write_bytes:")
	var resident, anonymous []float64
	began := time.Now()
	for time.Since(began) < watching {
		resident = append(resident, megabytes(r.T, proc+"/status", "VmRSS:"))
		anonymous = append(anonymous, megabytes(r.T, proc+"/status", "RssAnon:"))
		time.Sleep(time.Second)
	}
	took := time.Since(began).Seconds()
	moreSamples, moreLines := s.counts()
	figures.add(r.T, fmt.Sprintf("%d x %d series, %s", meters, *perPage, state), "RSS %.1f MB in the middle, %.1f at the end, at most %.1f (aim %.0f); anonymous %.1f, at most %.1f",
		middle(resident), resident[len(resident)-1], megabytes(r.T, proc+"/status", "VmHWM:"), observed, middle(anonymous), slices.Max(anonymous))
	before, err := strconv.ParseFloat(written, 64)
	must(r.T, err)
	after, err := strconv.ParseFloat(field(proc+"/io", "write_bytes:"), 64)
	must(r.T, err)
	figures.add(r.T, "  in that time, a second", "%.0f samples and %.0f lines arrived, %.0f ms of CPU time, %.0f kB written to the disk",
		float64(moreSamples-samples)/took, float64(moreLines-lines)/took, float64((r.cpuTime()-cpu).Milliseconds())/took, (after-before)/1e3/took)
	for _, name := range []string{"journalctl", "podman"} {
		var all float64
		for _, pid := range r.pids(name) {
			all += megabytes(r.T, "/proc/"+pid+"/smaps_rollup", "Pss:")
		}
		figures.add(r.T, "  beside it, "+name, "PSS %.1f MB", all)
	}
}

func middle(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
}

// sink takes samples and lines.
type sink struct {
	samples, lines *device.Proxy

	mu      sync.Mutex
	by      map[string]int     // samples by workload
	pages   map[string][]int64 // when they were read
	failed  int                // reads
	wrong   error
	got     int
	next    []int // line of each talker
	heard   int
	missing map[[2]int]string // talker and line: where it should have been
	odd     []string          // messages that are no lines
}

func newSink(r *rig) *sink {
	r.Helper()
	s := &sink{by: map[string]int{}, pages: map[string][]int64{}, missing: map[[2]int]string{}, next: slices.Repeat([]int{1}, talkers)}
	listen := func() (net.Listener, *device.Proxy) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		must(r.T, err)
		r.Cleanup(func() { _ = l.Close() })
		p, err := device.StartProxy(r.Context(), "0.0.0.0:0", l.Addr().String())
		must(r.T, err)
		r.Cleanup(p.Close)
		return l, p
	}
	var l net.Listener
	l, s.samples = listen()
	server := &http.Server{Handler: http.HandlerFunc(s.receive), ReadHeaderTimeout: time.Minute}
	go server.Serve(l) //nolint:errcheck // it is closed
	r.Cleanup(func() { _ = server.Close() })
	l, s.lines = listen()
	go receive.Serve(l, s.line, func(err error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.wrong = err
	})
	return s
}

func (s *sink) receive(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // cut off
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := receive.Samples(body, func(labels map[string]string, value float64, millis int64) {
		s.got++
		if strings.HasPrefix(labels["__name__"], "http_requests_") {
			s.by[labels["workload"]]++
			if labels["__name__"] == "http_requests_0_total" && labels["path"] == "/api/v1/items/0" {
				s.pages[labels["workload"]] = append(s.pages[labels["workload"]], millis)
			}
		}
		if labels["__name__"] == "up" && value == 0 {
			s.failed++
		}
	}); err != nil {
		s.wrong = err
	}
	w.WriteHeader(http.StatusNoContent)
}

// line takes "... wrote /export/TALKER-xxx NUMBER"; a container has others, too.
func (s *sink) line(message []byte) error {
	_, rest, found := strings.Cut(string(message), "wrote /export/")
	if !found {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.odd = append(s.odd, string(message))
		return nil
	}
	var talker, n int
	var path string
	if _, err := fmt.Sscanf(rest, "%d-%s %d", &talker, &path, &n); err != nil || talker >= talkers {
		return fmt.Errorf("read line %q: %w", message, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.heard++
	for ; s.next[talker] < n; s.next[talker]++ {
		s.missing[[2]int{talker, s.next[talker]}] = fmt.Sprintf("%s in front of %.200q", time.Now().Format(time.TimeOnly), message)
	}
	s.next[talker] = max(s.next[talker], n+1)
	delete(s.missing, [2]int{talker, n}) // by a connection that was read later
	return nil
}

func (s *sink) counts() (samples, lines int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.got, s.heard
}

// flowing says whether something of everything has arrived.
func (s *sink) flowing() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.by) < meters || slices.Min(s.next) == 1 {
		return fmt.Errorf("of %d workloads came samples, and the talkers are at line %v", len(s.by), s.next)
	}
	return s.wrong
}

// whole says whether no line and no page is missing, from before the receivers
// were away until now.
func (s *sink) whole() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.missing) > 0 {
		return fmt.Errorf("of %d lines are missing %v; no lines are %q", s.heard, s.missing, s.odd)
	}
	missing := 0
	for name, pages := range s.pages {
		if n := s.by[name]; n%*perPage != 0 {
			return fmt.Errorf("%d samples came of %s, which is not so many pages of %d", n, name, *perPage)
		}
		slices.Sort(pages)
		for i := range pages[1:] {
			missing += int((pages[i+1]-pages[i]+every/2)/every) - 1
		}
		if late := time.Since(time.UnixMilli(pages[len(pages)-1])); late > time.Minute {
			return fmt.Errorf("the newest page of %s is %s old", name, late)
		}
	}
	if missing > s.failed {
		return fmt.Errorf("%d pages are missing, %d were not read", missing, s.failed)
	}
	return s.wrong
}
