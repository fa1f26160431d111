package agent

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"github.com/project-flotta/flotta-agent/internal/console"
	"github.com/project-flotta/flotta-agent/internal/datasync"
	"github.com/project-flotta/flotta-agent/internal/desired"
	"github.com/project-flotta/flotta-agent/internal/workload"
)

// What a device was told shows in its status, its metrics and its log without a
// secret, in good messages and in bad ones, at the lowest level there is.
func TestNoSecretInStatusOrLog(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	logger := slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug - 10}))
	store, err := desired.Open(filepath.Join(t.TempDir(), "desired.json"), "edge-7", logger)
	if err != nil {
		t.Fatal(err)
	}
	c := plant()
	key := privateKey(t)
	message := c.message(key, key)
	accept := func() {
		raw, err := json.Marshal(message)
		if err != nil {
			t.Fatal(err)
		}
		if err := store.Accept(raw); err != nil {
			logger.Debug("refused", "err", err)
		}
	}
	accept()
	if store.Current().State().Version != "9f2b7e" {
		t.Fatalf("the message is not in force: %s", log.String())
	}
	state := store.Current().State()
	logger.Debug("all of it", "storage", state.Storage, "secrets", state.Secrets, "auth", fmt.Sprintf("%+v", state.Workloads[0].AuthFile))
	show := func() string {
		d := document(workload.Status{}, datasync.Status{}, store.Current())
		var out bytes.Buffer
		for _, format := range []string{console.FormatTable, console.FormatJSON, console.FormatYAML} {
			if err := console.Show(&out, d, format, time.Now(), true); err != nil {
				t.Fatal(err)
			}
		}
		out.Write(console.Metrics(d))
		return out.String()
	}
	shown := show()
	// Broken in each place in which a secret can be.
	message.Configuration.Storage.S3.AWSSecretAccessKey = c["s3-secret-key"] // no base64
	message.Secrets[0].Data = c["secret-value"]
	message.Workloads[0].ImageRegistries.AuthFile = c["auth-token"]
	message.Workloads[0].Specification = "containers: [" + c["env-password"]
	message.Workloads[0].ConfigMaps[0] = "data: {" + c["configmap-password"]
	accept()
	message.DeviceID = "another"
	accept()
	all := shown + show() + log.String()
	for place, text := range c {
		if way := leaks(all, text); way != "" {
			t.Errorf("%s shows as %q", place, way)
		}
	}
	if log.Len() == 0 || shown == "" {
		t.Error("nothing is logged or shown: this test shows nothing")
	}
}
