package transport

import (
	"context"
	"errors"
)

// ErrUnavailable says that nothing was sent because there is no connection to
// send on. The caller keeps what it had and tries again.
var ErrUnavailable = errors.New("transport unavailable")

// Message is one frame, in either direction.
type Message struct {
	ID         string
	ResponseTo string
	Directive  string
	Metadata   map[string]string
	Content    []byte // a JSON document; may be empty
}

// Reply is what the control plane answered to a message that was sent.
type Reply struct {
	Status int               // HTTP status
	Body   []byte            // raw body; empty when there was none
	Header map[string]string // canonical header names
}

// Settings is what the transport knows about the device's connection.
type Settings struct {
	DeviceID string
	Server   string   // host:port of the Edge API
	CertFile string   // PEM; may be the same file as KeyFile
	KeyFile  string   // PEM
	CAFiles  []string // PEM; files whose certificates are trusted besides the system's
}

// Handler receives what the control plane sends down.
type Handler interface {
	// Receive takes one data message. An error is reported to the peer where
	// the transport can; the message is not delivered again because of it.
	Receive(ctx context.Context, m Message) error
	// Disconnected is called when the control plane says that this device is
	// no longer managed.
	Disconnected(ctx context.Context)
}

// Transport carries messages. Send may be called at any time, from any
// goroutine, also before and while Run connects.
type Transport interface {
	// Run connects, delivers to h one message at a time in the order of
	// arrival, and reconnects as needed. It returns nil when ctx ends, and an
	// error only when the connection can never come back in this process.
	Run(ctx context.Context, h Handler) error
	// Send posts one message and waits for the answer, at most until ctx ends.
	// The error wraps ErrUnavailable when nothing can have been delivered;
	// after any other error the message may or may not have arrived.
	Send(ctx context.Context, m Message) (Reply, error)
}
