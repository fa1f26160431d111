package datasync

import (
	"context"
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/project-flotta/flotta-agent/internal/datasync/s3"
	"github.com/project-flotta/flotta-agent/internal/desired"
	"github.com/project-flotta/flotta-agent/internal/secret"
)

// crashVar makes the test binary an agent that synchronises until it is killed;
// its value is the file with its settings.
const crashVar = "FLOTTA_DATASYNC_CRASH"

// crashSettings is what the killed process works with.
type crashSettings struct {
	Dir    string
	Host   string
	Port   int
	Bucket string
	Key    string
	Secret string
	CA     []byte
}

func (c crashSettings) config() s3.Config {
	return s3.Config{
		Host: c.Host, Port: c.Port, Bucket: c.Bucket, AccessKeyID: secret.New(c.Key), SecretAccessKey: secret.New(c.Secret),
		CABundle: c.CA, PartBytes: 5 << 20,
	}
}

// crashChild runs an engine that nobody ends but SIGKILL.
func crashChild(path string) {
	var c crashSettings
	raw, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(raw, &c)
	}
	if err != nil {
		panic(err)
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	store, err := desired.Open(filepath.Join(c.Dir, "desired.json"), "device", log)
	if err != nil {
		panic(err)
	}
	engine, err := New(Config{
		Desired: store, VolumesDir: filepath.Join(c.Dir, "volumes"), IndexPath: filepath.Join(c.Dir, "datasync.db"),
		Interval: 50 * time.Millisecond, Settle: -1, ReserveBytes: -1, Log: log,
		Open: func(desired.Storage) (Store, error) { return s3.New(c.config()) },
	})
	if err != nil {
		panic(err)
	}
	engine.recordBatch = 16
	engine.space.checkpoint = 1 << 20
	if err := engine.Run(context.Background()); err != nil {
		panic(err)
	}
}
