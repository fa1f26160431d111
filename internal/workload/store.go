package workload

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/project-flotta/flotta-agent/internal/durable"
	"github.com/project-flotta/flotta-agent/internal/secret"
	"github.com/project-flotta/flotta-agent/internal/workload/manifest"
)

const (
	manifestFile = "manifest.yaml"
	nextFile     = "next.yaml"
	previousFile = "previous.yaml"
	recordFile   = "applied.json"

	recordKind    = "applied-workload"
	recordVersion = 1

	// The manifest may hold what nobody else should read; the user who runs
	// the pods reads it by group, which the folder hands on to its files.
	folderMode = fs.ModeSetgid | 0o750
	fileMode   = fs.FileMode(0o640)
)

// record says which manifest was seen to run last.
type record struct {
	Digest        string    `json:"digest"`
	ManifestSum   string    `json:"manifestSum"`
	RestartPolicy string    `json:"restartPolicy"`
	AppliedAt     time.Time `json:"appliedAt"`

	Containers  []string            `json:"containers,omitempty"`
	HostPorts   []manifest.HostPort `json:"hostPorts,omitempty"`
	PodmanNames []string            `json:"podmanNames,omitempty"`
	Unit        UnitSettings        `json:"unit"`
	// Completed says that it came to its end, as its restart policy allows, and
	// is not started again.
	Completed bool `json:"completed,omitempty"`
}

// newRecord returns the record of a target that was seen to run.
func newRecord(t target) record {
	p := t.plan
	return record{
		Digest: p.Digest, ManifestSum: t.sum, RestartPolicy: p.RestartPolicy, AppliedAt: time.Now().UTC(),
		Containers: p.Containers, HostPorts: p.HostPorts, PodmanNames: p.PodmanNames, Unit: t.settings,
	}
}

// onDisk is what a workload's folder holds. Sums are empty where the file is
// missing; the record is zero where it is missing or damaged.
type onDisk struct {
	exists   bool
	manifest string
	previous string
	record   record
}

// proven reports whether the manifest that the unit plays was seen to run.
func (d onDisk) proven() bool { return d.manifest != "" && d.manifest == d.record.ManifestSum }

// canRestore reports whether the proven manifest is kept aside.
func (d onDisk) canRestore() bool {
	return d.record.ManifestSum != "" && d.previous == d.record.ManifestSum
}

// store is the folder of all workloads. Two goroutines never work on one
// workload.
type store struct {
	root string
	uid  int // of the files' owner
	gid  int // of the group that reads them
}

func sum(data []byte) string {
	s := sha256.Sum256(data)
	return hex.EncodeToString(s[:])
}

func (s store) path(name string, file ...string) string {
	return filepath.Join(append([]string{s.root, name}, file...)...)
}

// makeFolder makes dir, if it is missing, with exactly that mode and group.
func (s store) makeFolder(dir string) error {
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return err
	}
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	if info.Mode()&(fs.ModePerm|fs.ModeSetgid) == folderMode {
		return nil
	}
	if err := os.Chown(dir, s.uid, s.gid); err != nil {
		return err
	}
	// After chown, which takes the set-group-ID bit away.
	return os.Chmod(dir, folderMode)
}

// names returns the workloads that have a folder.
func (s store) names() ([]string, error) {
	entries, err := os.ReadDir(s.root)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var out []string
	for _, e := range entries {
		if e.IsDir() && manifest.CheckName(e.Name()) == "" {
			out = append(out, e.Name())
		}
	}
	return out, nil
}

// read returns what the folder of a workload holds. A damaged record is set
// aside: the manifest is then unproven.
func (s store) read(name string) (onDisk, error) {
	var d onDisk
	if _, err := os.Stat(s.path(name)); errors.Is(err, fs.ErrNotExist) {
		return d, nil
	} else if err != nil {
		return d, err
	}
	d.exists = true
	for file, into := range map[string]*string{manifestFile: &d.manifest, previousFile: &d.previous} {
		data, err := os.ReadFile(s.path(name, file))
		switch {
		case err == nil:
			*into = sum(data)
		case !errors.Is(err, fs.ErrNotExist):
			return d, err
		}
	}
	path := s.path(name, recordFile)
	err := durable.LoadDocument(path, recordKind, recordVersion, &d.record)
	switch {
	case err == nil || errors.Is(err, fs.ErrNotExist):
	case errors.Is(err, durable.ErrCorrupt), errors.Is(err, durable.ErrVersion):
		d.record = record{}
		if _, err := durable.SetAside(path); err != nil {
			return d, fmt.Errorf("set aside %s: %w", path, err)
		}
	default:
		return d, err
	}
	return d, nil
}

// stage writes the manifest beside the one that the unit plays.
func (s store) stage(name string, data []byte) error {
	if err := s.makeFolder(s.root); err != nil {
		return err
	}
	if err := s.makeFolder(s.path(name)); err != nil {
		return err
	}
	return durable.WriteFile(s.path(name, nextFile), data, fileMode)
}

// keepAuth writes the credentials with which Podman looks for newer images by
// itself; they are not part of the manifest, so that new ones restart nothing.
func (s store) keepAuth(name string, auth secret.Value) error {
	path := manifest.AuthPath(s.root, name)
	want := []byte(auth.Reveal())
	if have, err := os.ReadFile(path); err == nil && bytes.Equal(have, want) {
		return nil
	}
	if len(want) == 0 {
		if err := os.Remove(path); !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	}
	if err := errors.Join(s.makeFolder(s.root), s.makeFolder(s.path(name))); err != nil {
		return err
	}
	return durable.WriteFile(path, want, fileMode)
}

// keepPrevious copies a proven manifest aside; one that is not proven must not
// take the place of one that is.
func (s store) keepPrevious(name string) error {
	d, err := s.read(name)
	if err != nil || !d.proven() {
		return err
	}
	data, err := os.ReadFile(s.path(name, manifestFile))
	if err != nil {
		return err
	}
	return durable.WriteFile(s.path(name, previousFile), data, fileMode)
}

// promote makes the staged manifest the one that the unit plays.
func (s store) promote(name string) error {
	if err := os.Rename(s.path(name, nextFile), s.path(name, manifestFile)); err != nil {
		return err
	}
	return durable.SyncDir(s.path(name))
}

// restore makes the previous manifest the one that the unit plays. It is moved,
// not copied: a full disk must not keep what worked from coming back.
func (s store) restore(name string) error {
	if err := os.Rename(s.path(name, previousFile), s.path(name, manifestFile)); err != nil {
		return err
	}
	return durable.SyncDir(s.path(name))
}

func (s store) record(name string, r record) error {
	return durable.SaveDocument(s.path(name, recordFile), recordKind, recordVersion, r, fileMode)
}

// remove removes the folder of a workload, the record first: what a crash
// leaves of the folder is then unproven.
func (s store) remove(name string) error {
	if err := os.Remove(s.path(name, recordFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.RemoveAll(s.path(name)); err != nil {
		return err
	}
	return durable.SyncDir(s.root)
}

// discardStaged removes what was staged, with its files, and the folder if there
// is nothing else in it.
func (s store) discardStaged(name string) error {
	if err := os.Remove(s.path(name, nextFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := s.sweepFiles(name); err != nil {
		return err
	}
	if _, err := os.Stat(s.path(name, manifestFile)); errors.Is(err, fs.ErrNotExist) {
		_ = os.Remove(manifest.AuthPath(s.root, name)) // or the folder stays, which says so
	}
	if err := os.Remove(s.path(name)); err == nil {
		return durable.SyncDir(s.root)
	}
	return nil // it is not empty, or not there
}

// references returns the names of the secrets of ours that any manifest on the
// disk may refer to.
func (s store) references(names manifest.SecretNames) (map[string]bool, error) {
	out := map[string]bool{}
	workloads, err := s.names()
	if err != nil {
		return nil, err
	}
	for _, w := range workloads {
		for _, file := range []string{manifestFile, nextFile, previousFile} {
			data, err := os.ReadFile(s.path(w, file))
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return nil, err
			}
			for _, secretName := range slices.Compact(names.In(data)) {
				out[secretName] = true
			}
		}
	}
	return out, nil
}
