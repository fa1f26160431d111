package edgeapi

import (
	"context"
	"errors"
	"time"

	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// Errors that a Backend returns to tell the device something. They may be
// wrapped. Any other error is the backend's own trouble: the device is told that
// the server failed, and asks again.
var (
	// ErrNotFound: there is no such device or request.
	ErrNotFound = errors.New("not found")
	// ErrNotApproved: the request is known and waits for an administrator.
	ErrNotApproved = errors.New("not approved")
	// ErrForbidden: it will not be done, however often it is asked.
	ErrForbidden = errors.New("forbidden")
	// ErrInvalid: what the device sent makes no sense.
	ErrInvalid = errors.New("invalid")
	// ErrUnauthorised: the certificate is good, but not, or no longer, the one
	// of this device; registering may help.
	ErrUnauthorised = errors.New("unauthorised")
)

// Device is the name of a device: unique within its namespace.
type Device struct {
	Namespace string
	ID        string
}

// String returns namespace/id.
func (d Device) String() string { return d.Namespace + "/" + d.ID }

// Registration is a device asking for a certificate.
type Registration struct {
	// Device names who asks. Its namespace is the one of the device's current
	// certificate, and empty when the device has none yet.
	Device Device
	// Own is true when the device proved who it is with its own certificate,
	// and false when all it has is a register certificate.
	Own bool
	// KeyFingerprint identifies the key that the certificate will be for: the
	// lower-case hexadecimal SHA-256 of its SubjectPublicKeyInfo.
	KeyFingerprint string
	// PresentedKey identifies, in the same way, the key of the certificate that
	// the device shows now: its own when Own is set.
	PresentedKey string
	// CertificateRequest is what the device sent, PEM, with a good signature.
	CertificateRequest string
	// Hardware may be nil.
	Hardware *protocol.HardwareInfo
}

// Rendered is what a device is to be told.
type Rendered struct {
	JSON    []byte    // a protocol.DeviceConfigurationMessage; never modified
	Version string    // identifies JSON: same version, same bytes; printable ASCII without quotes
	At      time.Time // when JSON was first rendered; part of the envelope, so fixed with it
}

// Backend knows the devices. Methods are called concurrently, at any time, and
// any number of times for the same thing, because devices repeat what was not
// answered. They may block on I/O and return when ctx ends.
type Backend interface {
	// Enrol records that a device asks to be managed, once; asking again changes
	// nothing. It reports whether the device already exists, which means that
	// it may register.
	Enrol(ctx context.Context, d Device, info protocol.EnrolmentInfo) (exists bool, err error)
	// RegistrationTarget returns the device that a certificate is to be issued
	// for, with its namespace, and changes nothing. ErrNotFound or
	// ErrNotApproved when there is no such device (yet). ErrForbidden when the
	// device registered before and this is not it: neither r.PresentedKey (when
	// r.Own is set) nor r.KeyFingerprint is one that it registered with. A device
	// that was approved anew may come with any certificate that names it.
	RegistrationTarget(ctx context.Context, r Registration) (Device, error)
	// CompleteRegistration records durably that the device now has a certificate
	// for r.KeyFingerprint; r.Device is the result of RegistrationTarget. It
	// checks the same conditions again, because of two that register at once.
	// The certificate is handed out only after it returned nil.
	CompleteRegistration(ctx context.Context, r Registration) error
	// Authorise reports, by nil, that a certificate for the key with that
	// fingerprint may speak for the device. ErrUnauthorised when the device is
	// managed and registered with another key: the certificate is one of an
	// earlier device of that name. Whether the device is managed is the business
	// of the other methods.
	Authorise(ctx context.Context, d Device, fingerprint string) error
	// Configuration returns what the device is to be told. ErrNotFound when it
	// is not managed.
	Configuration(ctx context.Context, d Device) (Rendered, error)
	// Heartbeat takes in a device's report. ErrNotFound when it is not managed.
	Heartbeat(ctx context.Context, d Device, report protocol.Heartbeat) error
	// Managed reports whether the device is managed. False makes it remove all
	// that it was told to run, so doubt is an error and not false.
	Managed(ctx context.Context, d Device) (bool, error)
	// Playbooks returns the playbooks that the device is to run, none being no
	// error. ErrNotFound when it is not managed.
	Playbooks(ctx context.Context, d Device) ([]protocol.PlaybookExecution, error)
	// Ready returns why requests cannot be served now, or nil.
	Ready(ctx context.Context) error
}
