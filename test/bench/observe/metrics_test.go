//go:build bench

package observe_test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/project-flotta/flotta-agent/test/testenv"
)

var (
	rounds   = flag.Int("observe.rounds", 2, "rounds of each comparison, turn by turn")
	targets  = flag.Int("observe.targets", 20, "pages of 500 series each")
	interval = flag.Int("observe.interval", 2, "seconds between two reads of a page")
	steady   = flag.Duration("observe.steady", 20*time.Second, "how long everything goes well")
	outage   = flag.Duration("observe.outage", 30*time.Second, "how long the receiver is away")
	paced    = flag.Duration("observe.paced", 10*time.Second, "how long the agent catches up at its own pace")
)

// TestMetrics reads the same pages and sends them to the same receiver, by the
// agent and by Prometheus in agent mode, turn by turn: first all is well, then the
// receiver is away, then it takes what waits.
func TestMetrics(t *testing.T) {
	ourEngine := engine(t)
	var figures report
	for range *rounds {
		for _, who := range []string{ours, "Prometheus agent"} {
			t.Run(strings.ReplaceAll(who, " ", "-"), func(t *testing.T) {
				s := newSite(t, *targets)
				dir := t.TempDir()
				if who == ours {
					journey(t, s, &figures, start(t, who, dir, ourEngine, "-dir", dir, "-receiver", fmt.Sprintf("http://127.0.0.1:%d/write", s.port),
						"-port", strconv.Itoa(s.port), "-targets", strconv.Itoa(*targets), "-interval", strconv.Itoa(*interval)))
				} else {
					journey(t, s, &figures, startPrometheus(t, s, who, dir))
				}
			})
		}
	}
	figures.print(t)
}

func startPrometheus(t *testing.T, s *site, name, dir string) *program {
	t.Helper()
	var config strings.Builder
	fmt.Fprintf(&config, "global: {scrape_interval: %ds, scrape_timeout: %[1]ds}\nremote_write: [{url: \"http://127.0.0.1:%d/write\"}]\nscrape_configs:\n- job_name: workload\n  static_configs:\n",
		*interval, s.port)
	for i := range *targets {
		// The labels that the agent gives, too.
		fmt.Fprintf(&config, "  - {targets: [\"127.0.0.1:%d\"], labels: {__metrics_path__: \"/%d\", edgedeviceid: device-1, workload: w%[2]d, container: app}}\n", s.port, i)
	}
	path := filepath.Join(t.TempDir(), "prometheus.yml")
	must(t, os.WriteFile(path, []byte(config.String()), 0o600))
	port, err := testenv.FreePort("127.0.0.1")
	must(t, err)
	return start(t, name, dir, "prometheus", "--enable-feature=agent", "--config.file="+path, "--storage.agent.path="+dir,
		fmt.Sprintf("--web.listen-address=127.0.0.1:%d", port))
}

// journey is what one contender goes through.
func journey(t *testing.T, s *site, figures *report, p *program) {
	t.Helper()
	arrived := func(what string, pages []int) {
		t.Helper()
		eventually(t, what, func() bool { return s.lacks(pages) <= 0 })
	}
	eventually(t, "every target was read", func() bool {
		return !slices.Contains(s.pagesServed(), 0)
	})
	arrived("the first pages arrive", s.pagesServed())

	add := figures.of(t, p.Name, "all is well")
	p.calm()
	before, had, pages := p.now(), s.tally(), s.pagesServed()
	time.Sleep(*steady)
	after, has, read := p.now(), s.tally(), s.readSince(pages)
	arrivedSamples := float64(has.samples - had.samples)
	written := float64(after.written - before.written)
	add("samples read a second", count, read/after.at.Sub(before.at).Seconds())
	add("processor time for a million samples", seconds, (after.cpu-before.cpu).Seconds()/read*1e6)
	add("resident memory", megabytes, float64(after.resident))
	add("resident memory, at most", megabytes, float64(after.peak))
	add("bytes written to the disk for a sample", factor, written/read)
	add("bytes over the line for a sample", factor, float64(has.bytes-had.bytes)/arrivedSamples)
	add("written to the disk for a byte over the line", factor, written/read/float64(has.bytes-had.bytes)*arrivedSamples)
	add("samples in a request", count, arrivedSamples/float64(has.requests-had.requests))

	add = figures.of(t, p.Name, "receiver away")
	p.calm()
	s.leave()
	began, pages := p.now(), s.pagesServed()
	time.Sleep(*outage)
	ended, kept := p.now(), s.readSince(pages)
	add("samples kept a second", count, kept/ended.at.Sub(began.at).Seconds())
	add("resident memory, at most", megabytes, float64(ended.peak))
	add("processor time for a million samples", seconds, (ended.cpu-began.cpu).Seconds()/kept*1e6)
	add("bytes written to the disk for a sample", factor, float64(ended.written-began.written)/kept)
	add("growth of the files, in bytes for a sample", factor, float64(ended.kept-began.kept)/kept)

	catchUp(t, s, p, figures.of(t, p.Name, "receiver back"), arrived)
}

// catchUp has the receiver take what waits.
func catchUp(t *testing.T, s *site, p *program, add addFunc, arrived func(string, []int)) {
	t.Helper()
	p.calm()
	mended := time.Now()
	had := s.tally()
	s.back()
	eventually(t, "the receiver is asked again", func() bool { return !s.tally().first.IsZero() })
	add("until it is asked again", seconds, s.tally().first.Sub(mended).Seconds())
	began, from := p.now(), s.tally()
	from.samples, from.at = had.samples, s.tally().first
	if p.Name == ours {
		time.Sleep(*paced)
		now := s.tally()
		add("samples a second, at its own pace", count, float64(now.samples-from.samples)/now.at.Sub(from.at).Seconds())
		began, from = p.now(), s.tally()
		_, err := p.in.Write([]byte("flush\n"))
		must(t, err)
	}
	arrived("all that waited arrives", s.pagesServed())
	ended, has := p.now(), s.tally()
	samples := float64(has.samples - from.samples)
	add("samples a second, without pauses", count, samples/has.at.Sub(from.at).Seconds())
	add("  of so many samples", count, samples)
	add("processor time for a million samples", seconds, (ended.cpu-began.cpu).Seconds()/samples*1e6)
	add("resident memory, at most", megabytes, float64(ended.peak))
	add("samples twice, of all", count, float64(s.twice()))
}

// twice is how many samples came more than once.
func (s *site) twice() (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.got {
		n += max(0, p.samples-each)
	}
	return n
}
