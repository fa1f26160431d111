package datasync

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Rate bounds the bandwidth of each direction in bytes per second, all
// transfers together; zero: no bound, or in a Window: as outside of it.
type Rate struct{ Upload, Download int64 }

// Unlimited is the rate that bounds nothing, also in a Window.
const Unlimited int64 = -1

// minRate keeps a piece of a file from taking so long that the store gives up.
const minRate = 4 << 10

// Timetable says which rate holds when, by the device's wall clock.
type Timetable struct {
	Windows   []Window // the first that holds counts
	Otherwise Rate     // when none does
}

// Window is a part of the week that has rates of its own.
type Window struct {
	When Period
	Rate Rate
	// Pause keeps the engine from moving files by itself. What it is asked for
	// is done nevertheless, at the rate of Timetable.Otherwise.
	Pause bool
}

// Period is a part of every day or of some days of the week. The zero Period is
// never. ParseWindow makes one.
type Period struct {
	days     uint8 // a bit for each time.Weekday on which it begins
	from, to int   // minutes of the day; to <= from: it ends on the next day
}

const dayMinutes = 24 * 60

// holds reports whether the period is on at the wall clock time t.
func (p Period) holds(t time.Time) bool {
	minute := t.Hour()*60 + t.Minute()
	today := p.days&(1<<t.Weekday()) != 0
	if p.from < p.to {
		return today && minute >= p.from && minute < p.to
	}
	yesterday := p.days&(1<<((t.Weekday()+6)%7)) != 0
	return today && minute >= p.from || yesterday && minute < p.to
}

// String writes the period as ParseWindow reads it.
func (p Period) String() string {
	var days []string
	for i := range weekdays {
		if p.days&(1<<i) != 0 {
			days = append(days, weekdays[i])
		}
	}
	clock := fmt.Sprintf("%02d:%02d-%02d:%02d", p.from/60, p.from%60, p.to/60, p.to%60)
	switch {
	case len(days) == len(weekdays):
		return clock
	case p.from == 0 && p.to == dayMinutes:
		return strings.Join(days, ",")
	}
	return strings.Join(days, ",") + " " + clock
}

// UnmarshalText is ParseWindow.
func (p *Period) UnmarshalText(text []byte) (err error) {
	*p, err = ParseWindow(string(text))
	return err
}

// ruling is what a timetable says of one moment.
type ruling struct {
	rate   Rate // what holds; never zero in the sense of "as outside"
	paused bool
}

// at rules about the wall clock time t.
func (tt Timetable) at(t time.Time) ruling {
	for _, w := range tt.Windows {
		switch {
		case !w.When.holds(t):
		case w.Pause:
			return ruling{rate: tt.Otherwise, paused: true}
		default:
			return ruling{rate: Rate{
				Upload:   cmp.Or(w.Rate.Upload, tt.Otherwise.Upload),
				Download: cmp.Or(w.Rate.Download, tt.Otherwise.Download),
			}}
		}
	}
	return ruling{rate: tt.Otherwise}
}

// resumes returns when a pause at t ends; zero: not within a week.
func (tt Timetable) resumes(t time.Time) time.Time {
	boundaries := []int{0}
	for _, w := range tt.Windows {
		boundaries = append(boundaries, w.When.from, w.When.to%dayMinutes)
	}
	slices.Sort(boundaries)
	year, month, day := t.Date()
	for ahead := range 9 {
		for _, minute := range boundaries {
			next := time.Date(year, month, day+ahead, 0, minute, 0, 0, t.Location())
			if next.After(t) && !tt.at(next).paused {
				return next
			}
		}
	}
	return time.Time{}
}

// why says until when a pause at t lasts, for a person.
func (tt Timetable) why(t time.Time) string {
	switch until := tt.resumes(t); {
	case until.IsZero():
		return "paused until the settings change"
	case until.YearDay() == t.YearDay() && until.Year() == t.Year():
		return "paused until " + until.Format("15:04")
	default:
		return "paused until " + until.Format("Mon 15:04")
	}
}

// validate names the first thing in the timetable that makes no sense.
func (tt Timetable) validate() error {
	if err := tt.Otherwise.validate(); err != nil {
		return fmt.Errorf("rates: %w", err)
	}
	for i, w := range tt.Windows {
		if w.When.days == 0 {
			return fmt.Errorf("window %d: it is never", i+1)
		}
		if w.Pause && w.Rate != (Rate{}) {
			return fmt.Errorf("window %d (%s): it has a rate and is a pause; take one of the two", i+1, w.When)
		}
		if err := w.Rate.validate(); err != nil {
			return fmt.Errorf("window %d (%s): %w", i+1, w.When, err)
		}
	}
	return nil
}

func (r Rate) validate() error {
	for _, bytes := range []int64{r.Upload, r.Download} {
		if bytes != 0 && bytes != Unlimited && bytes < minRate {
			return fmt.Errorf("%d bytes per second are less than 4KiB/s", bytes)
		}
	}
	return nil
}

var errWindowExample = errors.New(`write it like "Mon-Fri 08:00-18:00", "Sat,Sun" or "22:00-06:00"`)

// ParseWindow reads days and times of day, either of which may be left out:
// "Mon-Fri 08:00-18:00", "Sat,Sun", "22:00-06:00". Times that run over midnight
// belong to the day on which they begin; the end may be 24:00.
func ParseWindow(text string) (Period, error) {
	p := Period{days: 1<<len(weekdays) - 1, to: dayMinutes}
	fields := strings.Fields(text)
	fail := func(what string) (Period, error) {
		return Period{}, fmt.Errorf("window %q: %s: %w", clip(text), what, errWindowExample)
	}
	if len(fields) == 0 {
		return fail("it is empty")
	}
	if len(fields) > 2 {
		return fail("it has more than days and times")
	}
	if first := fields[0]; first[0] < '0' || first[0] > '9' {
		var problem string
		if p.days, problem = parseDays(first); problem != "" {
			return fail(problem)
		}
		fields = fields[1:]
	}
	if len(fields) == 0 {
		return p, nil
	}
	if len(fields) > 1 {
		return fail("the days come before the times")
	}
	from, to, ok := strings.Cut(fields[0], "-")
	if !ok {
		return fail("a time to begin or to end is missing")
	}
	var okFrom, okTo bool
	p.from, okFrom = parseClock(from)
	p.to, okTo = parseClock(to)
	switch {
	case !okFrom || p.from == dayMinutes:
		return fail(fmt.Sprintf("%q is no time to begin", clip(from)))
	case !okTo:
		return fail(fmt.Sprintf("%q is no time to end", clip(to)))
	case p.from == p.to:
		return fail("it begins and ends at the same time; leave the times out for whole days")
	}
	return p, nil
}

// weekdays are in the order of time.Weekday.
var weekdays = [7]string{"Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"}

// parseDays reads days and ranges of days with commas between them, and says
// what is wrong with them.
func parseDays(text string) (days uint8, problem string) {
	for part := range strings.SplitSeq(text, ",") {
		first, last, isRange := strings.Cut(part, "-")
		if !isRange {
			last = first
		}
		from, to := parseDay(first), parseDay(last)
		if from < 0 || to < 0 {
			return 0, fmt.Sprintf("%q is neither a day nor a range of days", clip(part))
		}
		for day := from; ; day = (day + 1) % len(weekdays) {
			days |= 1 << day
			if day == to {
				break
			}
		}
	}
	return days, ""
}

func parseDay(text string) int {
	return slices.IndexFunc(weekdays[:], func(day string) bool { return strings.EqualFold(day, text) })
}

// parseClock reads a time of day such as 08:30 or 24:00.
func parseClock(text string) (minute int, ok bool) {
	if text == "24:00" {
		return dayMinutes, true
	}
	t, err := time.Parse("15:04", text)
	return t.Hour()*60 + t.Minute(), err == nil
}

// rateUnits are bytes per second, the longer names first.
var rateUnits = []struct {
	name  string
	bytes float64
}{
	{"kibit/s", 1 << 10 / 8.},
	{"mibit/s", 1 << 20 / 8.},
	{"gibit/s", 1 << 30 / 8.},
	{"kbit/s", 1e3 / 8},
	{"mbit/s", 1e6 / 8},
	{"gbit/s", 1e9 / 8},
	{"bit/s", 1. / 8},
	{"kib/s", 1 << 10},
	{"mib/s", 1 << 20},
	{"gib/s", 1 << 30},
	{"kb/s", 1e3},
	{"mb/s", 1e6},
	{"gb/s", 1e9},
	{"b/s", 1},
}

var errRateExample = errors.New(`write it like "512KiB/s", "1MB/s", "10Mbit/s" or "unlimited"`)

// ParseRate reads a bandwidth in bytes or bits per second, such as "512KiB/s",
// "1.5 MB/s" or "10Mbit/s", and returns bytes per second; "unlimited" gives
// Unlimited.
func ParseRate(text string) (int64, error) {
	fail := func(what string) (int64, error) {
		return 0, fmt.Errorf("rate %q: %s: %w", clip(text), what, errRateExample)
	}
	trimmed := strings.TrimSpace(text)
	lower := strings.ToLower(trimmed)
	if lower == "unlimited" {
		return Unlimited, nil
	}
	for _, unit := range rateUnits {
		number, ok := strings.CutSuffix(lower, unit.name)
		if !ok {
			continue
		}
		number = strings.TrimSpace(number)
		if strings.Trim(number, "0123456789.") != "" {
			return fail("it has no number before its unit")
		}
		n, err := strconv.ParseFloat(number, 64)
		if err != nil {
			return fail("it has no number before its unit")
		}
		bytes := n * unit.bytes
		switch {
		case bytes < minRate:
			return fail("it is less than 4KiB/s")
		case bytes > 1<<50:
			return fail("it is more than any network has")
		}
		return int64(bytes), nil
	}
	return fail("it has no unit per second")
}

// clip bounds what a message quotes.
func clip(text string) string {
	const most = 64
	if len(text) > most {
		return text[:most] + "…"
	}
	return text
}
