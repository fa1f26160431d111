package agent

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"

	"github.com/project-flotta/flotta-agent/internal/console"
)

// DefaultConfigPath is where the settings are read from unless FLOTTA_CONFIG
// names another file.
const DefaultConfigPath = "/etc/flotta/agent.toml"

// Config is the agent's own settings: read once at start, a restart changes them.
// What the device shall do is not here but in the desired state.
type Config struct {
	StateDir  string          `toml:"state-dir"` // default /var/local/yggdrasil/device
	LogLevel  string          `toml:"log-level"` // debug, info, warn, error
	TagsFile  string          `toml:"tags-file"` // yggdrasil's tags; names the target namespace
	Runtime   RuntimeConfig   `toml:"runtime"`
	Sync      SyncConfig      `toml:"sync"`
	Volumes   VolumesConfig   `toml:"volumes"`
	Images    ImagesConfig    `toml:"images"`
	Metrics   MetricsConfig   `toml:"metrics"`
	Logs      LogsConfig      `toml:"logs"`
	Identity  IdentConfig     `toml:"identity"`
	Console   ConsoleConfig   `toml:"console"`
	Server    ServerConfig    `toml:"server"`
	Mounts    MountsConfig    `toml:"mounts"`
	OS        OSConfig        `toml:"os"`
	Playbooks PlaybooksConfig `toml:"playbooks"`
}

// ConsoleConfig sets what the agent tells those who are on the device.
type ConsoleConfig struct {
	// MetricsAddress is where the agent's own metrics are served without being
	// asked who wants them: of the loopback interface; default: nowhere.
	MetricsAddress string `toml:"metrics-address"`
}

// RuntimeConfig says where workloads run.
type RuntimeConfig struct {
	// Mode is user, the default, or root: the Podman and the systemd instance of
	// User, or those of the system.
	Mode   string   `toml:"mode"`
	User   string   `toml:"user"`   // default flotta; not looked at in the mode root
	Resync Duration `toml:"resync"` // how often drift is looked for; default 60s
	Settle Duration `toml:"settle"` // how long a workload must run to count as applied; default 5s
}

// ImagesConfig sets how images are pulled, and when unused ones are removed.
type ImagesConfig struct {
	PullStall  Duration `toml:"pull-stall"`  // without progress until a pull is called off; default 5m
	GCHigh     float64  `toml:"gc-high"`     // part of the disk in use at which removal begins; default 0.85, 1: never
	GCLow      float64  `toml:"gc-low"`      // part of the disk in use at which it ends; default 0.80
	GCInterval Duration `toml:"gc-interval"` // how often the disk is looked at; default 5m
	GCMinAge   Duration `toml:"gc-min-age"`  // how long an image stays after its last use; default 10m
}

// VolumesConfig sets what becomes of the volumes of workloads that are removed.
type VolumesConfig struct {
	// Retention is how long a volume is kept after all of it was delivered, in
	// time that the agent runs; default 168h.
	Retention Span `toml:"retention"`
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

// Span is a duration that may be zero. The zero Span is one that is not set.
type Span struct {
	set bool
	d   time.Duration
}

// Duration returns the span, zero when it is not set.
func (s Span) Duration() time.Duration { return s.d }

// UnmarshalText parses a Go duration of zero or more.
func (s *Span) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	if err != nil {
		return fmt.Errorf("duration %q: write it like 36h or 0s", text)
	}
	if v < 0 {
		return fmt.Errorf("duration %q: must not be below zero", text)
	}
	*s = Span{set: true, d: v}
	return nil
}

// dropInSuffix is what is added to the name of the settings' file for the folder
// of its drop-ins.
const dropInSuffix = ".d"

// LoadConfig reads the settings at path, and then the drop-ins in the folder of that
// name with ".d" behind it: those that end in .toml, in the order of their names.
// What a later file sets stands. Absent files mean the defaults, an unknown key is an
// error: a mistyped setting must not be ignored in silence.
func LoadConfig(path string) (Config, error) {
	var c Config
	raw, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return Config{}, fmt.Errorf("read settings: %w", err)
	default:
		if err := parseConfig(raw, &c); err != nil {
			return Config{}, fmt.Errorf("read settings %s: %w", path, err)
		}
	}
	dropIns, err := dropIns(path)
	if err != nil {
		return Config{}, fmt.Errorf("read settings: %w", err)
	}
	for _, path := range dropIns {
		raw, err := os.ReadFile(path)
		if err == nil {
			err = parseConfig(raw, &c)
		}
		if err != nil {
			return Config{}, fmt.Errorf("read settings %s: %w", path, err)
		}
	}
	c = c.withDefaults()
	if err := c.Validate(); err != nil {
		return Config{}, fmt.Errorf("read settings %s: %w", strings.Join(append([]string{path}, dropIns...), ", "), err)
	}
	return c, nil
}

// dropIns returns the paths of the drop-ins of the settings at path.
func dropIns(path string) ([]string, error) {
	entries, err := os.ReadDir(path + dropInSuffix) // sorted
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var out []string
	for _, e := range entries {
		if name := e.Name(); strings.HasSuffix(name, ".toml") && !strings.HasPrefix(name, ".") {
			out = append(out, filepath.Join(path+dropInSuffix, name))
		}
	}
	return out, err
}

// parseConfig sets in c what raw sets, and nothing if it is wrong.
func parseConfig(raw []byte, c *Config) error {
	next := *c
	next.Sync.Windows, next.Server.CAFiles, next.Mounts.Allow = nil, nil, nil // lists are set as a whole
	dec := toml.NewDecoder(bytes.NewReader(raw)).DisallowUnknownFields()
	err := dec.Decode(&next)
	if unknown, ok := errors.AsType[*toml.StrictMissingError](err); ok {
		return fmt.Errorf("unknown setting:\n%s", unknown.String())
	}
	var tree map[string]any
	if toml.Unmarshal(raw, &tree) == nil { // or else err says why not
		if err := checkKinds("", tree); err != nil {
			return err
		}
	}
	if syntax, ok := errors.AsType[*toml.DecodeError](err); ok {
		row, col := syntax.Position()
		place := fmt.Sprintf("line %d, column %d", row, col)
		if key := syntax.Key(); len(key) > 0 {
			place += ", " + strings.Join(key, ".")
		}
		return fmt.Errorf("%s: %w", place, err)
	}
	if err != nil {
		return err
	}
	if next.Sync.Windows == nil {
		next.Sync.Windows = c.Sync.Windows
	}
	if next.Server.CAFiles == nil {
		next.Server.CAFiles = c.Server.CAFiles
	}
	if next.Mounts.Allow == nil {
		next.Mounts.Allow = c.Mounts.Allow
	}
	*c = next
	return nil
}

// checkKinds finds values that are not of the kind of their setting: an integer
// in the place of a text would be taken for nanoseconds or bytes.
func checkKinds(path string, value any) error {
	good := ""
	switch value := value.(type) {
	case map[string]any:
		for _, key := range slices.Sorted(maps.Keys(value)) {
			if err := checkKinds(strings.TrimPrefix(path+"."+key, "."), value[key]); err != nil {
				return err
			}
		}
	case []any:
		for _, v := range value {
			if err := checkKinds(path, v); err != nil {
				return err
			}
		}
	case string:
		good = kindText
	case int64, float64:
		good = kindNumber
	case bool:
		good = kindSwitch
	default:
		good = "a date"
	}
	want := kindText
	switch path {
	case "sync.transfers", "os.max-reboots", "playbooks.retries", "images.gc-high", "images.gc-low", "identity.renew-at":
		want = kindNumber
	case "sync.window.pause", "playbooks.disabled":
		want = kindSwitch
	}
	if good != "" && good != want {
		return fmt.Errorf("%s %v: must be %s", path, value, want)
	}
	return nil
}

// Kinds of settings.
const (
	kindText   = `a text in quotes, such as "15s", "2GiB" or "512KiB/s"`
	kindNumber = "a number without quotes, such as 8 or 0.85"
	kindSwitch = "true or false"
)

func (c Config) withDefaults() Config {
	setDefault(&c.StateDir, "/var/local/yggdrasil/device")
	setDefault(&c.LogLevel, "info")
	setDefault(&c.TagsFile, "/etc/yggdrasil/tags.toml")
	setDefault(&c.Runtime.Mode, modeUser)
	setDefault(&c.Runtime.User, "flotta")
	setDefault(&c.Runtime.Resync, Duration(time.Minute))
	setDefault(&c.Runtime.Settle, Duration(5*time.Second))
	c.Sync = c.Sync.withDefaults()
	setDefault(&c.Images.PullStall, Duration(5*time.Minute))
	setDefault(&c.Images.GCHigh, 0.85)
	setDefault(&c.Images.GCLow, min(0.80, c.Images.GCHigh))
	setDefault(&c.Images.GCInterval, Duration(5*time.Minute))
	setDefault(&c.Images.GCMinAge, Duration(10*time.Minute))
	setDefault(&c.Volumes.Retention, Span{set: true, d: 7 * 24 * time.Hour})
	c.Metrics = c.Metrics.withDefaults()
	c.Logs = c.Logs.withDefaults()
	setDefault(&c.Identity.Retry, Duration(10*time.Second))
	c.Server = c.Server.withDefaults()
	c.Mounts = c.Mounts.withDefaults()
	c.OS = c.OS.withDefaults()
	c.Playbooks = c.Playbooks.withDefaults()
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
	if c.Runtime.Mode != modeUser && c.Runtime.Mode != modeRoot {
		return fmt.Errorf("runtime.mode %q: must be %s or %s", c.Runtime.Mode, modeUser, modeRoot)
	}
	if i := c.Images; !(i.GCLow > 0 && i.GCLow <= i.GCHigh && i.GCHigh <= 1) {
		return fmt.Errorf("images.gc-low %v and images.gc-high %v: must be above 0, at most 1, and low not above high", i.GCLow, i.GCHigh)
	}
	if err := c.Sync.validate(); err != nil {
		return err
	}
	if err := c.Metrics.validate(); err != nil {
		return err
	}
	if err := c.Logs.validate(); err != nil {
		return err
	}
	if err := c.Server.validate(); err != nil {
		return err
	}
	if err := c.Mounts.validate(); err != nil {
		return err
	}
	if err := c.OS.validate(); err != nil {
		return err
	}
	if err := c.Playbooks.validate(); err != nil {
		return err
	}
	if c.Console.MetricsAddress != "" {
		if err := console.CheckMetricsAddress(c.Console.MetricsAddress); err != nil {
			return fmt.Errorf("console.metrics-address %w", err)
		}
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
