package scrape_test

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/project-flotta/flotta-agent/internal/metrics/scrape"
	"github.com/project-flotta/flotta-agent/internal/metrics/series"
)

// parse returns the points of a page as text, one each.
func parse(page string, format scrape.Format, limits scrape.Limits) ([]string, error) {
	var points []string
	err := scrape.Parse(page, format, limits, func(p scrape.Point) error {
		var b strings.Builder
		for _, l := range p.Labels {
			fmt.Fprintf(&b, "%s=%q ", l.Name, l.Value)
		}
		fmt.Fprint(&b, p.Value)
		if p.Timed {
			fmt.Fprint(&b, " @", p.Millis)
		}
		points = append(points, b.String())
		return nil
	})
	return points, err
}

func TestParse(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		format scrape.Format
		page   string
		want   []string
	}{
		{scrape.Classic, "", nil},
		{scrape.Classic, "# HELP a x\n\n#\n  \t\na 1", []string{`__name__="a" 1`}},
		{scrape.Classic, "a { z = \"1\" , b=\"2\", }\t-1.5e3  1700000000123\nA:b{}+Inf", []string{
			`__name__="a" b="2" z="1" -1500 @1700000000123`, `__name__="A:b" +Inf`,
		}},
		{scrape.Classic, `a{A="1",b="\"\\\n\x",c=""} NaN`, []string{`A="1" __name__="a" b="\"\\\n\\x" NaN`}},
		{scrape.Classic, "h_bucket{le=\"1\"} 1\nh_sum 2\nh_count 3\n", []string{`__name__="h_bucket" le="1" 1`, `__name__="h_sum" 2`, `__name__="h_count" 3`}},
		{scrape.OpenMetrics, "# EOF", nil},
		{
			scrape.OpenMetrics, "# TYPE a counter\n# HELP a b\n# UNIT a s\na_total{x=\"y\"} 1 1700000000.5 # {t=\"1\"} 2 3\na_created 4\n# EOF\n",
			[]string{`__name__="a_total" x="y" 1 @1700000000500`, `__name__="a_created" 4`},
		},
	} {
		got, err := parse(c.page, c.format, scrape.Limits{})
		if err != nil {
			t.Errorf("%q: %v", c.page, err)
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%q (-want +got):\n%s", c.page, diff)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	t.Parallel()
	limits := scrape.Limits{Samples: 3, Labels: 3, LabelBytes: 10}
	for _, c := range []struct {
		format scrape.Format
		page   string
		want   string
	}{
		{scrape.Classic, "a 1\nb\n", "line 2: the line ends where a value is expected"},
		{scrape.Classic, "a 1\nb x\n", `line 2: value "x" is no number`},
		{scrape.Classic, "\n\n1a 1", `line 3: "1a 1" is where the name of a metric is expected`},
		{scrape.Classic, "a 0x1p3", "no number"},
		{scrape.Classic, "a 1_000", "no number"},
		{scrape.Classic, "a 1 -5", "no number of milliseconds"},
		{scrape.Classic, "a 1 1 1", `"1" is where the end of the line is expected`},
		{scrape.Classic, "a{b=\"c\" d=\"e\"} 1", "a comma or a closing brace"},
		{scrape.Classic, "a{b=\"c} 1\nd 1", "line 1: label b: the closing quote is missing"},
		{scrape.Classic, "a{b=\"c\\", "closing quote"},
		{scrape.Classic, "a{b=\"\xff\"} 1", "not UTF-8"},
		{scrape.Classic, "a{b=\"1\",b=\"2\"} 1", "label b is there twice"},
		{scrape.Classic, "a{b=\"\",b=\"2\"} 1", "label b is there twice"},
		{scrape.Classic, "a{__name__=\"b\"} 1", "label __name__ is there twice"},
		{scrape.Classic, "{\"a b\"} 1", "the name of a metric"},
		{scrape.Classic, "<!DOCTYPE html>", "line 1"},
		{scrape.Classic, "a 1\nb 1\nc 1\nd 1\n", "line 4: more than 3 samples"},
		{scrape.Classic, "a{b=\"1\",c=\"2\",d=\"3\"} 1", "more than 3 labels"},
		{scrape.Classic, "a{b=\"12345678901\"} 1", "label b is longer than 10 bytes"},
		{scrape.Classic, "a{b2345678901=\"1\"} 1", "is longer than 10 bytes"},
		{scrape.Classic, "a2345678901 1", "longer than 10 bytes"},
		{scrape.OpenMetrics, "", "# EOF is missing"},
		{scrape.OpenMetrics, "a 1\n", "line 2: the page is cut off"},
		{scrape.OpenMetrics, "# EOF\na 1\n", "line 2: there is something behind # EOF"},
		{scrape.OpenMetrics, "\n# EOF\n", "line 1: the line ends where the name of a metric"},
		{scrape.OpenMetrics, "a  1\n# EOF\n", "a value"},
		{scrape.OpenMetrics, "a 1 \n# EOF\n", "a time"},
		{scrape.OpenMetrics, "a 1 NaN\n# EOF\n", "no number of seconds"},
		{scrape.OpenMetrics, "a 1 # x\n# EOF\n", "the labels of an exemplar"},
		{scrape.OpenMetrics, "a 1 # {} x\n# EOF\n", `exemplar: value "x"`},
		{scrape.OpenMetrics, "# NOTE a\n# EOF\n", "is none of # HELP"},
		{scrape.OpenMetrics, "#EOF\n", "is none of # HELP"},
	} {
		got, err := parse(c.page, c.format, limits)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: %q, %v, want an error with %q", c.page, got, err, c.want)
		}
	}
}

// FuzzParse makes sure that whatever is taken is fit to be sent.
func FuzzParse(f *testing.F) {
	for _, page := range classicPages {
		f.Add(page, false)
	}
	for _, page := range openPages {
		f.Add(page, true)
	}
	limits := scrape.Limits{Samples: 20, Labels: 8, LabelBytes: 64}
	f.Fuzz(func(t *testing.T, page string, open bool) {
		format, count := scrape.Classic, 0
		if open {
			format = scrape.OpenMetrics
		}
		err := scrape.Parse(page, format, limits, func(p scrape.Point) error {
			count++
			checkLabels(t, p.Labels, limits)
			if !p.Timed && p.Millis != 0 {
				t.Errorf("%q: time %d of none", page, p.Millis)
			}
			if series.IsStale(p.Value) {
				t.Errorf("%q: a target ended a series", page)
			}
			return nil
		})
		if count > limits.Samples {
			t.Errorf("%d samples", count)
		}
		if err != nil && !strings.HasPrefix(err.Error(), "parse line ") {
			t.Errorf("%q: %v names no line", page, err)
		}
	})
}

func checkLabels(t *testing.T, labels []series.Label, limits scrape.Limits) {
	t.Helper()
	if !slices.IsSortedFunc(labels, func(a, b series.Label) int { return strings.Compare(a.Name, b.Name) }) || len(labels) > limits.Labels {
		t.Errorf("labels %q", labels)
	}
	named := false
	for i, l := range labels {
		named = named || l.Name == series.MetricName
		if l.Name == "" || l.Value == "" || len(l.Name) > limits.LabelBytes || len(l.Value) > limits.LabelBytes || !utf8.ValidString(l.Name+l.Value) {
			t.Errorf("label %q", l)
		}
		if i > 0 && labels[i-1].Name == l.Name {
			t.Errorf("label %q is there twice", l.Name)
		}
	}
	if !named {
		t.Errorf("labels %q name no metric", labels)
	}
}

func TestNumbersAreExact(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]float64{
		"0.1": 0.1, "-0": math.Copysign(0, -1), "1e-320": 1e-320, "9007199254740993": 9007199254740993, "Inf": math.Inf(1),
	} {
		err := scrape.Parse("a "+text, scrape.Classic, scrape.Limits{}, func(p scrape.Point) error {
			if math.Float64bits(p.Value) != math.Float64bits(want) {
				t.Errorf("%s: %v", text, p.Value)
			}
			return nil
		})
		if err != nil {
			t.Errorf("%s: %v", text, err)
		}
	}
}
