package podman

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
)

// Sentinels for errors.Is.
var (
	// ErrNotFound: Podman has no such object.
	ErrNotFound = errors.New("podman: not found")
	// ErrExists: the name is taken.
	ErrExists = errors.New("podman: name in use")
	// ErrUnavailable: nobody answers on the socket.
	ErrUnavailable = errors.New("podman: unavailable")
)

// APIError is what Podman refused a call with. It is ErrNotFound for errors.Is
// when Status is 404.
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
	return target == ErrNotFound && e.Status == http.StatusNotFound
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
