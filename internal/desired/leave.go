package desired

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/project-flotta/flotta-agent/internal/durable"
)

// ErrLeaving says that a configuration came while the device still clears away
// what it was told before.
var ErrLeaving = errors.New("the device is leaving, and takes no configuration until it has left")

// Leave puts the end of being managed into force, on disk first: a State that
// is Leaving. From then on Accept refuses everything until Forget, in this and
// in every later process. Began is false when the device was leaving already.
func (s *Store) Leave() (began bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	current := s.Current()
	if !current.state.Managed() {
		return false, nil
	}
	var r record
	err = durable.LoadDocument(s.path, documentKind, documentVersion, &r)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		// Without the message a start finds nothing to deliver. That is no
		// reason to go on as if the device were managed.
		s.log.Warn("desired state unreadable, a restart will deliver nothing", "path", s.path, "err", err)
		r = record{}
	}
	if err := s.persist(record{Accepted: time.Now().UTC(), Leaving: true, Message: r.Message}); err != nil {
		return false, err
	}
	s.replace(s.leaving(current))
	return true, nil
}

// Withdraw ends Leaving, on disk first: a State that is Withdrawn takes its
// place, and the configuration with its secrets is gone from the disk.
func (s *Store) Withdraw() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.Current().state.Withdrawn {
		return nil
	}
	if err := s.persist(record{Accepted: time.Now().UTC(), Withdrawn: true}); err != nil {
		return err
	}
	s.replace(s.withdrawn())
	return nil
}

// Forget ends Withdrawn: the device is as if it had never been told anything,
// and Accept takes configurations again. Copies that were set aside go too.
func (s *Store) Forget() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.Current().state.Withdrawn {
		return nil
	}
	// The asides first: as long as the file is there, a crash is made up for.
	asides, err := filepath.Glob(s.path + ".corrupt-*")
	for _, path := range asides {
		err = errors.Join(err, os.RemoveAll(path))
	}
	if err == nil {
		err = os.Remove(s.path)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("forget desired state: %w", err)
	}
	if err := durable.SyncDir(filepath.Dir(s.path)); err != nil {
		return fmt.Errorf("forget desired state: %w", err)
	}
	s.replace(s.untold())
	return nil
}

// replace publishes what is not an accepted message. Only called with mu held.
func (s *Store) replace(next *Snapshot) {
	s.inForce, s.refused = nil, nil
	s.rejected.Store(nil)
	s.publish(next)
}

// untold is the snapshot of a device that was told nothing.
func (s *Store) untold() *Snapshot {
	return NewSnapshot(State{DeviceID: s.deviceID, Heartbeat: Heartbeat{Period: DefaultHeartbeatPeriod}}, "")
}

func (s *Store) withdrawn() *Snapshot {
	return NewSnapshot(State{
		DeviceID:  s.deviceID,
		Heartbeat: Heartbeat{Period: DefaultHeartbeatPeriod},
		Withdrawn: true,
	}, withdrawnDigest)
}

func (s *Store) leaving(last *Snapshot) *Snapshot {
	state := last.state
	state.Leaving = true
	return NewSnapshot(state, leavingPrefix+last.digest)
}

// told decodes the message that a leaving device was told last. One that cannot
// be decoded is as good as none: there is nothing to go back to.
func (s *Store) told(raw json.RawMessage) *Snapshot {
	if len(raw) == 0 {
		return s.untold()
	}
	last, _, err := s.snapshot(raw)
	if err != nil {
		s.log.Warn("last configuration unreadable, nothing will be delivered", "path", s.path, "err", err)
		return s.untold()
	}
	return last
}
