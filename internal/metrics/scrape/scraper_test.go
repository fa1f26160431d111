package scrape_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/project-flotta/flotta-agent/internal/metrics/scrape"
	"github.com/project-flotta/flotta-agent/internal/metrics/series"
)

var noon = time.UnixMilli(1_700_000_000_000)

// target answers with what the test wants next.
type target struct {
	page scrape.Page
	err  error
}

func (t *target) read(context.Context) (scrape.Page, error) { return t.page, t.err }

func (t *target) says(text string) { t.page, t.err = scrape.Page{Text: text}, nil }

func newScraper(t *testing.T, cfg scrape.Config) *scrape.Scraper {
	t.Helper()
	s, err := scrape.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// show returns samples in order as text; those about the scrape's length are
// left out, and the time is that since noon.
func show(samples []series.Sample) []string {
	var out []string
	for _, s := range samples {
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
		if name == "scrape_duration_seconds" && value != "end" {
			continue
		}
		name = strings.NewReplacer("scrape_samples_scraped", "scraped", "scrape_samples_post_metric_relabeling", "kept", "scrape_duration_seconds", "took").Replace(name)
		out = append(out, fmt.Sprintf("%s{%s} %s @%d", name, strings.Join(labels, ","), value, s.Millis-noon.UnixMilli()))
	}
	slices.Sort(out)
	return out
}

func expect(t *testing.T, what string, samples []series.Sample, want ...string) {
	t.Helper()
	slices.Sort(want)
	if diff := cmp.Diff(want, show(samples)); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

func TestNewRefuses(t *testing.T) {
	t.Parallel()
	source := (&target{}).read
	for _, cfg := range []scrape.Config{
		{},
		{Source: source, Labels: []series.Label{{Name: "a-b", Value: "c"}}},
		{Source: source, Labels: []series.Label{{Name: "", Value: "c"}}},
		{Source: source, Labels: []series.Label{{Name: "__name__", Value: "c"}}},
		{Source: source, Labels: []series.Label{{Name: "a", Value: "b"}, {Name: "a", Value: "c"}}},
	} {
		if _, err := scrape.New(cfg); err == nil {
			t.Errorf("New(%+v) accepted it", cfg)
		}
	}
}

func TestLabels(t *testing.T) {
	t.Parallel()
	var from target
	s := newScraper(t, scrape.Config{Source: from.read, Labels: []series.Label{
		{Name: "workload", Value: "w"}, {Name: "container", Value: ""}, {Name: "edgedeviceid", Value: "d"},
	}})
	from.says("a 1\nb{workload=\"x\",z=\"1\",exported_edgedeviceid=\"y\",edgedeviceid=\"q\",container=\"c\"} 2\n")
	const own = "edgedeviceid=d,workload=w"
	expect(t, "labels", s.Scrape(t.Context(), noon).Samples,
		"a{"+own+"} 1 @0",
		"b{container=c,edgedeviceid=d,exported_edgedeviceid=y,exported_exported_edgedeviceid=q,exported_workload=x,workload=w,z=1} 2 @0",
		"up{"+own+"} 1 @0", "scraped{"+own+"} 2 @0", "kept{"+own+"} 2 @0",
	)
}

func TestAllow(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		allow scrape.Allow
		want  []string
	}{
		{nil, []string{"a{} 1 @0", "a_total{} 2 @0", "kept{} 2 @0"}},
		{scrape.AllowNames("a_total", "b"), []string{"a_total{} 2 @0", "kept{} 1 @0"}},
		{scrape.AllowNames(), []string{"kept{} 0 @0"}},
	} {
		var from target
		from.says("a 1\na_total 2\n")
		r := newScraper(t, scrape.Config{Source: from.read, Allow: c.allow}).Scrape(t.Context(), noon)
		expect(t, fmt.Sprint(c.allow), r.Samples, append(c.want, "up{} 1 @0", "scraped{} 2 @0")...)
	}
}

// TestEnds follows series through their lives.
func TestEnds(t *testing.T) {
	t.Parallel()
	var from target
	s := newScraper(t, scrape.Config{Source: from.read})
	at := noon
	next := func(want ...string) {
		t.Helper()
		r := s.Scrape(t.Context(), at)
		for i := range want {
			want[i] = fmt.Sprintf("%s @%d", want[i], at.Sub(noon).Milliseconds())
		}
		expect(t, at.Sub(noon).String(), r.Samples, want...)
		at = at.Add(time.Second)
	}
	from.says("a 1\nb{x=\"1\"} 2\nb{x=\"2\"} 3\n")
	next("a{} 1", "b{x=1} 2", "b{x=2} 3", "up{} 1", "scraped{} 3", "kept{} 3")
	from.says("b{x=\"2\"} 4\nc 5\n")
	next("a{} end", "b{x=1} end", "b{x=2} 4", "c{} 5", "up{} 1", "scraped{} 2", "kept{} 2")
	from.err = errors.New("nobody there")
	next("b{x=2} end", "c{} end", "up{} 0", "scraped{} 0", "kept{} 0")
	next("up{} 0", "scraped{} 0", "kept{} 0")
	// What a page held that was wrong in its last line was never given.
	from.says("a 1\nnew 1\n")
	next("a{} 1", "new{} 1", "up{} 1", "scraped{} 2", "kept{} 2")
	from.says("a 1\nnewer 1\n}\n")
	next("a{} end", "new{} end", "up{} 0", "scraped{} 0", "kept{} 0")
	from.says("a 1\n")
	next("a{} 1", "up{} 1", "scraped{} 1", "kept{} 1")
	expect(t, "the end of the target", s.End(at), "a{} end @7000", "up{} end @7000", "scraped{} end @7000", "kept{} end @7000", "took{} end @7000")
	expect(t, "a second end", s.End(at))
	next("a{} 1", "up{} 1", "scraped{} 1", "kept{} 1")
	expect(t, "an end at the time of the last sample", s.End(at.Add(-time.Second)), "a{} end @7001", "up{} end @7001", "scraped{} end @7001", "kept{} end @7001", "took{} end @7001")
}

func TestEndBeforeTheFirstScrape(t *testing.T) {
	t.Parallel()
	var from target
	expect(t, "nothing was read", newScraper(t, scrape.Config{Source: from.read}).End(noon))
}

// TestCalledOff neither says that the target is down nor ends anything, but a
// target that takes too long is down.
func TestCalledOff(t *testing.T) {
	t.Parallel()
	var from target
	s := newScraper(t, scrape.Config{Source: from.read})
	from.says("a 1\n")
	s.Scrape(t.Context(), noon)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	from.err = ctx.Err()
	if r := s.Scrape(ctx, noon.Add(time.Second)); r.Err == nil || len(r.Samples) > 0 {
		t.Errorf("called off: %v, %q", r.Err, show(r.Samples))
	}
	late, cancel := context.WithTimeout(t.Context(), 0)
	defer cancel()
	from.err = late.Err()
	expect(t, "too late", s.Scrape(late, noon.Add(time.Second)).Samples, "a{} end @1000", "up{} 0 @1000", "scraped{} 0 @1000", "kept{} 0 @1000")
}

// TestOwnTimes takes the times of the target, and never ends such a series: it
// says itself when it was.
func TestOwnTimes(t *testing.T) {
	t.Parallel()
	var from target
	s := newScraper(t, scrape.Config{Source: from.read})
	ms := noon.UnixMilli()
	from.says(fmt.Sprintf("a 1 %d\na 2 %d\nb 3 %d\nc 4 %d\n", ms-5000, ms-4000, ms+600_000, ms+600_001))
	expect(t, "times", s.Scrape(t.Context(), noon).Samples,
		"a{} 1 @-5000", "a{} 2 @-4000", "b{} 3 @600000", "up{} 1 @0", "scraped{} 4 @0", "kept{} 3 @0")
	from.says("d 1\n")
	expect(t, "gone", s.Scrape(t.Context(), noon).Samples, "d{} 1 @0", "up{} 1 @0", "scraped{} 1 @0", "kept{} 1 @0")
}

func TestDuplicates(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		"a 1\nb 1\na 1\n",
		"b 1\na{x=\"1\",y=\"2\"} 1\na{y=\"2\",x=\"1\"} 2\n",
		"b 1\na 1 5\na 1 5\n",
		"b 1\na 1\na 1 5\n",
		"b 1\na 1\na{x=\"\"} 1\n",
	} {
		var from target
		from.says(text)
		r := newScraper(t, scrape.Config{Source: from.read}).Scrape(t.Context(), noon)
		if r.Err == nil || !strings.Contains(r.Err.Error(), "line 3: a series of a is there twice") {
			t.Errorf("%q: %v", text, r.Err)
		}
	}
}

// TestReportIsOurs keeps a target from speaking about its own scrape.
func TestReportIsOurs(t *testing.T) {
	t.Parallel()
	var from target
	from.says("up 7\nup{job=\"x\"} 8\n")
	expect(t, "up", newScraper(t, scrape.Config{Source: from.read}).Scrape(t.Context(), noon).Samples,
		"up{job=x} 8 @0", "up{} 1 @0", "scraped{} 2 @0", "kept{} 1 @0")
}

// TestSteadyStateCostsLittle reads the same series again without making them
// again.
func TestSteadyStateCostsLittle(t *testing.T) {
	var from target
	var page strings.Builder
	for i := range 1000 {
		fmt.Fprintf(&page, "some_metric_total{number=\"%d\"} %d\n", i, i)
	}
	from.says(page.String())
	s := newScraper(t, scrape.Config{Source: from.read, Labels: []series.Label{{Name: "edgedeviceid", Value: "d"}}})
	s.Scrape(t.Context(), noon)
	if got := testing.AllocsPerRun(10, func() { s.Scrape(t.Context(), noon) }); got > 100 {
		t.Errorf("%.0f allocations for 1,000 known series", got)
	}
}

func BenchmarkScrape(b *testing.B) {
	var from target
	var page strings.Builder
	for i := range 1000 {
		fmt.Fprintf(&page, "some_metric_total{number=\"%d\",method=\"GET\",path=\"/a/b/c\"} %d\n", i, i)
	}
	from.says(page.String())
	s, err := scrape.New(scrape.Config{Source: from.read, Labels: []series.Label{{Name: "edgedeviceid", Value: "d"}}})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	b.SetBytes(int64(page.Len()))
	for b.Loop() {
		s.Scrape(b.Context(), noon)
	}
}

// A sample that a receiver would refuse takes all with it that is sent beside it.
func TestTimesThatDoNotRise(t *testing.T) {
	t.Parallel()
	at := func(d time.Duration) int64 { return noon.Add(d).UnixMilli() }
	page := &target{}
	s := newScraper(t, scrape.Config{Source: page.read})
	for i, step := range []struct {
		time int64
		want int
	}{{at(0), 1}, {at(0), 0}, {at(-time.Minute), 0}, {at(time.Second), 1}} {
		page.says(fmt.Sprintf("timed %d %d\nplain 1\n", i, step.time))
		r := s.Scrape(t.Context(), noon.Add(time.Duration(i)*time.Minute))
		timed, plain := 0, 0
		for _, sample := range r.Samples {
			switch sample.Labels[0].Value {
			case "timed":
				timed++
			case "plain":
				plain++
			}
		}
		if r.Err != nil || timed != step.want || plain != 1 {
			t.Errorf("step %d: %v, %d timed samples, want %d; %d others", i, r.Err, timed, step.want, plain)
		}
	}
}
