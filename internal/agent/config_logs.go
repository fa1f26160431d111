package agent

import (
	"errors"
	"time"
)

// LogsConfig bounds the lines of containers that wait for their syslog receiver.
// Who gets them is in the desired state.
type LogsConfig struct {
	Spool    Size `toml:"spool"`     // of each receiver, on disk; default 64MiB, at least 2MiB
	SpoolAge Span `toml:"spool-age"` // how old a line may become there; default 168h, 0s: any age
}

// minLogSpool has room for the longest line in each of its segments.
const minLogSpool = 2 << 20

func (c LogsConfig) withDefaults() LogsConfig {
	setDefault(&c.Spool, Size(64<<20))
	setDefault(&c.SpoolAge, Span{set: true, d: 7 * 24 * time.Hour})
	return c
}

func (c LogsConfig) validate() error {
	if c.Spool < minLogSpool {
		return errors.New("logs.spool: must be at least 2MiB")
	}
	return nil
}
