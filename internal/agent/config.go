package agent

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/pelletier/go-toml/v2"
)

// DefaultConfigPath is where the settings are read from unless FLOTTA_CONFIG
// names another file.
const DefaultConfigPath = "/etc/flotta/agent.toml"

// Config is the agent's own settings: read once at start, a restart changes them.
// What the device shall do is not here but in the desired state.
type Config struct {
	StateDir string        `toml:"state-dir"` // default /var/local/yggdrasil/device
	LogLevel string        `toml:"log-level"` // debug, info, warn, error
	TagsFile string        `toml:"tags-file"` // yggdrasil's tags; names the target namespace
	Runtime  RuntimeConfig `toml:"runtime"`
	Sync     SyncConfig    `toml:"sync"`
	Identity IdentConfig   `toml:"identity"`
}

// RuntimeConfig says where workloads run.
type RuntimeConfig struct {
	User   string   `toml:"user"`   // whose Podman and systemd instance; default flotta
	Resync Duration `toml:"resync"` // how often drift is looked for; default 60s
	Settle Duration `toml:"settle"` // how long a workload must run to count as applied; default 5s
}

// SyncConfig sets the data synchronisation.
type SyncConfig struct {
	Interval Duration `toml:"interval"` // default 15s
	// FinalTimeout is how long a device that is no longer managed tries to
	// deliver what its workloads wrote; default 60s.
	FinalTimeout Duration `toml:"final-timeout"`
}

// IdentConfig sets enrolment, registration and renewal.
type IdentConfig struct {
	Retry   Duration `toml:"retry"`    // default 10s
	RenewAt float64  `toml:"renew-at"` // part of a certificate's life time; default 0.667
}

// Duration is a time.Duration that settings write as text, such as "15s".
type Duration time.Duration

// UnmarshalText parses a Go duration above zero.
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	if err != nil {
		return fmt.Errorf("duration %q: write it like 15s or 2m", text)
	}
	if v <= 0 {
		return fmt.Errorf("duration %q: must be above zero", text)
	}
	*d = Duration(v)
	return nil
}

// LoadConfig reads the settings at path. An absent file means the defaults, an
// unknown key is an error: a mistyped setting must not be ignored in silence.
func LoadConfig(path string) (Config, error) {
	var c Config
	raw, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return Config{}, fmt.Errorf("read settings: %w", err)
	default:
		if c, err = parseConfig(raw); err != nil {
			return Config{}, fmt.Errorf("read settings %s: %w", path, err)
		}
	}
	c = c.withDefaults()
	if err := c.Validate(); err != nil {
		return Config{}, fmt.Errorf("read settings %s: %w", path, err)
	}
	return c, nil
}

func parseConfig(raw []byte) (Config, error) {
	var c Config
	dec := toml.NewDecoder(bytes.NewReader(raw)).DisallowUnknownFields()
	if err := dec.Decode(&c); err != nil {
		if unknown, ok := errors.AsType[*toml.StrictMissingError](err); ok {
			return Config{}, fmt.Errorf("unknown setting:\n%s", unknown.String())
		}
		if syntax, ok := errors.AsType[*toml.DecodeError](err); ok {
			row, col := syntax.Position()
			return Config{}, fmt.Errorf("line %d, column %d: %w", row, col, err)
		}
		return Config{}, err
	}
	return c, nil
}

func (c Config) withDefaults() Config {
	setDefault(&c.StateDir, "/var/local/yggdrasil/device")
	setDefault(&c.LogLevel, "info")
	setDefault(&c.TagsFile, "/etc/yggdrasil/tags.toml")
	setDefault(&c.Runtime.User, "flotta")
	setDefault(&c.Runtime.Resync, Duration(time.Minute))
	setDefault(&c.Runtime.Settle, Duration(5*time.Second))
	setDefault(&c.Sync.Interval, Duration(15*time.Second))
	setDefault(&c.Sync.FinalTimeout, Duration(time.Minute))
	setDefault(&c.Identity.Retry, Duration(10*time.Second))
	return c
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// Validate reports the first setting that cannot be used, by its name.
func (c Config) Validate() error {
	if !filepath.IsAbs(c.StateDir) {
		return fmt.Errorf("state-dir %q: must be an absolute path", c.StateDir)
	}
	var level slog.Level
	if err := level.UnmarshalText([]byte(c.LogLevel)); err != nil {
		return fmt.Errorf("log-level %q: must be debug, info, warn or error", c.LogLevel)
	}
	// Zero is not set. A NaN is neither.
	if at := c.Identity.RenewAt; !(at >= 0 && at <= 0.95) {
		return fmt.Errorf("identity.renew-at %v: must be above 0 and at most 0.95", at)
	}
	return nil
}

// Level returns the log level.
func (c Config) Level() slog.Level {
	var level slog.Level
	_ = level.UnmarshalText([]byte(c.LogLevel)) // Validate has parsed it before.
	return level
}
