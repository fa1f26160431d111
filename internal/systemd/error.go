package systemd

import (
	"errors"
	"fmt"
)

// Sentinels for errors.Is.
var (
	// ErrNotFound: the manager knows no such unit or unit file.
	ErrNotFound = errors.New("systemd: no such unit")
	// ErrUnavailable: there is no manager to talk to.
	ErrUnavailable = errors.New("systemd: unavailable")
	// ErrJob: a job ended with another result than done.
	ErrJob = errors.New("systemd: job failed")
	// ErrNotReloadable: the unit is not active, or knows no reload.
	ErrNotReloadable = errors.New("systemd: unit cannot be reloaded")
	// ErrEnded: the unit was reloaded, and no process of it was left.
	ErrEnded = errors.New("systemd: unit ended")
)

// CallError is what the manager refused a call with.
type CallError struct {
	Name    string // D-Bus error name
	Message string
}

// Error returns the manager's message.
func (e *CallError) Error() string { return e.Message }

// Is reports whether target is the sentinel of this error's name.
func (e *CallError) Is(target error) bool {
	switch e.Name {
	case "org.freedesktop.systemd1.NoSuchUnit", "org.freedesktop.DBus.Error.FileNotFound",
		"org.freedesktop.DBus.Error.UnknownObject":
		return target == ErrNotFound
	case "org.freedesktop.systemd1.JobTypeNotApplicable":
		return target == ErrNotReloadable
	}
	return false
}

// JobError is a job that did not get done. It is ErrJob for errors.Is.
type JobError struct {
	Unit   string
	Result string // failed, timeout, canceled, dependency, skipped …
}

// Error names the unit and the result.
func (e *JobError) Error() string { return fmt.Sprintf("job of %s: %s", e.Unit, e.Result) }

// Is reports whether target is ErrJob.
func (e *JobError) Is(target error) bool { return target == ErrJob }
