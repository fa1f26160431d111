//go:build bench

package observe_test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/project-flotta/flotta-agent/test/bench/receive"
)

// each is how many series a page has.
const each = 500

// number is the series whose value is the number of the page.
const number = "page_number"

// site is the pages that are read, and the receiver of what was on them.
type site struct {
	t    *testing.T
	port int
	away atomic.Bool // the receiver

	mu       sync.Mutex
	served   []int         // pages of each target
	got      map[key]*page // what arrived
	samples  int
	requests int
	bytes    int64
	failed   int       // reads that the contender says did not work
	first    time.Time // the first request since the receiver is back
	wrong    error
}

type key struct {
	target string
	millis int64
}

type page struct{ number, samples int }

func newSite(t *testing.T, targets int) *site {
	t.Helper()
	s := &site{t: t, served: make([]int, targets), got: map[key]*page{}}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /write", s.receive)
	for i := range targets {
		mux.HandleFunc(fmt.Sprintf("GET /%d", i), func(w http.ResponseWriter, _ *http.Request) { s.serve(w, i) })
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	s.port = l.Addr().(*net.TCPAddr).Port
	server := &http.Server{Handler: mux, ReadHeaderTimeout: time.Minute}
	go server.Serve(l) //nolint:errcheck // it is closed
	t.Cleanup(func() { _ = server.Close() })
	return s
}

// serve answers with the next page of a target: counters and gauges with the
// labels that a web service has.
func (s *site) serve(w http.ResponseWriter, target int) {
	s.mu.Lock()
	n := s.served[target] + 1
	s.mu.Unlock()
	text := fmt.Appendf(nil, "# TYPE %s gauge\n%[1]s{target=\"%d\"} %d\n", number, target, n)
	for i := range each - 1 {
		if i%10 == 0 {
			text = fmt.Appendf(text, "# HELP http_requests_%d_total How many requests there were.\n# TYPE http_requests_%[1]d_total counter\n", i/10)
		}
		text = fmt.Appendf(text, "http_requests_%d_total{code=\"200\",method=\"get\",path=\"/api/v1/items/%d\",target=\"%d\"} ", i/10, i%10, target)
		if i%5 == 0 {
			text = strconv.AppendFloat(text, float64(n*(i+7))/13, 'g', -1, 64)
		} else {
			text = strconv.AppendInt(text, int64(n*i*17), 10)
		}
		text = append(text, '\n')
	}
	w.Header().Set("Content-Type", "text/plain; version=0.0.4")
	if _, err := w.Write(text); err != nil {
		return
	}
	s.mu.Lock()
	s.served[target] = n
	s.mu.Unlock()
}

func (s *site) receive(w http.ResponseWriter, r *http.Request) {
	if s.away.Load() {
		http.Error(w, "away", http.StatusServiceUnavailable)
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.first.IsZero() {
		s.first = time.Now()
	}
	s.requests++
	s.bytes += int64(len(body))
	if err := receive.Samples(body, s.sample); err != nil {
		s.wrong = err
	}
	w.WriteHeader(http.StatusNoContent)
}

// sample is called with the lock held.
func (s *site) sample(labels map[string]string, value float64, millis int64) {
	s.samples++
	name, target := labels["__name__"], labels["target"]
	if name == "up" && value == 0 {
		s.failed++
	}
	if target == "" {
		return // of the reading, not of the page
	}
	k := key{target, millis}
	p := s.got[k]
	if p == nil {
		p = &page{}
		s.got[k] = p
	}
	p.samples++
	if name == number {
		p.number = int(value)
	}
}

// pagesServed is how many pages of each target were read so far.
func (s *site) pagesServed() []int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]int(nil), s.served...)
}

// readSince is how many samples were on the pages that were read since then.
func (s *site) readSince(then []int) (samples float64) {
	for i, n := range s.pagesServed() {
		samples += float64((n - then[i]) * each)
	}
	return samples
}

// lacks says how many of the pages up to these did not arrive as a whole.
func (s *site) lacks(upTo []int) (missing int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	must(s.t, s.wrong)
	have := make([]map[int]bool, len(upTo))
	for i := range have {
		have[i] = map[int]bool{}
	}
	for k, p := range s.got {
		if i, err := strconv.Atoi(k.target); err == nil && p.samples >= each {
			have[i][p.number] = true
		}
	}
	for i, last := range upTo {
		for n := 1; n <= last; n++ {
			if !have[i][n] {
				missing++
			}
		}
	}
	// What took longer than its time was not taken.
	return missing - s.failed
}

// tally is what arrived so far.
type tally struct {
	at       time.Time
	samples  int
	requests int
	bytes    int64
	first    time.Time
}

func (s *site) tally() tally {
	s.mu.Lock()
	defer s.mu.Unlock()
	must(s.t, s.wrong)
	return tally{time.Now(), s.samples, s.requests, s.bytes, s.first}
}

// leave has the receiver refuse everything, and back is the end of that.
func (s *site) leave() {
	s.mu.Lock()
	s.first = time.Time{}
	s.mu.Unlock()
	s.away.Store(true)
}

func (s *site) back() {
	s.mu.Lock()
	s.first = time.Time{}
	s.mu.Unlock()
	s.away.Store(false)
}
