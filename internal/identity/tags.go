package identity

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"regexp"

	"github.com/pelletier/go-toml/v2"
)

const (
	defaultNamespace = "default"
	maxTagsBytes     = 1 << 20
	maxNamespace     = 63
)

// namespace returns where the device is to be placed. A tags file that cannot
// be used is reported once, and counts as none: a device that enrols in the
// wrong place can be found there, one that does not enrol is lost.
func (d *Device) namespace() string {
	name, err := readNamespace(d.cfg.TagsFile)
	if d.news("tags", err) {
		d.cfg.Log.Warn("namespace tag not usable, the default namespace is asked for",
			slog.String("namespace", defaultNamespace), slog.Any("err", err))
	}
	if err != nil {
		return defaultNamespace
	}
	return name
}

func readNamespace(path string) (string, error) {
	if path == "" {
		return defaultNamespace, nil
	}
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return defaultNamespace, nil
	}
	if err != nil {
		return "", fmt.Errorf("read tags: %w", err)
	}
	defer func() { _ = f.Close() }()
	raw, err := io.ReadAll(io.LimitReader(f, maxTagsBytes+1))
	if err != nil {
		return "", fmt.Errorf("read tags: %w", err)
	}
	if len(raw) > maxTagsBytes {
		return "", fmt.Errorf("read tags %s: larger than %d bytes", path, maxTagsBytes)
	}
	name, err := decodeNamespace(raw)
	if err != nil {
		return "", fmt.Errorf("read tags %s: %w", path, err)
	}
	return name, nil
}

// decodeNamespace returns the namespace that a tags file names.
func decodeNamespace(raw []byte) (string, error) {
	var tags map[string]any
	if err := toml.Unmarshal(raw, &tags); err != nil {
		return "", fmt.Errorf("decode: %w", err)
	}
	value, ok := tags["namespace"]
	if !ok {
		return defaultNamespace, nil
	}
	name, ok := value.(string)
	if !ok || !validNamespace(name) {
		return "", fmt.Errorf("tag namespace: %v is not a Kubernetes namespace", value)
	}
	return name, nil
}

func validNamespace(name string) bool {
	return len(name) <= maxNamespace && regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`).MatchString(name)
}
