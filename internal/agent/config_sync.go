package agent

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/project-flotta/flotta-agent/internal/datasync"
)

// SyncConfig sets the data synchronisation.
type SyncConfig struct {
	Interval Duration `toml:"interval"` // default 15s
	// FinalTimeout is how long a device that is no longer managed tries to
	// deliver what its workloads wrote; default 60s.
	FinalTimeout Duration `toml:"final-timeout"`
	// StopTimeout is how long the agent, when it is stopped, sends what the
	// workloads wrote last; default 10s, 0s: not at all.
	StopTimeout Span `toml:"stop-timeout"`

	Walk      Duration `toml:"walk"`      // how often whole volumes are looked at; default 15m
	Audit     Span     `toml:"audit"`     // how often buckets are; default 24h, 0s: never
	Reserve   Reserve  `toml:"reserve"`   // what of the disk stays free of downloads
	Quota     Size     `toml:"quota"`     // what a volume may hold after a download; default 0: no bound
	Transfers *int     `toml:"transfers"` // how many files travel at once; default 8

	UploadLimit   Rate `toml:"upload-limit"`   // default: none
	DownloadLimit Rate `toml:"download-limit"` // default: none
	// Windows are times at which other limits hold; the first that is on counts.
	Windows []SyncWindow `toml:"window"`
}

// SyncWindow is a part of the week in which data travels in another way.
type SyncWindow struct {
	When     Period `toml:"when"`
	Upload   Rate   `toml:"upload"`   // default: as at other times
	Download Rate   `toml:"download"` // default: as at other times
	Pause    bool   `toml:"pause"`    // nothing travels
}

const (
	// maxTransfers bounds the files that travel at once: each takes memory.
	maxTransfers = 64
	// maxStopTimeout, with the time that everything else takes to stop, is less
	// than what the drop-in of yggd's unit waits before yggd kills the agent.
	maxStopTimeout = 30 * time.Second
)

func (c SyncConfig) withDefaults() SyncConfig {
	setDefault(&c.Interval, Duration(15*time.Second))
	setDefault(&c.FinalTimeout, Duration(time.Minute))
	setDefault(&c.StopTimeout, Span{set: true, d: 10 * time.Second})
	setDefault(&c.Walk, Duration(15*time.Minute))
	setDefault(&c.Audit, Span{set: true, d: 24 * time.Hour})
	if c.Transfers == nil {
		c.Transfers = new(8)
	}
	return c
}

// validate reports the first setting that cannot be used, by its name.
func (c SyncConfig) validate() error {
	if n := *c.Transfers; n < 1 || n > maxTransfers {
		return fmt.Errorf("sync.transfers %d: must be from 1 to %d, such as 8", n, maxTransfers)
	}
	if d := c.StopTimeout.Duration(); d > maxStopTimeout {
		return fmt.Errorf("sync.stop-timeout %s: must be at most %s: yggd does not wait longer for the agent", d, maxStopTimeout)
	}
	for i, w := range c.Windows {
		limited := w.Upload != 0 || w.Download != 0
		switch {
		case w.When == Period{}:
			return fmt.Errorf(`sync.window number %d: when is missing: write it like when = "Mon-Fri 08:00-18:00"`, i+1)
		case w.Pause && limited:
			return fmt.Errorf("sync.window number %d, %s: pause and a limit: must be one of the two", i+1, datasync.Period(w.When))
		case !w.Pause && !limited:
			return fmt.Errorf(`sync.window number %d, %s: says nothing: add pause = true, or a limit like upload = "512KiB/s"`, i+1, datasync.Period(w.When))
		}
	}
	return nil
}

// engine puts the settings into those of the engine.
func (c SyncConfig) engine(e *datasync.Config) {
	e.Interval = time.Duration(c.Interval)
	e.Walk = time.Duration(c.Walk)
	if e.Audit = c.Audit.Duration(); e.Audit == 0 {
		e.Audit = -1
	}
	e.ReserveBytes, e.ReserveShare = c.Reserve.bytes, c.Reserve.share
	e.Quota = int64(c.Quota)
	e.Transfers = *c.Transfers
	e.Rates = datasync.Timetable{Otherwise: datasync.Rate{Upload: int64(c.UploadLimit), Download: int64(c.DownloadLimit)}}
	for _, w := range c.Windows {
		e.Rates.Windows = append(e.Rates.Windows, datasync.Window{
			When: datasync.Period(w.When), Pause: w.Pause,
			Rate: datasync.Rate{Upload: int64(w.Upload), Download: int64(w.Download)},
		})
	}
}

// Period is a datasync.Period that settings write as text. The zero Period is one
// that is not set.
type Period datasync.Period

// UnmarshalText parses days and times, such as "Mon-Fri 08:00-18:00".
func (p *Period) UnmarshalText(text []byte) error {
	v, err := datasync.ParseWindow(string(text))
	*p = Period(v)
	return err
}

// Rate is a bandwidth in bytes per second that settings write as text, such as
// "512KiB/s". Zero is one that is not set.
type Rate int64

// UnmarshalText parses a bandwidth.
func (r *Rate) UnmarshalText(text []byte) error {
	v, err := datasync.ParseRate(string(text))
	*r = Rate(v)
	return err
}

// Size is a number of bytes that settings write as text, such as "2GiB".
type Size int64

// UnmarshalText parses a number of bytes.
func (s *Size) UnmarshalText(text []byte) error {
	v, err := parseSize(string(text))
	if err != nil {
		return fmt.Errorf(`size %q: %w: write it like 2GiB, 500MB or 0`, text, err)
	}
	*s = Size(v)
	return nil
}

// Reserve is what of a disk stays free: bytes or a part of it. The zero Reserve is
// one that is not set.
type Reserve struct {
	bytes int64   // below zero: nothing stays free
	share float64 // above 0 and below 1
}

// UnmarshalText parses a number of bytes or per cent.
func (r *Reserve) UnmarshalText(text []byte) error {
	const example = "write it like 1GiB, 10% or 0"
	if number, ok := strings.CutSuffix(strings.TrimSpace(string(text)), "%"); ok {
		v, err := strconv.ParseFloat(strings.TrimSpace(number), 64)
		if err != nil || !(v >= 0 && v <= 99) {
			return fmt.Errorf("reserve %q: must be from 0%% to 99%%: %s", text, example)
		}
		*r = Reserve{share: v / 100}
		if v == 0 {
			*r = Reserve{bytes: -1}
		}
		return nil
	}
	v, err := parseSize(string(text))
	if err != nil {
		return fmt.Errorf("reserve %q: %w: %s", text, err, example)
	}
	*r = Reserve{bytes: v}
	if v == 0 {
		*r = Reserve{bytes: -1}
	}
	return nil
}

// sizeUnits are those of parseSize, the longer names first.
var sizeUnits = [...]struct {
	name  string
	bytes float64
}{
	{"kib", 1 << 10},
	{"mib", 1 << 20},
	{"gib", 1 << 30},
	{"tib", 1 << 40},
	{"kb", 1e3},
	{"mb", 1e6},
	{"gb", 1e9},
	{"tb", 1e12},
	{"b", 1},
}

// parseSize parses bytes with a unit; only 0 needs none.
func parseSize(text string) (int64, error) {
	lower := strings.ToLower(strings.TrimSpace(text))
	if lower == "0" {
		return 0, nil
	}
	for _, u := range sizeUnits {
		number, ok := strings.CutSuffix(lower, u.name)
		if !ok {
			continue
		}
		number = strings.TrimSpace(number)
		if strings.Trim(number, "0123456789.") != "" {
			break
		}
		v, err := strconv.ParseFloat(number, 64)
		if err != nil {
			break
		}
		if v*u.bytes > 1<<60 {
			return 0, errors.New("is larger than any disk")
		}
		return int64(v * u.bytes), nil
	}
	return 0, errors.New("is not a number with a unit")
}
