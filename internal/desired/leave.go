package desired

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/project-flotta/flotta-agent/internal/durable"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
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
// place, all workloads are Retired, and nothing of the configuration is left on
// the disk but the storage, for what they write until they have ended.
func (s *Store) Withdraw() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	current := s.Current()
	if current.state.Withdrawn {
		return nil
	}
	var r record
	if err := durable.LoadDocument(s.path, documentKind, documentVersion, &r); err != nil {
		r = record{} // Leave has said what that means
	}
	message := storageOnly(r.Message)
	err := s.change(current.state, State{}, func() error {
		return s.persist(record{Accepted: time.Now().UTC(), Withdrawn: true, Message: message})
	})
	if err != nil {
		return err
	}
	s.replace(s.withdrawn(message))
	return nil
}

// Relinquish ends the delivery of a device that is Withdrawn, on disk first: the
// storage is gone, and the workloads that are not delivered leave the list. It
// returns those; nobody touches their volumes any more.
func (s *Store) Relinquish() ([]Retired, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.Current().state.Withdrawn {
		return nil, nil
	}
	next := maps.Clone(s.retired)
	maps.DeleteFunc(next, func(_ string, r retiredRecord) bool { return !r.Delivered })
	kept := maps.Clone(s.retired)
	maps.DeleteFunc(kept, func(_ string, r retiredRecord) bool { return r.Delivered })
	if err := s.persistRetired(next); err != nil {
		return nil, err
	}
	s.retired = next
	if s.Current().state.Storage != nil {
		if err := s.persist(record{Accepted: time.Now().UTC(), Withdrawn: true}); err != nil {
			s.republish()
			return kept.view(), err
		}
	}
	s.replace(s.withdrawn(nil))
	return kept.view(), nil
}

// storageOnly returns a message that configures nothing but the storage of raw;
// nil when it has none.
func storageOnly(raw json.RawMessage) json.RawMessage {
	m, err := parse(raw)
	if err != nil || m.Configuration.Storage == nil {
		return nil
	}
	only, err := json.Marshal(protocol.DeviceConfigurationMessage{
		DeviceID: m.DeviceID, Configuration: &protocol.DeviceConfiguration{Storage: m.Configuration.Storage},
	})
	if err != nil {
		return nil
	}
	return only
}

// Forget ends Withdrawn: the device is as if it had never been told anything,
// and Accept takes configurations again. Copies that were set aside go too. The
// list of retired workloads stays as long as there are any.
func (s *Store) Forget() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.Current().state.Withdrawn {
		return nil
	}
	// The asides first: as long as the file is there, a crash is made up for.
	asides, err := filepath.Glob(s.path + ".corrupt-*")
	more, moreErr := filepath.Glob(s.retiredPath + ".corrupt-*")
	err = errors.Join(err, moreErr)
	for _, path := range slices.Concat(asides, more) {
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

// withdrawn is the snapshot of a device that has nothing to run; message is nil
// or says where to deliver.
func (s *Store) withdrawn(message json.RawMessage) *Snapshot {
	state := State{
		DeviceID:  s.deviceID,
		Heartbeat: Heartbeat{Period: DefaultHeartbeatPeriod},
		Withdrawn: true,
	}
	digest := withdrawnDigest
	if last := s.told(message); last.state.Storage != nil {
		state.Storage = last.state.Storage
		digest = withdrawingDigest
	}
	return NewSnapshot(state, digest)
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
