package scrape

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/project-flotta/flotta-agent/internal/metrics/series"
)

// ahead is how far in the future a target's own time may be, as with
// Prometheus; what is beyond it is left out.
const ahead = 10 * time.Minute

// Source returns the page of a target.
type Source func(ctx context.Context) (Page, error)

// Config says what a target is. Source is required.
type Config struct {
	Source Source
	Limits Limits
	Allow  Allow
	// Labels are put on every series. A label of the target's with the same name
	// is called exported_… then.
	Labels []series.Label
}

// Scraper reads one target again and again and remembers which series it had.
// It is for one goroutine.
type Scraper struct {
	cfg   Config
	round uint64
	alive map[string]*entry // by key
	was   bool              // it reported before
	last  int64             // time of the newest report
	own   []series.Label

	key    []byte
	labels []series.Label
}

// entry is a series that the target had. Its labels are made once and are what
// all its samples refer to.
type entry struct {
	labels []series.Label
	round  uint64 // of the last page that held it
	given  bool   // samples of it were given away
	timed  bool
	millis int64
	dated  bool  // samples with a time of the target's were given away,
	newest int64 // and this is the last of these times
}

// Result is what one scrape gives.
type Result struct {
	// Samples are those of the target, those about the scrape itself, and the
	// markers of series that have ended. Their labels are shared with later
	// results and must not be changed.
	Samples []series.Sample
	Scraped int // what the page held
	Kept    int // of that, what was allowed
	Took    time.Duration
	Err     error // why there is nothing of the target; nil: it is up
}

// New returns the scraper of a target.
func New(cfg Config) (*Scraper, error) {
	if cfg.Source == nil {
		return nil, errors.New("scrape config: no source")
	}
	s := &Scraper{cfg: cfg, alive: map[string]*entry{}}
	for _, l := range cfg.Labels {
		switch {
		case !validLabel(l.Name) || l.Name == series.MetricName:
			return nil, fmt.Errorf("scrape config: %.40q is no name of a label", l.Name)
		case l.Value != "":
			s.own = append(s.own, l)
		}
	}
	sortLabels(s.own)
	for i := 1; i < len(s.own); i++ {
		if s.own[i].Name == s.own[i-1].Name {
			return nil, fmt.Errorf("scrape config: label %s is there twice", s.own[i].Name)
		}
	}
	return s, nil
}

func validLabel(name string) bool {
	for i := range len(name) {
		if !nameByte(name[i], i == 0) {
			return false
		}
	}
	return name != ""
}

// Scrape reads the target once. Samples without a time of their own are of now.
// A scrape that is called off, its context cancelled, gives nothing and leaves
// everything as it was; one that takes longer than its deadline has failed.
func (s *Scraper) Scrape(ctx context.Context, now time.Time) Result {
	began := time.Now()
	var r Result
	page, err := s.cfg.Source(ctx)
	if errors.Is(ctx.Err(), context.Canceled) {
		return Result{Err: ctx.Err()}
	}
	if err == nil {
		err = s.take(page, now, &r)
	}
	if r.Took = time.Since(began); err != nil {
		r.Err, r.Samples, r.Scraped, r.Kept = err, nil, 0, 0
	}
	s.bury(now, &r, err != nil)
	s.report(now, &r)
	return r
}

// End returns the markers of everything that the target had, for when it is one
// no more. The scraper may be used again.
func (s *Scraper) End(now time.Time) []series.Sample {
	var r Result
	if now.UnixMilli() <= s.last {
		now = time.UnixMilli(s.last + 1) // no series has two samples of one time
	}
	s.bury(now, &r, true)
	if s.was {
		for _, name := range reported {
			r.Samples = append(r.Samples, s.about(name, series.Stale(), now))
		}
		s.was = false
	}
	return r.Samples
}

// take reads a page into r. When it fails, nothing was given.
func (s *Scraper) take(page Page, now time.Time, r *Result) error {
	s.round++
	latest := now.Add(ahead).UnixMilli()
	return Parse(page.Text, page.Format, s.cfg.Limits, func(p Point) error {
		r.Scraped++
		if !s.cfg.Allow.keeps(metricName(p.Labels)) {
			return nil
		}
		e := s.entry(p.Labels)
		if s.isReport(e.labels) {
			return nil // it would say the same of another scrape
		}
		if e.round == s.round && (e.timed != p.Timed || e.millis == p.Millis) {
			return fmt.Errorf("a series of %.80s is there twice", metricName(p.Labels))
		}
		e.round, e.timed, e.millis = s.round, p.Timed, p.Millis
		if p.Timed && e.dated && p.Millis <= e.newest {
			// Receivers take none that is older than what they have of a series, and
			// refuse what comes with it.
			return nil
		}
		sample := series.Sample{Labels: e.labels, Value: p.Value, Millis: p.Millis}
		switch {
		case !p.Timed:
			sample.Millis = now.UnixMilli()
		case p.Millis > latest:
			return nil
		default:
			e.dated, e.newest = true, p.Millis
		}
		r.Kept++
		r.Samples = append(r.Samples, sample)
		return nil
	})
}

// bury forgets the series that are not in the newest page, or all of them, and
// adds the markers of their ends.
func (s *Scraper) bury(now time.Time, r *Result, all bool) {
	for key, e := range s.alive {
		if !all && e.round == s.round {
			e.given = true
			continue
		}
		if e.given && !e.timed {
			r.Samples = append(r.Samples, series.Sample{Labels: e.labels, Value: series.Stale(), Millis: now.UnixMilli()})
		}
		delete(s.alive, key)
	}
}

// reported is what is said of each scrape.
var reported = [...]string{"up", "scrape_duration_seconds", "scrape_samples_scraped", "scrape_samples_post_metric_relabeling"}

func (s *Scraper) report(now time.Time, r *Result) {
	s.was, s.last = true, now.UnixMilli()
	up := 1.0
	if r.Err != nil {
		up = 0
	}
	for i, value := range [...]float64{up, r.Took.Seconds(), float64(r.Scraped), float64(r.Kept)} {
		r.Samples = append(r.Samples, s.about(reported[i], value, now))
	}
}

// isReport reports whether a series of the target's looks like one of the scrape
// itself.
func (s *Scraper) isReport(labels []series.Label) bool {
	return len(labels) == len(s.own)+1 && slices.Contains(reported[:], metricName(labels))
}

// about returns a sample of the scrape itself.
func (s *Scraper) about(name string, value float64, now time.Time) series.Sample {
	labels := append([]series.Label{{Name: series.MetricName, Value: name}}, s.own...)
	sortLabels(labels)
	return series.Sample{Labels: labels, Value: value, Millis: now.UnixMilli()}
}
