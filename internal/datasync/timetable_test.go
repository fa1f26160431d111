package datasync

import (
	"strings"
	"testing"
	"time"
)

func TestParseRate(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]int64{
		"512KiB/s": 512 << 10, "1MB/s": 1e6, "10Mbit/s": 1_250_000, "1.5 MB/s": 1_500_000, " 4kib/s ": 4096,
		"1Gbit/s": 125_000_000, "1GiB/s": 1 << 30, "2Mibit/s": 1 << 18, "unlimited": Unlimited, "40000bit/s": 5000, "5000B/s": 5000,
	} {
		if got, err := ParseRate(text); err != nil || got != want {
			t.Errorf("ParseRate(%q) = %d, %v, want %d", text, got, err, want)
		}
	}
	for text, want := range map[string]string{
		"": "unit", "512": "unit", "512KiB": "unit", "1MB/h": "unit", "fast": "unit",
		"KiB/s": "number", "-5KiB/s": "number", "1e3KB/s": "number", "..KiB/s": "number", "1.2.3MB/s": "number",
		"0KiB/s": "less than", "3KiB/s": "less than", "99999999999999999GiB/s": "more than",
		strings.Repeat("x", 1000): "unit",
	} {
		_, err := ParseRate(text)
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), `"512KiB/s"`) || len(err.Error()) > 300 {
			t.Errorf("ParseRate(%q): %v, want %q and an example", text, err, want)
		}
	}
}

func TestParseWindow(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"Mon-Fri 08:00-18:00":   "Mon,Tue,Wed,Thu,Fri 08:00-18:00",
		"Sat,Sun":               "Sun,Sat",
		"22:00-06:00":           "22:00-06:00",
		"fri-mon 9:30-24:00":    "Sun,Mon,Fri,Sat 09:30-24:00",
		"Mon,Wed-Thu 0:00-0:01": "Mon,Wed,Thu 00:00-00:01",
		"  Sun   10:00-11:00 ":  "Sun 10:00-11:00",
		"00:00-24:00":           "00:00-24:00",
	} {
		p, err := ParseWindow(text)
		if err != nil || p.String() != want {
			t.Errorf("ParseWindow(%q) = %q, %v, want %q", text, p, err, want)
		}
		if again, err := ParseWindow(p.String()); err != nil || again != p {
			t.Errorf("ParseWindow(%q) = %v, %v, want what it was", p, again, err)
		}
	}
	for text, want := range map[string]string{
		"": "empty", "Mon-Fry 08:00-18:00": "Mon-Fry", "Mo-Fr": "Mo-Fr", "Mon Tue": "is missing", "08:00": "missing",
		"08:00-25:00": "no time to end", "24:00-08:00": "no time to begin", "x 08:00-09:00 y": "more than",
		"08:00-18:00 Mon": "before the times", "08:00-08:00": "same time", "Mon,,Tue": "neither", "8-9": "no time to begin",
		"08:00-09:00-10:00": "no time to end", ",": "neither",
	} {
		_, err := ParseWindow(text)
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "Mon-Fri 08:00-18:00") {
			t.Errorf("ParseWindow(%q): %v, want %q and an example", text, err, want)
		}
	}
}

func window(t testing.TB, when string, rate Rate, pause bool) Window {
	t.Helper()
	p, err := ParseWindow(when)
	if err != nil {
		t.Fatal(err)
	}
	return Window{When: p, Rate: rate, Pause: pause}
}

func TestTimetable(t *testing.T) {
	t.Parallel()
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	table := Timetable{
		Otherwise: Rate{Upload: 1e6, Download: 2e6},
		Windows: []Window{
			window(t, "Mon-Fri 08:00-18:00", Rate{Upload: 1e5}, false),
			window(t, "Sat 00:00-24:00", Rate{}, true),
			window(t, "Sun", Rate{}, true),
			window(t, "02:15-02:45", Rate{Upload: 7e4}, false),
			window(t, "22:00-06:00", Rate{Upload: Unlimited, Download: Unlimited}, false),
		},
	}
	work := ruling{rate: Rate{Upload: 1e5, Download: 2e6}}
	free := ruling{rate: Rate{Upload: Unlimited, Download: Unlimited}}
	small := ruling{rate: Rate{Upload: 7e4, Download: 2e6}}
	other := ruling{rate: table.Otherwise}
	paused := ruling{rate: table.Otherwise, paused: true}
	for _, c := range []struct {
		at    time.Time
		want  ruling
		until string
	}{
		{time.Date(2026, 11, 16, 7, 59, 59, 0, berlin), other, ""}, // a Monday
		{time.Date(2026, 11, 16, 8, 0, 0, 0, berlin), work, ""},
		{time.Date(2026, 11, 16, 17, 59, 59, 0, berlin), work, ""},
		{time.Date(2026, 11, 16, 18, 0, 0, 0, berlin), other, ""},
		{time.Date(2026, 11, 16, 22, 0, 0, 0, berlin), free, ""},
		{time.Date(2026, 11, 17, 0, 0, 0, 0, berlin), free, ""},
		{time.Date(2026, 11, 17, 2, 15, 0, 0, berlin), small, ""}, // the first that holds
		{time.Date(2026, 11, 17, 5, 59, 0, 0, berlin), free, ""},
		{time.Date(2026, 11, 17, 6, 0, 0, 0, berlin), other, ""},
		{time.Date(2026, 11, 21, 0, 0, 0, 0, berlin), paused, "paused until Mon 00:00"}, // a Saturday
		{time.Date(2026, 11, 22, 23, 59, 0, 0, berlin), paused, "paused until Mon 00:00"},
		{time.Date(2026, 11, 23, 0, 0, 0, 0, berlin), free, ""}, // of the window that began on Sunday
		// The clock goes from 02:00 to 03:00, and from 03:00 to 02:00, on Sundays.
		{time.Date(2026, 3, 29, 1, 59, 0, 0, berlin), paused, "paused until Mon 00:00"},
		{time.Date(2026, 10, 25, 2, 30, 0, 0, berlin), paused, "paused until Mon 00:00"},
		// The same moment in another zone.
		{time.Date(2026, 11, 16, 8, 0, 0, 0, berlin).UTC(), other, ""},
		{time.Date(2026, 11, 16, 18, 30, 0, 0, berlin).UTC(), work, ""},
	} {
		if got := table.at(c.at); got != c.want {
			t.Errorf("%v: %+v, want %+v", c.at, got, c.want)
		}
		if c.until != "" && table.why(c.at) != c.until {
			t.Errorf("%v: %q, want %q", c.at, table.why(c.at), c.until)
		}
	}
}

// A day on which the clock is set has an hour less or an hour more, and a window
// is on whenever the clock shows it.
func TestTimetableWhenTheClockIsSet(t *testing.T) {
	t.Parallel()
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	table := Timetable{Windows: []Window{window(t, "01:30-03:30", Rate{}, true), window(t, "02:10-02:20", Rate{Upload: 1e5}, false)}}
	for day, want := range map[time.Time]time.Duration{
		time.Date(2026, 3, 29, 0, 0, 0, 0, berlin):  time.Hour,
		time.Date(2026, 6, 1, 0, 0, 0, 0, berlin):   2 * time.Hour,
		time.Date(2026, 10, 25, 0, 0, 0, 0, berlin): 3 * time.Hour,
	} {
		var on time.Duration
		for at := day; at.Before(day.Add(12 * time.Hour)); at = at.Add(time.Minute) {
			if table.at(at).paused {
				on += time.Minute
				if until := table.resumes(at); until.Format("15:04") != "03:30" || until.Before(at) || until.After(day.Add(5*time.Hour)) {
					t.Errorf("%v: resumes %v", at, until)
				}
			}
		}
		if on != want {
			t.Errorf("%v: paused for %v, want %v", day, on, want)
		}
	}
	always := Timetable{Windows: []Window{window(t, "Mon-Sun", Rate{}, true)}}
	if got := always.why(time.Now()); got != "paused until the settings change" {
		t.Errorf("always: %q", got)
	}
	evening := Timetable{Windows: []Window{window(t, "08:00-18:00", Rate{}, true)}}
	if got := evening.why(time.Date(2026, 6, 1, 9, 0, 0, 0, berlin)); got != "paused until 18:00" {
		t.Errorf("evening: %q", got)
	}
}

func TestTimetableIsValidated(t *testing.T) {
	t.Parallel()
	for want, table := range map[string]Timetable{
		"never":       {Windows: []Window{{Pause: true}}},
		"a pause":     {Windows: []Window{window(t, "Sat", Rate{Upload: 1e5}, true)}},
		"less than":   {Otherwise: Rate{Download: 17}},
		"window 1 (S": {Windows: []Window{window(t, "Sat", Rate{Upload: -7}, false)}},
	} {
		if err := table.validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	if err := (Timetable{}).validate(); err != nil {
		t.Error(err)
	}
}

func FuzzParseWindow(f *testing.F) {
	for _, text := range []string{"Mon-Fri 08:00-18:00", "Sat,Sun", "22:00-06:00", "Mon", "-", "a-b c-d", "0:0-0:1"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		p, err := ParseWindow(text)
		if err != nil {
			return
		}
		if again, err := ParseWindow(p.String()); err != nil || again != p {
			t.Errorf("%q is %q, and that is %v, %v", text, p, again, err)
		}
		on := 0
		start := time.Date(2026, 11, 16, 0, 0, 0, 0, time.UTC)
		for minute := range 7 * dayMinutes {
			if p.holds(start.Add(time.Duration(minute) * time.Minute)) {
				on++
			}
		}
		if on == 0 || (Timetable{Windows: []Window{{When: p, Pause: true}}}).validate() != nil {
			t.Errorf("%q is never", text)
		}
	})
}

func FuzzParseRate(f *testing.F) {
	for _, text := range []string{"512KiB/s", "1MB/s", "10Mbit/s", "unlimited", ".5MB/s", "1..KB/s", "NaNMB/s", "InfGB/s"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		n, err := ParseRate(text)
		if err == nil && (Rate{Upload: n}).validate() != nil {
			t.Errorf("%q is %d", text, n)
		}
	})
}
