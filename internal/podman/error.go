package podman

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"syscall"
)

// Sentinels for errors.Is.
var (
	// ErrNotFound: Podman has no such object.
	ErrNotFound = errors.New("podman: not found")
	// ErrExists: the name is taken.
	ErrExists = errors.New("podman: name in use")
	// ErrNoSpace: a file system is full.
	ErrNoSpace = errors.New("podman: no space left")
	// ErrUnavailable: nobody answers on the socket.
	ErrUnavailable = errors.New("podman: unavailable")
)

// APIError is what Podman refused a call with. For errors.Is it is ErrNotFound
// when Status is 404, and ErrNoSpace when the message has the system's words for
// that: Podman has no other sign of it.
type APIError struct {
	Status  int    // HTTP status; 0 when Podman reported it inside a stream
	Cause   string // the innermost error
	Message string // the whole chain of errors
}

// Error returns Podman's message.
func (e *APIError) Error() string {
	switch {
	case e.Message != "":
		return e.Message
	case e.Cause != "":
		return e.Cause
	default:
		return fmt.Sprintf("podman answered %d", e.Status)
	}
}

// Is reports whether target is the sentinel of this error's status.
func (e *APIError) Is(target error) bool {
	switch target {
	case ErrNotFound:
		return e.Status == http.StatusNotFound
	case ErrNoSpace:
		return strings.Contains(e.Error(), syscall.ENOSPC.Error()) || strings.Contains(e.Error(), syscall.EDQUOT.Error())
	default:
		return false
	}
}

func decodeError(status int, raw []byte) *APIError {
	e := &APIError{Status: status}
	var body struct {
		Cause   string `json:"cause"`
		Message string `json:"message"`
	}
	if json.Unmarshal(raw, &body) == nil {
		e.Cause, e.Message = body.Cause, body.Message
	}
	return e
}
