package desired

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/project-flotta/flotta-agent/internal/durable"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

const (
	documentKind    = "desired-state"
	documentVersion = 1
)

// record is the payload of the document on disk.
type record struct {
	Accepted  time.Time       `json:"accepted"`
	Leaving   bool            `json:"leaving,omitempty"`
	Withdrawn bool            `json:"withdrawn,omitempty"`
	Message   json.RawMessage `json:"message,omitempty"`
}

// RejectedError says why a message was refused. Reason holds nothing of the
// message's content.
type RejectedError struct{ Reason string }

func (e *RejectedError) Error() string { return "reject configuration: " + e.Reason }

// Rejection is the newest message that was refused while an older one stayed in
// force. Time is when it came first, however often it is sent again.
type Rejection struct {
	Reason  string
	Version string // empty when it could not be read
	Time    time.Time
}

// Store keeps the desired state. Its methods may be called from any goroutine;
// Current and Rejected never block on the disk.
type Store struct {
	path        string
	retiredPath string
	deviceID    string
	log         *slog.Logger
	writer      durable.Writer // faults for tests

	current  atomic.Pointer[Snapshot]
	rejected atomic.Pointer[Rejection]

	mu      sync.Mutex         // one Accept at a time
	inForce *[sha256.Size]byte // sum of the message in force, nil when not known
	refused *[sha256.Size]byte // sum of the message in rejected
	unknown bool               // an unknown field was logged
	retired retiredList        // as it is on disk; replaced, never changed
}

// Open loads the desired state from path, whose folder must exist. A file that
// is damaged, that this version does not read, or that is for another device is
// set aside with a log line, and the device starts as told nothing. The list of
// retired workloads is kept beside it. The error is one of reading the disk.
func Open(path, deviceID string, log *slog.Logger) (*Store, error) {
	s := &Store{
		path: path, retiredPath: filepath.Join(filepath.Dir(path), retiredFile),
		deviceID: deviceID, log: log, retired: retiredList{},
	}
	if err := s.loadRetired(); err != nil {
		return nil, err
	}
	s.current.Store(s.untold())
	if err := s.open(); err != nil {
		return nil, err
	}
	s.settleRetired()
	s.Current().state.Retired = s.retired.view() // nobody has seen it yet
	return s, nil
}

func (s *Store) open() error {
	err := s.load()
	switch {
	case err == nil, errors.Is(err, fs.ErrNotExist):
		return nil
	case errors.Is(err, durable.ErrCorrupt), errors.Is(err, durable.ErrVersion):
		aside, aerr := durable.SetAside(s.path)
		if aside == "" {
			return fmt.Errorf("open desired state: %w", errors.Join(err, aerr))
		}
		s.log.Error("desired state unreadable, set aside", "path", s.path, "aside", aside, "err", err)
		return nil
	default:
		return fmt.Errorf("open desired state: %w", err)
	}
}

func (s *Store) load() error {
	var r record
	if err := durable.LoadDocument(s.path, documentKind, documentVersion, &r); err != nil {
		return err
	}
	switch {
	case r.Withdrawn:
		s.current.Store(s.withdrawn(r.Message))
		return nil
	case r.Leaving:
		s.current.Store(s.leaving(s.told(r.Message)))
		return nil
	}
	next, _, err := s.snapshot(r.Message)
	if err != nil {
		return &durable.CorruptError{Path: s.path, Reason: err.Error()}
	}
	s.current.Store(next)
	return nil
}

// Current returns the snapshot in force. It is never nil; its digest is empty
// when the device was told nothing yet.
func (s *Store) Current() *Snapshot { return s.current.Load() }

// Rejected returns the newest message that was refused, and false when none was
// since the last one that was accepted.
func (s *Store) Rejected() (Rejection, bool) {
	if r := s.rejected.Load(); r != nil {
		return *r, true
	}
	return Rejection{}, false
}

// Accept puts the configuration message raw, the JSON content of a data
// message, into force: on disk first, then for the readers. Nothing is written
// when it says what is in force already. The error is a *RejectedError when the
// message makes no sense, ErrLeaving while the device clears away what it was
// told before; any other error is of the disk. All leave the last good message
// in force.
func (s *Store) Accept(raw []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.Current().state.Managed() {
		return ErrLeaving
	}
	sum := sha256.Sum256(raw)
	if s.inForce != nil && sum == *s.inForce { // every poll of an unchanged device
		s.rejected.Store(nil)
		s.refused = nil
		return nil
	}
	if r := s.rejected.Load(); r != nil && s.refused != nil && sum == *s.refused { // sent again
		return &RejectedError{Reason: r.Reason}
	}
	next, version, err := s.snapshot(raw)
	if err != nil {
		s.refused = &sum
		s.rejected.Store(&Rejection{Reason: err.Error(), Version: printable(version, maxReasonSize), Time: time.Now()})
		return &RejectedError{Reason: err.Error()}
	}
	s.logUnknown(raw)
	if next.digest != s.Current().digest {
		err := s.change(s.Current().state, next.state, func() error {
			return s.persist(record{Accepted: time.Now().UTC(), Message: raw})
		})
		if err != nil {
			return err
		}
	}
	s.inForce, s.refused = &sum, nil
	s.rejected.Store(nil)
	s.publish(next)
	return nil
}

func (s *Store) persist(r record) error {
	if err := s.writer.SaveDocument(s.path, documentKind, documentVersion, r, 0o600); err != nil {
		return fmt.Errorf("persist desired state: %w", err)
	}
	return nil
}

// publish replaces the snapshot in force, unless next says just the same. Only
// called with mu held; what is retired is filled in here.
func (s *Store) publish(next *Snapshot) {
	prev := s.Current()
	next.state.Retired = s.retired.view()
	if prev.digest == next.digest && prev.state.Version == next.state.Version &&
		sameRetired(prev.state.Retired, next.state.Retired) {
		return
	}
	s.current.Store(next)
	close(prev.superseded)
}

// snapshot decodes raw. The error is the reason to refuse it; version is what
// could be read of it even then.
func (s *Store) snapshot(raw []byte) (next *Snapshot, version string, err error) {
	m, err := parse(raw)
	if err == nil {
		err = checkDevice(m, s.deviceID)
	}
	if err != nil {
		return nil, m.Version, err
	}
	d, err := digest(m)
	if err != nil {
		return nil, m.Version, err
	}
	return NewSnapshot(decode(m, s.deviceID), d), m.Version, nil
}

// logUnknown says once that the server knows more than this agent.
func (s *Store) logUnknown(raw []byte) {
	if s.unknown || !s.log.Enabled(context.Background(), slog.LevelDebug) {
		return
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	var m protocol.DeviceConfigurationMessage
	if err := d.Decode(&m); err != nil {
		// The message was decoded before: it is an unknown field, and its name
		// is all that the error quotes.
		s.unknown = true
		s.log.Debug("configuration has unknown fields, ignored", "err", printable(err.Error(), maxReasonSize))
	}
}
