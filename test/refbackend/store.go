package refbackend

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"sync"

	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// ErrUnknown is wrapped by errors that say that there is no such device.
var ErrUnknown = errors.New("no such device")

// State is where a device is in its life.
type State int

// States of a device.
const (
	Waiting    State = iota // it asked, and nobody decided
	Approved                // it may register
	Registered              // it has a certificate
	Removed                 // it is no longer managed
)

// Names of the files of a device.
const (
	enrolmentFile     = "enrolment.json"
	approvedFile      = "approved"
	registrationFile  = "registration.json"
	configurationFile = "configuration.json"
	playbooksFile     = "playbooks.json"
	heartbeatFile     = "heartbeat.json"
	removedFile       = "removed"
)

// Store keeps devices in a folder. It is safe for concurrent use, and files may
// be edited by hand meanwhile.
type Store struct {
	dir string
	mu  sync.Mutex // held while more than one file is changed
}

// NewStore returns the store in a folder, which is made when it is missing.
func NewStore(dir string) (*Store, error) {
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return nil, fmt.Errorf("make folder of devices: %w", err)
	}
	return &Store{dir: dir}, nil
}

// device is the folder of one device.
type device struct {
	namespace, id, dir string
}

// names are DNS labels and subdomains, as Kubernetes has them. They cannot be
// "..", and have no slash.
const (
	namespaceNames = `^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`
	deviceNames    = `^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$`
)

// named returns the folder that a device has or would have.
func (s *Store) named(namespace, id string) (device, error) {
	okNamespace, _ := regexp.MatchString(namespaceNames, namespace)
	okID, _ := regexp.MatchString(deviceNames, id)
	if !okNamespace || !okID || len(id) > 253 {
		return device{}, fmt.Errorf("device %q in namespace %q: %w", id, namespace, ErrUnknown)
	}
	return device{namespace, id, filepath.Join(s.dir, namespace, id)}, nil
}

// find returns a device that is known. One that has no certificate yet is asked
// for in the namespace "default", wherever it is: then the others are searched.
func (s *Store) find(namespace, id string) (device, error) {
	d, err := s.named(namespace, id)
	if err != nil || d.has(enrolmentFile) {
		return d, err
	}
	if namespace != protocol.DefaultTargetNamespace {
		return d, fmt.Errorf("device %s/%s: %w", namespace, id, ErrUnknown)
	}
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return d, fmt.Errorf("list namespaces: %w", err)
	}
	for _, e := range entries {
		if other, err := s.named(e.Name(), id); err == nil && other.has(enrolmentFile) {
			return other, nil
		}
	}
	return d, fmt.Errorf("device %s: %w", id, ErrUnknown)
}

func (d device) has(file string) bool {
	_, err := os.Stat(filepath.Join(d.dir, file))
	return err == nil
}

func (d device) state() State {
	switch {
	case d.has(removedFile):
		return Removed
	case !d.has(approvedFile):
		return Waiting
	case d.has(registrationFile):
		return Registered
	}
	return Approved
}

// read decodes a file of the device. A missing one is fs.ErrNotExist.
func (d device) read(file string, into any) error {
	raw, err := os.ReadFile(filepath.Join(d.dir, file))
	if err != nil {
		return err
	}
	if err := json.Unmarshal(raw, into); err != nil {
		return fmt.Errorf("decode %s of device %s/%s: %w", file, d.namespace, d.id, err)
	}
	return nil
}

// write replaces a file of the device.
func (d device) write(file string, content any) error {
	raw, err := json.MarshalIndent(content, "", "  ")
	if err != nil {
		return fmt.Errorf("encode %s: %w", file, err)
	}
	if err := os.MkdirAll(d.dir, 0o750); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(d.dir, ".new-*")
	if err != nil {
		return err
	}
	_, err = tmp.Write(append(raw, '\n'))
	err = errors.Join(err, tmp.Sync(), tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), filepath.Join(d.dir, file))
	}
	if err != nil {
		return errors.Join(err, os.Remove(tmp.Name()))
	}
	return nil
}

func (d device) remove(file string) error {
	if err := os.Remove(filepath.Join(d.dir, file)); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// State returns where a device is in its life.
func (s *Store) State(namespace, id string) (State, error) {
	d, err := s.find(namespace, id)
	if err != nil {
		return Waiting, err
	}
	return d.state(), nil
}

// Approve lets a device register. One that was registered or removed before
// starts anew: the key that it had is forgotten. The order of the three steps
// matters to who looks between them, or after a crash.
func (s *Store) Approve(namespace, id string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	d, err := s.find(namespace, id)
	if err != nil {
		return err
	}
	return errors.Join(d.remove(registrationFile), d.write(approvedFile, true), d.remove(removedFile))
}

// Remove ends the management of a device.
func (s *Store) Remove(namespace, id string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	d, err := s.find(namespace, id)
	if err != nil {
		return err
	}
	return errors.Join(d.write(removedFile, true), d.remove(approvedFile))
}

// Configure says what a device is to do.
func (s *Store) Configure(namespace, id string, c protocol.DeviceConfigurationMessage) error {
	d, err := s.named(namespace, id)
	if err != nil {
		return err
	}
	return d.write(configurationFile, c)
}

// Heartbeat returns what a device reported last.
func (s *Store) Heartbeat(namespace, id string) (protocol.Heartbeat, error) {
	var h protocol.Heartbeat
	d, err := s.find(namespace, id)
	if err != nil {
		return h, err
	}
	err = d.read(heartbeatFile, &h)
	return h, err
}

// enrol records that a device asks, once. It reports whether the device may
// register, or has done so. A removed device waits for an approval again, and
// stays removed until then.
func (s *Store) enrol(namespace, id string, info protocol.EnrolmentInfo, approve bool) (exists bool, err error) {
	s.mu.Lock()
	d, err := s.named(namespace, id)
	if err == nil && !d.has(enrolmentFile) {
		err = d.write(enrolmentFile, info)
	}
	s.mu.Unlock()
	if err != nil {
		return false, err
	}
	state := d.state()
	if state == Waiting && approve {
		err = s.Approve(namespace, id)
	}
	return state == Approved || state == Registered, err
}

// errState is wrapped by errors that say that a device is not in a state for
// what was asked.
var errState = errors.New("not now")

// register records that a device gets a certificate.
func (s *Store) register(namespace, id string, info protocol.RegistrationInfo) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	d, err := s.find(namespace, id)
	if err != nil {
		return err
	}
	if state := d.state(); state != Approved && state != Registered {
		return fmt.Errorf("device %s/%s is not approved: %w", d.namespace, d.id, errState)
	}
	return d.write(registrationFile, info)
}

// managed returns a device that is to be told something.
func (s *Store) managed(namespace, id string) (device, error) {
	d, err := s.find(namespace, id)
	if err != nil {
		return d, err
	}
	if d.state() != Registered {
		return d, fmt.Errorf("device %s/%s is not registered: %w", namespace, id, errState)
	}
	return d, nil
}
