package takeover

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"

	"github.com/project-flotta/flotta-agent/internal/durable"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

const (
	recordFile    = "takeover.json"
	recordKind    = "takeover"
	recordVersion = 1
)

// record is the document on disk; the zero record is that of a host without flotta
// v0.2.
type record struct {
	DataDir   string           `json:"dataDir"`
	Programs  []string         `json:"programs,omitempty"`  // to be ended
	Workloads []string         `json:"workloads,omitempty"` // not yet handed over, sorted
	Volumes   []string         `json:"volumes,omitempty"`   // to be moved, sorted
	Bind      bool             `json:"bind,omitempty"`      // their folder is mounted instead
	Secrets   []string         `json:"secrets,omitempty"`   // not yet looked at, sorted
	Mounts    []protocol.Mount `json:"mounts,omitempty"`    // that it made
	Imported  bool             `json:"imported,omitempty"`  // its configuration was looked at
	NoAuth    bool             `json:"noAuth,omitempty"`    // its credentials of registries are removed
	Listed    bool             `json:"listed,omitempty"`    // the pods were looked through
	Done      bool             `json:"done,omitempty"`
}

func (t *Takeover) path() string { return filepath.Join(t.cfg.StateDir, recordFile) }

// load reads the record. A damaged one is set aside: what there is to be done is then
// found once more.
func (t *Takeover) load() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.record = record{}
	err := durable.LoadDocument(t.path(), recordKind, recordVersion, &t.record)
	switch {
	case err == nil, errors.Is(err, fs.ErrNotExist):
		return nil
	case errors.Is(err, durable.ErrCorrupt), errors.Is(err, durable.ErrVersion):
		t.record = record{}
		aside, aerr := durable.SetAside(t.path())
		if aside == "" {
			return fmt.Errorf("open record of the take-over: %w", errors.Join(err, aerr))
		}
		t.cfg.Log.Error("record of the take-over unreadable, set aside", "aside", aside, "err", err)
		return nil
	default:
		return fmt.Errorf("open record of the take-over: %w", err)
	}
}

// update changes the record, on disk first.
func (t *Takeover) update(change func(*record)) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	next := t.record
	next.Workloads, next.Volumes = slices.Clone(next.Workloads), slices.Clone(next.Volumes)
	next.Secrets = slices.Clone(next.Secrets)
	change(&next)
	if err := durable.SaveDocument(t.path(), recordKind, recordVersion, next, 0o600); err != nil {
		return fmt.Errorf("record the take-over: %w", err)
	}
	t.record = next
	return nil
}

// note adds what was found to the record.
func (t *Takeover) note(f found) error {
	return t.update(func(r *record) {
		if r.Done || r.DataDir == "" || len(f.workers) > 0 { // the first time, or once more
			r.Done, r.Listed, r.Imported, r.NoAuth = false, false, false, false
		}
		if f.dataDir != "" {
			r.DataDir = f.dataDir
		}
		if r.DataDir == "" {
			r.DataDir = t.cfg.StateDir
		}
		for _, w := range f.workers {
			r.Programs = union(r.Programs, []string{w.exec})
		}
		r.Workloads = union(r.Workloads, f.workloads)
		r.Volumes, r.Bind = union(r.Volumes, f.volumes), r.Bind || f.bind
		r.Secrets = union(r.Secrets, f.saved.secrets)
		for _, m := range f.saved.mounts {
			if !slices.Contains(r.Mounts, m) {
				r.Mounts = append(slices.Clip(r.Mounts), m)
			}
		}
	})
}

func union(a, b []string) []string {
	all := slices.Concat(a, b)
	slices.Sort(all)
	return slices.Compact(all)
}

func without(list []string, name string) []string {
	return slices.DeleteFunc(slices.Clone(list), func(s string) bool { return s == name })
}

// now returns the record as it is.
func (t *Takeover) now() record {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.record
}

// pending reports whether something is still to be done.
func (t *Takeover) pending() bool {
	r := t.now()
	return r.DataDir != "" && !r.Done
}

// has reports whether the workload is still to be handed over.
func (t *Takeover) has(workload string) bool {
	r := t.now()
	// Until the pods were looked through, there may be one of any workload.
	return !r.Done && r.DataDir != "" && (!r.Listed || slices.Contains(r.Workloads, workload))
}

// Mounts returns the mounts that flotta v0.2 made: they have no units.
func (t *Takeover) Mounts() []protocol.Mount { return t.now().Mounts }
