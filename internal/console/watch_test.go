package console

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode"

	"github.com/google/go-cmp/cmp"
)

func picture(d Document, now time.Time, width, height int, color bool) string {
	var r rates
	d = printable(d)
	f := frame{document: d, now: now, totals: r.measure(d, now)}
	var b strings.Builder
	for _, l := range f.lines(width, height) {
		b.WriteString(strings.TrimRight(l.render(width, color), " ") + "\n")
	}
	return b.String()
}

func TestFrame(t *testing.T) {
	t.Parallel()
	d, now := syncing()
	d.Healthy = false
	d.Problems = []string{"x"}
	golden(t, "frame-120.txt", picture(d, now, 120, 40, false))
	golden(t, "frame-50.txt", picture(d, now, 50, 40, false))
	golden(t, "frame-low.txt", picture(d, now, 80, 5, false))
	golden(t, "frame-color.txt", strings.ReplaceAll(picture(d, now, 120, 40, true), "\x1b", "ESC"))
	golden(t, "frame-none.txt", picture(example(), now, 80, 24, false))
}

// However small the terminal is, nothing is larger than it.
func TestFrameFits(t *testing.T) {
	t.Parallel()
	d, now := syncing()
	for range 3 {
		d.DataSync = append(d.DataSync, d.DataSync...)
	}
	d.DataSync[0].Egress.InFlight = append(d.DataSync[0].Egress.InFlight, Transfer{Path: strings.Repeat("日本", 500), Size: -5, Done: 1 << 62, Rate: -1})
	for width := 1; width < 200; width += 19 {
		for _, height := range []int{1, 2, 3, 24} {
			text := strings.TrimSuffix(picture(d, now, width, height, false), "\n")
			lines := strings.Split(text, "\n")
			if len(lines) > height {
				t.Fatalf("%d lines in %d", len(lines), height)
			}
			for _, l := range lines {
				if cells(l) > width {
					t.Fatalf("a line of %d cells in %d: %q", cells(l), width, l)
				}
			}
		}
	}
}

// Busy workloads come first when not all can be seen.
func TestFrameShowsTheBusy(t *testing.T) {
	t.Parallel()
	d, now := syncing()
	quiet := DataSync{Workload: "a-quiet", Egress: &DataDirection{LastSuccess: now}}
	d.DataSync = append([]DataSync{quiet}, d.DataSync...)
	if low := picture(d, now, 80, 12, false); strings.Contains(low, "a-quiet") || !strings.Contains(low, "camera") {
		t.Errorf("the picture is\n%s", low)
	}
	if high := picture(d, now, 80, 50, false); strings.Index(high, "a-quiet") > strings.Index(high, "camera") {
		t.Errorf("the picture is\n%s", high)
	}
}

var sequence = regexp.MustCompile("\x1b\\[[?]?([0-9;]*)([A-Za-z])")

// terminal is as much of one as the view needs.
type terminal struct {
	t             *testing.T
	width, height int
	rows          [][]string // of its scroll-back and screen: cells
	row, col      int
	modes         map[string]bool
}

func newTerminal(t *testing.T, width, height int) *terminal {
	return &terminal{t: t, width: width, height: height, rows: make([][]string, 1), modes: map[string]bool{"25": true, "7": true}}
}

// top is the first row of the screen.
func (m *terminal) top() int { return max(len(m.rows)-m.height, 0) }

func (m *terminal) Write(p []byte) (int, error) {
	for text := string(p); text != ""; {
		if at := sequence.FindStringSubmatchIndex(text); at != nil && at[0] == 0 {
			m.control(text[:at[1]], text[at[2]:at[3]], text[at[4]:at[5]])
			text = text[at[1]:]
			continue
		}
		r := []rune(text)[0]
		text = strings.TrimPrefix(text, string(r))
		switch {
		case r == '\n':
			if m.row++; m.row == len(m.rows) {
				m.rows = append(m.rows, nil)
			}
		case r == '\r':
			m.col = 0
		case unicode.IsControl(r) || unicode.Is(unicode.Cf, r):
			m.t.Errorf("the terminal gets %q", r)
		default:
			m.put(r)
		}
	}
	return len(p), nil
}

func (m *terminal) put(r rune) {
	n := runeCells(r)
	if m.col+n > m.width {
		m.t.Errorf("line %q runs over", m.rows[m.row])
	}
	row := m.rows[m.row]
	for len(row) < m.col+max(n, 1) {
		row = append(row, " ")
	}
	if n == 0 {
		row[max(m.col-1, 0)] += string(r)
	} else {
		row[m.col] = string(r)
	}
	if n == 2 {
		row[m.col+1] = ""
	}
	m.col += n
	m.rows[m.row] = row
}

func (m *terminal) control(all, arg, what string) {
	switch what + arg {
	case "h25", "h7", "l25", "l7":
		m.modes[arg] = what == "h"
	case "K":
		m.rows[m.row] = m.rows[m.row][:min(m.col, len(m.rows[m.row]))]
	case "J":
		m.rows[m.row] = m.rows[m.row][:min(m.col, len(m.rows[m.row]))]
		m.rows = m.rows[:m.row+1]
	case "J2":
		for i := m.top(); i < len(m.rows); i++ {
			m.rows[i] = nil
		}
	case "H":
		m.row, m.col = m.top(), 0
	default:
		switch what {
		case "m":
		case "A":
			n, _ := strconv.Atoi(arg)
			if m.row -= n; m.row < m.top() {
				m.t.Errorf("the cursor goes beyond the top by %d", m.top()-m.row)
				m.row = m.top()
			}
		default:
			m.t.Errorf("the terminal gets %q", all)
		}
	}
}

func (m *terminal) screen() string {
	var b strings.Builder
	for _, row := range m.rows[m.top():] {
		b.WriteString(strings.TrimRight(strings.Join(row, ""), " ") + "\n")
	}
	return b.String()
}

func TestViewOnATerminal(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d, _ := syncing()
		m := newTerminal(t, 100, 24)
		step := 0
		ctx, cancel := context.WithCancel(t.Context())
		v := View{Every: time.Second, Out: m, Color: true, Size: func() (int, int) { return m.width, m.height }}
		var at []string // after each step
		v.Fetch = func(context.Context) (Document, error) {
			if step++; step > 1 {
				at = append(at, m.screen())
			}
			switch step {
			case 3: // fewer lines than before
				d.DataSync = d.DataSync[:1]
			case 4:
				return Document{}, errors.New("the agent \x1b[2Jis gone")
			case 5:
				m.width, m.height = 95, 12
			case 7:
				cancel()
			}
			return d, nil
		}
		if err := v.Run(ctx); err != nil {
			t.Error(err)
		}
		if !m.modes["25"] || !m.modes["7"] {
			t.Errorf("the terminal is left with %v", m.modes)
		}
		for i, want := range map[int][]string{0: {"meter"}, 3: {"the agent \uFFFD[2Jis gone", "camera"}, 5: {"camera", "last ok"}} {
			for _, w := range want {
				if !strings.Contains(at[i], w) {
					t.Errorf("picture %d lacks %q:\n%s", i, w, at[i])
				}
			}
		}
		for i := 2; i < 6; i++ {
			if strings.Contains(at[i], "meter") || strings.Count(at[i], "camera") != 1 {
				t.Errorf("picture %d shows what is gone:\n%s", i, at[i])
			}
		}
		if strings.Contains(at[4], "is gone") {
			t.Errorf("trouble that is over is shown:\n%s", at[4])
		}
	})
}

func TestViewWithoutATerminal(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d, _ := syncing()
		var b bytes.Buffer
		step := 0
		ctx, cancel := context.WithCancel(t.Context())
		v := View{Every: time.Second, Out: &b, Color: true}
		v.Fetch = func(context.Context) (Document, error) {
			step++
			switch step {
			case 3:
				d.DataSync[0].Egress.Files++
				d.DataSync[1].Egress.LastError = "evil\x1b[2J\nline"
			case 4:
				return Document{}, errors.New("nobody there")
			case 6:
				cancel()
			}
			return d, nil
		}
		if err := v.Run(ctx); err != nil {
			t.Error(err)
		}
		golden(t, "changes.txt", b.String())
	})
}

func TestViewWithoutAnAgent(t *testing.T) {
	t.Parallel()
	nobody := errors.New("nobody there")
	var b bytes.Buffer
	v := View{Every: time.Second, Out: &b, Size: func() (int, int) { return 80, 24 }, Fetch: func(context.Context) (Document, error) { return Document{}, nobody }}
	if err := v.Run(t.Context()); !errors.Is(err, nobody) || b.Len() > 0 {
		t.Errorf("%v, %q", err, b.String())
	}
}

// Whatever is in the document, the terminal gets nothing but text and the
// sequences of the view.
func TestViewIsSafe(t *testing.T) {
	t.Parallel()
	const hostile = "\x1b[2J\x1b]0;owned\x07\u009b31m\u202eevil\r\nname\t日本\x00\xff\x7f"
	var d Document
	poison(reflect.ValueOf(&d).Elem(), hostile)
	poisonDirections(d.DataSync, hostile)
	m := newTerminal(t, 90, 50)
	s := screen{view: View{Out: m, Color: true, Size: func() (int, int) { return 90, 50 }}}
	for range 3 {
		if err := s.show(d, hostile, time.Now()); err != nil {
			t.Fatal(err)
		}
	}
	if !strings.Contains(m.screen(), "evil") {
		t.Errorf("the screen is\n%s", m.screen())
	}
	var b bytes.Buffer
	log := changes{out: &b, told: map[string]string{}}
	if err := log.show(d, hostile, time.Now()); err != nil {
		t.Fatal(err)
	}
	for _, r := range b.String() {
		if r != '\n' && (unicode.IsControl(r) || unicode.Is(unicode.Cf, r)) {
			t.Fatalf("the log holds %q", r)
		}
	}
}

func poisonDirections(all []DataSync, text string) {
	for i := range all {
		for _, d := range []**DataDirection{&all[i].Egress, &all[i].Ingress} {
			*d = &DataDirection{}
			poison(reflect.ValueOf(*d).Elem(), text)
		}
	}
}

func TestRatesAreSmooth(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	doc := func(files, done int64) Document {
		return Document{DataSync: []DataSync{{Workload: "w", Egress: &DataDirection{
			Bytes: files, InFlight: []Transfer{{Path: "p", Size: 1 << 40, Done: done, Rate: 1000}},
		}}}}
	}
	var r rates
	key := rateKey{workload: "w", direction: "egress"}
	if got := r.measure(doc(0, 0), now)[key]; got != 1000 {
		t.Errorf("at first %v", got)
	}
	var got float64
	done := int64(0)
	for i := range 60 { // 2000 a second, in jumps
		now = now.Add(time.Second)
		done += int64(i%2) * 4000
		before := got
		got = r.measure(doc(0, done), now)[key]
		if i > 30 && (got < 1500 || got > 2500 || before == got) {
			t.Errorf("after %d seconds %v", i, got)
		}
	}
	// A transfer that ends moves to the files, and the total goes on.
	now = now.Add(time.Second)
	end := Document{DataSync: []DataSync{{Workload: "w", Egress: &DataDirection{Bytes: done + 2000}}}}
	if got := r.measure(end, now)[key]; got < 1500 || got > 2500 {
		t.Errorf("when it ended %v", got)
	}
	// What is taken back is no speed, and what is forgotten begins anew.
	now = now.Add(time.Second)
	if got := r.measure(doc(0, 0), now)[key]; got < 0 || got > 2500 {
		t.Errorf("taken back %v", got)
	}
	r.measure(Document{}, now)
	if len(r.next) != 0 {
		t.Errorf("remembered: %v", r.next)
	}
}

func TestProgress(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		done, all int64
		want      string
	}{
		{0, 100, "[>         ]   0%"},
		{50, 100, "[=====>    ]  50%"},
		{100, 100, "[==========] 100%"},
		{200, 100, "[==========] 100%"},
		{-5, 100, "[>         ]   0%"},
		{0, 0, "[==========] 100%"},
		{5, -1, "[==========] 100%"},
	} {
		if got := progress(tt.done, tt.all, 12) + fmt.Sprintf(" %4s", percent(tt.done, tt.all)); got != tt.want {
			t.Errorf("%d of %d: %s, want %s", tt.done, tt.all, got, tt.want)
		}
	}
	for want, transfer := range map[string]Transfer{
		"10s": {Size: 110, Done: 10, Rate: 10}, "": {Size: 10}, "99d0h": {Size: 1 << 62, Rate: 1}, "0s": {Size: 1, Done: 1, Rate: 5},
	} {
		if got := remaining(transfer); got != want {
			t.Errorf("%+v takes %q, want %q", transfer, got, want)
		}
	}
	if diff := cmp.Diff("", speed(0.5)); diff != "" {
		t.Error(diff)
	}
}
