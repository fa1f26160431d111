package desired

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/project-flotta/flotta-agent/internal/durable"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

const (
	retiredFile    = "retired.json" // beside the desired state
	retiredKind    = "retired-workloads"
	retiredVersion = 1
)

// ErrNotRetired says that a workload is desired again, or that its volume is
// no longer kept: whatever was meant for its former life is void.
var ErrNotRetired = errors.New("workload is not retired, or not any more")

// Retired is a workload that is desired no more while its volume is kept: until
// what its egress paths cover has arrived, and for a while after that.
type Retired struct {
	Name    string
	ID      string // of this retirement: a workload can be retired more than once
	Egress  []protocol.DataPath
	Ingress []protocol.DataPath // nothing is downloaded any more; they tell which egress was refused
	// Delivered says that nothing of it runs, and that everything in the volume
	// that Egress covers is in the bucket.
	Delivered bool
}

// Keeping is what is on record of a volume that is kept.
type Keeping struct {
	Delivered bool // as in Retired
	// Kept is how long it has been kept since it was delivered, in time that the
	// agent ran: a clock that jumps does not age a volume.
	Kept time.Duration
	// Stamp stands for the content that was delivered.
	Stamp string
}

// retiredRecord is one entry of the document.
type retiredRecord struct {
	Name      string              `json:"name"`
	ID        string              `json:"id"`
	Egress    []protocol.DataPath `json:"egress,omitempty"`
	Ingress   []protocol.DataPath `json:"ingress,omitempty"`
	Delivered bool                `json:"delivered,omitempty"`
	Stamp     string              `json:"stamp,omitempty"`
	Kept      time.Duration       `json:"kept,omitempty"` // nanoseconds
}

type retiredDocument struct {
	Workloads []retiredRecord `json:"workloads"`
}

// retiredList is the list by name. It is changed by replacing entries only.
type retiredList map[string]retiredRecord

// view returns the list as snapshots hold it, by name.
func (l retiredList) view() []Retired {
	var out []Retired
	for _, name := range slices.Sorted(maps.Keys(l)) {
		r := l[name]
		out = append(out, Retired{Name: r.Name, ID: r.ID, Egress: r.Egress, Ingress: r.Ingress, Delivered: r.Delivered})
	}
	return out
}

// retire returns the record of a workload at the begin of its retirement.
func retire(w Workload) retiredRecord {
	return retiredRecord{Name: w.Name, ID: rand.Text(), Egress: w.Egress, Ingress: w.Ingress}
}

// following returns the list that has to be on disk before next takes the place
// of prev, and the list that is true afterwards; changed is false when that is
// the one there is. A crash between the two is harmless: what is retired and
// desired at once is desired, and begins anew with nothing delivered when it is
// retired the next time.
func (l retiredList) following(prev, next State) (before, after retiredList, changed bool) {
	before, after = maps.Clone(l), maps.Clone(l)
	wanted := map[string]bool{}
	for _, w := range next.Workloads {
		wanted[w.Name] = true
	}
	for _, w := range prev.Workloads {
		if !wanted[w.Name] && validName(w.Name, maxNameSize) {
			before[w.Name] = retire(w)
			after[w.Name] = before[w.Name]
			changed = true
		}
	}
	for name, r := range l {
		if wanted[name] {
			before[name] = retiredRecord{Name: name, ID: r.ID, Egress: r.Egress, Ingress: r.Ingress}
			delete(after, name)
			changed = true
		}
	}
	return before, after, changed
}

// change makes one change of what is desired: record puts it on disk, between
// the two states of the list. Only called with mu held.
func (s *Store) change(prev, next State, record func() error) error {
	before, after, changed := s.retired.following(prev, next)
	if !changed {
		return record()
	}
	if err := s.persistRetired(before); err != nil {
		return err
	}
	if err := record(); err != nil {
		return err
	}
	s.retired = after
	if !maps.EqualFunc(before, after, sameRecord) {
		if err := s.persistRetired(after); err != nil {
			// The change is in force, and the next start comes to the same list.
			s.log.Warn("list of retired workloads not tidied up", "err", err)
		}
	}
	return nil
}

func sameRecord(a, b retiredRecord) bool {
	return a.ID == b.ID && a.Delivered == b.Delivered && a.Stamp == b.Stamp && a.Kept == b.Kept
}

// persistRetired writes the list; an empty one needs no file.
func (s *Store) persistRetired(l retiredList) error {
	if len(l) == 0 {
		err := os.Remove(s.retiredPath)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil {
			err = durable.SyncDir(filepath.Dir(s.retiredPath))
		}
		if err != nil {
			return fmt.Errorf("persist retired workloads: %w", err)
		}
		return nil
	}
	var d retiredDocument
	for _, name := range slices.Sorted(maps.Keys(l)) {
		d.Workloads = append(d.Workloads, l[name])
	}
	if err := s.writer.SaveDocument(s.retiredPath, retiredKind, retiredVersion, d, 0o600); err != nil {
		return fmt.Errorf("persist retired workloads: %w", err)
	}
	return nil
}

// loadRetired reads the list. One that is damaged is set aside, and the volumes
// on it stay for ever: nobody knows any more what of them was delivered.
func (s *Store) loadRetired() error {
	var d retiredDocument
	err := durable.LoadDocument(s.retiredPath, retiredKind, retiredVersion, &d)
	switch {
	case err == nil:
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case errors.Is(err, durable.ErrCorrupt), errors.Is(err, durable.ErrVersion):
		aside, aerr := durable.SetAside(s.retiredPath)
		if aside == "" {
			return fmt.Errorf("open retired workloads: %w", errors.Join(err, aerr))
		}
		s.log.Error("list of retired workloads unreadable, set aside; their volumes stay",
			"path", s.retiredPath, "aside", aside, "err", err)
		return nil
	default:
		return fmt.Errorf("open retired workloads: %w", err)
	}
	for _, r := range d.Workloads {
		// A name becomes a path; whatever else is in the file has a checksum.
		if validName(r.Name, maxNameSize) && r.ID != "" && !strings.ContainsAny(r.ID, "/.") {
			r.Kept = max(r.Kept, 0)
			s.retired[r.Name] = r
		}
	}
	return nil
}

// settleRetired ends what a crash within a change left: a workload that is
// desired is not retired.
func (s *Store) settleRetired() {
	_, after, changed := s.retired.following(State{}, s.Current().state)
	if !changed {
		return
	}
	s.retired = after
	if err := s.persistRetired(after); err != nil {
		s.log.Warn("list of retired workloads not tidied up", "err", err)
	}
}

// Keeping returns what is on record of the volume of r; false: r is void.
func (s *Store) Keeping(r Retired) (Keeping, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e, ok := s.retired[r.Name]
	if !ok || e.ID != r.ID {
		return Keeping{}, false
	}
	return Keeping{Delivered: e.Delivered, Kept: e.Kept, Stamp: e.Stamp}, true
}

// Delivered records that everything in the volume of r has arrived; stamp stands
// for it. From then on the volume ages.
func (s *Store) Delivered(r Retired, stamp string) error {
	return s.amend(r, func(e retiredRecord) retiredRecord {
		e.Delivered, e.Stamp, e.Kept = true, stamp, 0
		return e
	})
}

// Undelivered takes Delivered back: there is something else in the volume.
func (s *Store) Undelivered(r Retired) error {
	return s.amend(r, func(e retiredRecord) retiredRecord {
		e.Delivered, e.Stamp, e.Kept = false, "", 0
		return e
	})
}

// Age records that the volume of r was kept for so much longer. Readers of
// snapshots are not woken.
func (s *Store) Age(r Retired, by time.Duration) error {
	return s.amend(r, func(e retiredRecord) retiredRecord {
		e.Kept += max(by, 0)
		return e
	})
}

// amend changes one entry, on disk first.
func (s *Store) amend(r Retired, change func(retiredRecord) retiredRecord) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	e, ok := s.retired[r.Name]
	if !ok || e.ID != r.ID {
		return fmt.Errorf("workload %s: %w", r.Name, ErrNotRetired)
	}
	next := maps.Clone(s.retired)
	next[r.Name] = change(e)
	if err := s.persistRetired(next); err != nil {
		return err
	}
	s.retired = next
	s.republish()
	return nil
}

// Dispose ends the retirement of r, which was delivered: it calls discard, which
// takes the volume out of its place, and forgets r when that worked. Until
// Dispose returns nothing becomes desired, so discard has to be quick; a volume
// that discard does not find was discarded before a crash.
func (s *Store) Dispose(r Retired, discard func() error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	e, ok := s.retired[r.Name]
	if !ok || e.ID != r.ID || !e.Delivered {
		return fmt.Errorf("workload %s: %w", r.Name, ErrNotRetired)
	}
	if err := discard(); err != nil {
		return err
	}
	return s.drop(r.Name) // when it fails, the next attempt finds nothing to discard
}

// Abandon forgets r: its volume stays, and nobody touches it any more.
func (s *Store) Abandon(r Retired) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e, ok := s.retired[r.Name]; !ok || e.ID != r.ID {
		return fmt.Errorf("workload %s: %w", r.Name, ErrNotRetired)
	}
	return s.drop(r.Name)
}

// drop takes one entry off the list, on disk first. Only called with mu held.
func (s *Store) drop(name string) error {
	next := maps.Clone(s.retired)
	delete(next, name)
	if err := s.persistRetired(next); err != nil {
		return err
	}
	s.retired = next
	s.republish()
	return nil
}

// republish publishes the state in force with the list as it is now.
func (s *Store) republish() {
	prev := s.Current()
	s.publish(NewSnapshot(prev.state, prev.digest))
}

func sameRetired(a, b []Retired) bool {
	return slices.EqualFunc(a, b, func(a, b Retired) bool { return a.ID == b.ID && a.Delivered == b.Delivered })
}
