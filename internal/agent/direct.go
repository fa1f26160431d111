package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/project-flotta/flotta-agent/internal/durable"
	"github.com/project-flotta/flotta-agent/internal/host/mounts"
	"github.com/project-flotta/flotta-agent/internal/pki"
	"github.com/project-flotta/flotta-agent/internal/transport/direct"
	"github.com/project-flotta/flotta-agent/internal/workload"
)

// DirectEnv is what a service that runs by itself is started with.
type DirectEnv struct {
	Version string // of this program
	// Level is that of the log, to be changed while the agent runs; nil: it
	// stays as it is.
	Level *slog.LevelVar
}

// RunDirect runs the agent as a service of its own, which asks the control plane by
// itself, until ctx ends or the device has left and has to start anew.
func RunDirect(ctx context.Context, cfg Config, env DirectEnv, log *slog.Logger) (err error) {
	if cfg.Server.Address == "" {
		return ErrNoServer
	}
	proxy, err := cfg.Server.proxy()
	if err != nil {
		return err
	}
	id, err := deviceID(cfg, machineID)
	if err != nil {
		return err
	}
	settings := cfg.Server.settings(id)
	carrier, err := direct.New(direct.Config{
		Settings: settings, Poll: time.Duration(cfg.Server.Poll), Proxy: proxy,
		UserAgent: "flotta-agent/" + env.Version, Log: component(log, "transport"),
	})
	if err != nil {
		return err
	}
	defer closing(&err, carrier)
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	d := device{
		cfg: cfg, settings: settings, carrier: carrier, version: env.Version, level: env.Level, step: workload.CrashPoint(), log: log,
		// After its departure the device starts anew with a fresh process, which
		// whoever supervises this one starts.
		rebirth: rebirth{
			path: restartRecord(cfg), current: processName(os.Getpid()),
			restart: func(context.Context) error { stop(); return nil },
		},
		service: newService(component(log, "service")),
	}
	return d.run(ctx)
}

// machineID is where the host's own name for itself is, if it has one.
const machineID = "/etc/machine-id"

// deviceID returns what the device is called, and makes up a name that stays if
// nothing says so.
func deviceID(cfg Config, machineID string) (string, error) {
	id, err := knownDeviceID(cfg, machineID)
	if err != nil || id != "" {
		return id, err
	}
	path := madeUpID(cfg)
	id = strings.ReplaceAll(uuid.NewString(), "-", "")
	err = os.MkdirAll(filepath.Dir(path), 0o755)
	if err == nil {
		err = durable.WriteFile(path, []byte(id+"\n"), 0o644)
	}
	if err != nil {
		return "", fmt.Errorf("device id: %w", err)
	}
	return id, nil
}

// knownDeviceID returns what the settings say that the device is called, or its
// certificate, or what was made up before, or the machine's id; empty: nothing.
// What was made up comes first of the two, since a machine gets its id some time
// after its first boot, and the device had a name by then.
func knownDeviceID(cfg Config, machineID string) (string, error) {
	if cfg.Server.DeviceID != "" {
		return cfg.Server.DeviceID, nil
	}
	if raw, err := os.ReadFile(cfg.Server.CertFile); err == nil {
		leaf, err := pki.ParseCertificate(raw)
		if err == nil && leaf.Subject.CommonName != pki.RegisterName && validDeviceID(leaf.Subject.CommonName) {
			return leaf.Subject.CommonName, nil
		}
	}
	path := madeUpID(cfg)
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return ownID(machineID), nil
	}
	if err != nil {
		return "", fmt.Errorf("device id: %w", err)
	}
	id := strings.TrimSpace(string(raw))
	if !validDeviceID(id) {
		return "", fmt.Errorf("device id in %s: is not one; correct it, or remove the file for another one", path)
	}
	return id, nil
}

// ownID returns the id of the machine, or "" when it has none that lasts: where it
// cannot be written, systemd mounts one over it that is another at the next boot.
func ownID(machineID string) string {
	raw, err := os.ReadFile(machineID)
	if err != nil {
		return ""
	}
	if passing, err := mounts.New(mounts.Default).Mounted(machineID); passing && err == nil {
		return ""
	}
	if id := strings.TrimSpace(string(raw)); id != "uninitialized" && validDeviceID(id) {
		return id
	}
	return ""
}

func madeUpID(cfg Config) string { return filepath.Join(cfg.StateDir, "device-id") }
