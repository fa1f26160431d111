package yggdrasil

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/project-flotta/flotta-agent/internal/transport"
	"github.com/project-flotta/flotta-agent/internal/transport/yggdrasil/pb"
)

const maxConfigBytes = 1 << 20

// Settings asks yggd for its settings, waiting for it until ctx ends. A yggd
// that cannot tell them (0.2.x) has them read from its configuration file. The
// paths are absolute; the device id is never empty.
func (w *Worker) Settings(ctx context.Context) (transport.Settings, error) {
	conn, err := w.dispatcher()
	if err != nil {
		return transport.Settings{}, fmt.Errorf("ask yggd for its settings: %w", err)
	}
	res, err := pb.NewDispatcherClient(conn).GetConfig(ctx, &pb.Empty{}, grpc.WaitForReady(true))
	if status.Code(err) == codes.Unimplemented {
		return w.settingsFromFile()
	}
	if err != nil {
		return transport.Settings{}, fmt.Errorf("ask yggd for its settings: %w", err)
	}
	return completeSettings(transport.Settings{
		DeviceID: res.GetClientId(),
		Server:   res.GetServer(),
		CertFile: res.GetCertFile(),
		KeyFile:  res.GetKeyFile(),
		CAFiles:  strings.Split(res.GetCaRoot(), ";"),
	})
}

func (w *Worker) settingsFromFile() (transport.Settings, error) {
	path := filepath.Join(w.cfg.ConfigDir, "config.toml")
	w.cfg.Log.Warn("yggd is a 0.2.x: it cannot tell its settings and returns no answers to what is sent; settings are read from its file",
		slog.String("path", path))
	raw, err := readLimited(path)
	if err != nil {
		return transport.Settings{}, fmt.Errorf("read yggd's settings: %w", err)
	}
	s, err := decodeConfigFile(raw)
	if err != nil {
		return transport.Settings{}, fmt.Errorf("read yggd's settings %s: %w", path, err)
	}
	s.DeviceID = w.cfg.ClientID
	return completeSettings(s)
}

func readLimited(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	raw, err := io.ReadAll(io.LimitReader(f, maxConfigBytes+1))
	if err != nil {
		return nil, err
	}
	if len(raw) > maxConfigBytes {
		return nil, fmt.Errorf("%s is larger than %d bytes", path, maxConfigBytes)
	}
	return raw, nil
}

// decodeConfigFile reads the keys it knows of yggd's config.toml.
func decodeConfigFile(raw []byte) (transport.Settings, error) {
	var file struct {
		CertFile string `toml:"cert-file"`
		KeyFile  string `toml:"key-file"`
		CARoot   any    `toml:"ca-root"` // a list; a single name is understood
		Server   string `toml:"server"`
	}
	if err := toml.Unmarshal(raw, &file); err != nil {
		return transport.Settings{}, fmt.Errorf("decode: %w", err)
	}
	s := transport.Settings{Server: file.Server, CertFile: file.CertFile, KeyFile: file.KeyFile}
	switch roots := file.CARoot.(type) {
	case nil:
	case string:
		s.CAFiles = []string{roots}
	case []any:
		for _, root := range roots {
			name, ok := root.(string)
			if !ok {
				return transport.Settings{}, errors.New("decode: ca-root: want a list of file names")
			}
			s.CAFiles = append(s.CAFiles, name)
		}
	default:
		return transport.Settings{}, errors.New("decode: ca-root: want a list of file names")
	}
	return s, nil
}

// completeSettings refuses settings without a device id and makes the paths
// absolute. yggd resolves relative ones in its working directory, which its
// worker inherits.
func completeSettings(s transport.Settings) (transport.Settings, error) {
	if s.DeviceID == "" {
		return transport.Settings{}, errors.New("settings of yggd: client id is empty")
	}
	var roots []string
	for _, path := range s.CAFiles {
		if path != "" {
			roots = append(roots, path)
		}
	}
	s.CAFiles = roots
	paths := []*string{&s.CertFile, &s.KeyFile}
	for i := range s.CAFiles {
		paths = append(paths, &s.CAFiles[i])
	}
	for _, path := range paths {
		if *path == "" {
			continue
		}
		abs, err := filepath.Abs(*path)
		if err != nil {
			return transport.Settings{}, fmt.Errorf("settings of yggd: %w", err)
		}
		*path = abs
	}
	return s, nil
}
