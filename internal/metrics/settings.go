package metrics

import (
	"time"

	"github.com/project-flotta/flotta-agent/internal/desired"
)

// Defaults of the metrics configuration, where it says nothing or zero.
const (
	DefaultMaxBytes       = 200 << 20
	DefaultMaxAge         = 7 * 24 * time.Hour
	DefaultTimeout        = 10 * time.Second
	DefaultRequestSamples = 30_000
)

const (
	maxTimeout        = 10 * time.Minute
	maxRequestSamples = 1 << 20
	maxHours          = 100 * 365 * 24 // beyond that a Duration overflows sooner or later
)

// settings is what the configuration says about the delivery.
type settings struct {
	receiver receiver
	maxBytes int64
	maxAge   time.Duration
}

// receiver is where to and how. Equal receivers need no new connection.
type receiver struct {
	url     string // empty: none
	ca      string
	timeout time.Duration
	samples int
}

func settingsOf(state desired.State) settings {
	s := settings{
		receiver: receiver{timeout: DefaultTimeout, samples: DefaultRequestSamples},
		maxBytes: DefaultMaxBytes,
		maxAge:   DefaultMaxAge,
	}
	if state.Metrics == nil {
		return s
	}
	if r := state.Metrics.Retention; r != nil {
		if r.MaxMiB > 0 {
			s.maxBytes = int64(r.MaxMiB) << 20
		}
		if r.MaxHours > 0 {
			s.maxAge = time.Duration(min(r.MaxHours, maxHours)) * time.Hour
		}
	}
	if r := state.Metrics.Receiver; r != nil {
		s.receiver.url, s.receiver.ca = r.URL, r.CACert
		if r.TimeoutSeconds > 0 {
			s.receiver.timeout = time.Duration(min(r.TimeoutSeconds, int64(maxTimeout/time.Second))) * time.Second
		}
		if r.RequestNumSamples > 0 {
			s.receiver.samples = int(min(r.RequestNumSamples, maxRequestSamples))
		}
	}
	return s
}
