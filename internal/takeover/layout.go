package takeover

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/project-flotta/flotta-agent/internal/workload/manifest"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// Names of flotta v0.2 in its data folder.
const (
	savedFile      = "device-config.json"
	workloadsDir   = "workloads"
	volumesDir     = "volumes"
	manifestFile   = "workload.yaml"
	authFile       = "auth.json"
	maxSavedBytes  = 32 << 20 // what is accepted of the control plane, too
	maxNames       = 4096     // workloads and secrets; far beyond any device
	maxSmallBytes  = 64 << 10 // a unit, and the file of a worker
	maxFolderNames = 64 << 10
)

// found is what there is of flotta v0.2 that its worker, or nobody, looks after.
type found struct {
	dataDir   string // empty: none
	workers   []worker
	workloads []string
	volumes   []string // in another folder than this agent's
	bind      bool     // that folder is to be mounted
	saved     saved
}

// any reports whether there is something that this agent did not leave behind itself
// when a take-over was complete.
func (f found) any() bool { return len(f.workers) > 0 || len(f.workloads) > 0 || f.saved.fresh }

// saved is what is used of the configuration that flotta v0.2 saved.
type saved struct {
	raw       []byte
	fresh     bool // nobody has looked at it before
	workloads []string
	secrets   []string
	mounts    []protocol.Mount
}

// find looks for flotta v0.2.
func (t *Takeover) find() (found, error) {
	var f found
	var err error
	if f.workers, err = t.cfg.findWorkers(); err != nil {
		return f, err
	}
	if f.dataDir, err = t.cfg.findDataDir(); err != nil || f.dataDir == "" {
		return f, err
	}
	manifests, err := manifests(f.dataDir)
	if err != nil {
		return f, err
	}
	f.workloads = manifests
	if !oneFolder(filepath.Join(f.dataDir, volumesDir), filepath.Join(t.cfg.StateDir, volumesDir)) {
		if f.volumes, err = folders(filepath.Join(f.dataDir, volumesDir)); err != nil {
			return f, err
		}
	}
	known := t.record.Imported && len(f.workers) == 0
	s, err := readSaved(f.dataDir)
	if err != nil { // told when it would be used
		t.cfg.Log.Debug("saved configuration of flotta v0.2 not read", "err", err)
		return f, nil
	}
	f.saved = s
	f.saved.fresh = s.raw != nil && !known
	if f.any() {
		f.workloads = union(f.workloads, s.workloads)
	}
	return f, nil
}

// findDataDir returns the folder in which flotta v0.2 saved something last, or "".
func (c Config) findDataDir() (string, error) {
	newest, dir := int64(-1), ""
	for _, candidate := range append([]string{c.StateDir}, c.DataDirs...) {
		info, err := os.Lstat(filepath.Join(candidate, savedFile))
		stamp := int64(0)
		switch {
		case err == nil && info.Mode().IsRegular():
			stamp = info.ModTime().UnixNano()
		case err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, errNotDir):
			return "", err
		default:
			names, err := manifests(candidate)
			if err != nil {
				return "", err
			}
			if len(names) == 0 {
				continue
			}
		}
		if stamp > newest {
			newest, dir = stamp, candidate
		}
	}
	return dir, nil
}

// manifests returns the workloads of which flotta v0.2 has a manifest.
func manifests(dataDir string) ([]string, error) {
	names, err := folders(filepath.Join(dataDir, workloadsDir))
	return slices.DeleteFunc(names, func(name string) bool {
		info, err := os.Lstat(filepath.Join(dataDir, workloadsDir, name, manifestFile))
		return err != nil || !info.Mode().IsRegular()
	}), err
}

// folders returns the folders in dir that are named as workloads are, sorted.
func folders(dir string) ([]string, error) {
	f, err := os.Open(dir)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, errNotDir) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // read only
	entries, err := f.ReadDir(maxFolderNames)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, errNotDir) {
		return nil, fmt.Errorf("list %s: %w", dir, err)
	}
	var out []string
	for _, e := range entries {
		if e.IsDir() && manifest.CheckName(e.Name()) == "" && len(out) < maxNames {
			out = append(out, e.Name())
		}
	}
	slices.Sort(out)
	return out, nil
}

// readSaved reads the saved configuration; a zero one says that there is none. The
// error holds nothing of its content.
func readSaved(dataDir string) (saved, error) {
	raw, err := readBounded(filepath.Join(dataDir, savedFile), maxSavedBytes)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, errNotDir) {
		return saved{}, nil
	}
	if err != nil {
		return saved{}, err
	}
	return decodeSaved(raw)
}

// decodeSaved finds the names in a saved configuration, which has the form of a message.
// It is decoded and validated as a whole when it is put into force.
func decodeSaved(raw []byte) (saved, error) {
	var m protocol.DeviceConfigurationMessage
	if err := json.Unmarshal(raw, &m); err != nil {
		return saved{}, fmt.Errorf("%s is not a configuration message in JSON", savedFile) // the error may quote secrets
	}
	s := saved{raw: raw}
	for _, w := range m.Workloads {
		if manifest.CheckName(w.Name) == "" && len(s.workloads) < maxNames {
			s.workloads = append(s.workloads, w.Name)
		}
	}
	for _, secret := range m.Secrets {
		if secret.Name != "" && len(secret.Name) <= 253 && len(s.secrets) < maxNames {
			s.secrets = append(s.secrets, secret.Name)
		}
	}
	if m.Configuration != nil {
		s.mounts = m.Configuration.Mounts[:min(len(m.Configuration.Mounts), maxNames)]
	}
	return s, nil
}

// readBounded reads a regular file that is not a link.
func readBounded(path string, limit int64) ([]byte, error) {
	return readFile(limit, path, func() (*os.File, error) {
		return os.OpenFile(path, os.O_RDONLY|noFollow, 0)
	})
}

func readFile(limit int64, path string, open func() (*os.File, error)) ([]byte, error) {
	f, err := open()
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // read only
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", path)
	}
	raw, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(raw)) > limit {
		err = fmt.Errorf("%s has more than %d bytes", path, limit)
	}
	return raw, err
}
