package scrape

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/project-flotta/flotta-agent/internal/metrics/series"
)

// Format is how a page is written.
type Format int

// The formats. Classic is version 0.0.4 of Prometheus's text format.
const (
	Classic Format = iota
	OpenMetrics
)

// Limits bounds what one page may hold. A limit of zero is the default.
type Limits struct {
	Bytes      int64 // of the page, uncompressed; 4 MiB
	Samples    int   // lines with a value; 20,000
	Labels     int   // of one series; 64
	LabelBytes int   // of one label's name, and of its value; 4,096
}

func (l Limits) orDefault() Limits {
	if l.Bytes <= 0 {
		l.Bytes = 4 << 20
	}
	if l.Samples <= 0 {
		l.Samples = 20_000
	}
	if l.Labels <= 0 {
		l.Labels = 64
	}
	if l.LabelBytes <= 0 {
		l.LabelBytes = 4096
	}
	return l
}

// Point is one line with a value. Labels are sorted by name, without duplicates
// and without empty ones.
type Point struct {
	Labels []series.Label // of the parser's, valid until the next point
	Value  float64
	Timed  bool  // the target said when
	Millis int64 // since 1970, UTC; 0 unless Timed
}

// Parse hands each point of a page to take, in order. It stops at the first
// error, that of take included, which names the line; what it took until then
// counts for nothing.
func Parse(page string, format Format, limits Limits, take func(Point) error) error {
	p := &parser{open: format == OpenMetrics, limits: limits.orDefault(), take: take}
	for p.number = 1; page != ""; p.number++ {
		var line string
		line, page, _ = strings.Cut(page, "\n")
		if p.ended {
			return fmt.Errorf("parse line %d: there is something behind # EOF", p.number)
		}
		if err := p.parse(line); err != nil {
			return fmt.Errorf("parse line %d: %w", p.number, err)
		}
	}
	if p.open && !p.ended {
		return fmt.Errorf("parse line %d: the page is cut off: # EOF is missing", p.number)
	}
	return nil
}

type parser struct {
	open   bool
	limits Limits
	take   func(Point) error
	number int  // of the line
	count  int  // of samples
	ended  bool // by # EOF
	labels []series.Label
	rest   string // of the line
}

func (p *parser) parse(line string) error {
	if p.open && strings.HasPrefix(line, "#") {
		return p.comment(line)
	}
	p.rest = line
	p.blanks()
	if !p.open && (p.rest == "" || p.rest[0] == '#') {
		return nil // what it says of types and meanings is not sent
	}
	if p.count++; p.count > p.limits.Samples {
		return fmt.Errorf("more than %d samples: name fewer in the target, or raise the limit", p.limits.Samples)
	}
	return p.sample()
}

// comment reads what OpenMetrics allows of comments.
func (p *parser) comment(line string) error {
	switch word, _, _ := strings.Cut(strings.TrimPrefix(line, "# "), " "); {
	case line == "# EOF":
		p.ended = true
		return nil
	case line == word: // it did not begin with "# "
	case word == "HELP", word == "TYPE", word == "UNIT":
		return nil
	}
	return fmt.Errorf("%.40q is none of # HELP, # TYPE, # UNIT and # EOF", line)
}

func (p *parser) sample() error {
	name := p.name(true)
	if name == "" {
		return p.unexpected("the name of a metric")
	}
	if len(name) > p.limits.LabelBytes {
		return fmt.Errorf("the name of a metric is longer than %d bytes", p.limits.LabelBytes)
	}
	p.labels = append(p.labels[:0], series.Label{Name: series.MetricName, Value: name})
	if !p.open {
		p.blanks()
	}
	if strings.HasPrefix(p.rest, "{") {
		if err := p.braces(true); err != nil {
			return err
		}
	}
	if err := p.settle(); err != nil {
		return err
	}
	point := Point{Labels: p.labels}
	word, err := p.word("a value")
	if err != nil {
		return err
	}
	if point.Value, err = number(word); err != nil {
		return fmt.Errorf("value %.40q is no number", word)
	}
	if err := p.time(&point); err != nil {
		return err
	}
	if err := p.exemplar(); err != nil {
		return err
	}
	if p.rest != "" {
		return p.unexpected("the end of the line")
	}
	return p.take(point)
}

// time reads the time of a sample, if there is one.
func (p *parser) time(point *Point) error {
	if p.open {
		if p.rest == "" || strings.HasPrefix(p.rest, " #") {
			return nil
		}
	} else if p.blanks(); p.rest == "" {
		return nil
	}
	word, err := p.word("a time")
	if err != nil {
		return err
	}
	point.Timed = true
	if point.Millis, err = p.millis(word); err != nil {
		return fmt.Errorf("time %.40q: %w", word, err)
	}
	if !p.open {
		p.blanks()
	}
	return nil
}

// millis reads a time: seconds with a fraction in OpenMetrics, else
// milliseconds.
func (p *parser) millis(word string) (int64, error) {
	if !p.open {
		v, err := strconv.ParseUint(word, 10, 63)
		if err != nil {
			return 0, errors.New("no number of milliseconds since 1970")
		}
		return int64(v), nil
	}
	seconds, err := number(word)
	if err != nil || math.Abs(seconds) > math.MaxInt64/1001 || math.IsNaN(seconds) {
		return 0, errors.New("no number of seconds")
	}
	return int64(seconds * 1000), nil
}

// exemplar reads over an exemplar, if there is one.
func (p *parser) exemplar() error {
	rest, found := strings.CutPrefix(p.rest, " # ")
	if !p.open || !found {
		return nil
	}
	p.rest = rest
	if !strings.HasPrefix(p.rest, "{") {
		return p.unexpected("the labels of an exemplar")
	}
	if err := p.braces(false); err != nil {
		return fmt.Errorf("exemplar: %w", err)
	}
	for _, what := range []string{"value", "time"} {
		if what == "time" && p.rest == "" {
			return nil
		}
		word, err := p.word("the " + what + " of an exemplar")
		if err != nil {
			return err
		}
		if _, err := number(word); err != nil {
			return fmt.Errorf("exemplar: %s %.40q is no number", what, word)
		}
	}
	return nil
}

// word reads what comes up to the next blank. In OpenMetrics one space is
// before it.
func (p *parser) word(what string) (string, error) {
	if !p.open {
		p.blanks()
	} else {
		rest, found := strings.CutPrefix(p.rest, " ")
		if !found {
			return "", p.unexpected("a space and " + what)
		}
		p.rest = rest
	}
	end := strings.IndexAny(p.rest, " \t")
	if end < 0 {
		end = len(p.rest)
	}
	if end == 0 {
		return "", p.unexpected(what)
	}
	word := p.rest[:end]
	p.rest = p.rest[end:]
	return word, nil
}

func (p *parser) blanks() {
	if !p.open {
		p.rest = strings.TrimLeft(p.rest, " \t")
	}
}

func (p *parser) unexpected(want string) error {
	if p.rest == "" {
		return fmt.Errorf("the line ends where %s is expected", want)
	}
	return fmt.Errorf("%.40q is where %s is expected", p.rest, want)
}

// number reads a number as these formats always had it: Go's later forms, with
// underscores or in hexadecimal, are none.
func number(word string) (float64, error) {
	if strings.ContainsAny(word, "_xXpP") {
		return 0, strconv.ErrSyntax
	}
	return strconv.ParseFloat(word, 64)
}
