package apply

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// Reasons for which a mount is not as it is configured.
const (
	ReasonRefused  = "MountRefused"  // it makes no sense, or is not allowed
	ReasonConflict = "MountConflict" // the folder or the device is somebody else's
	ReasonNoDevice = "DeviceMissing" // the device is not there
	ReasonBusy     = "MountBusy"     // it would have to be unmounted, and is in use
	ReasonReadOnly = "MountReadOnly" // nothing can be written to it, and that was not asked for
	ReasonFailed   = "MountFailed"   // systemd or the kernel could not do it

	reasonMounted   = "Mounted"   // of an event
	reasonUnmounted = "Unmounted" // of an event
)

// Mount is one configured mount, or one that is configured no more and not gone
// yet.
type Mount struct {
	Device, Directory, Type, Options string // as configured, shortened where they make no sense

	Mounted bool   // as it is configured, as of the latest look
	Reason  string // one of the Reasons; empty: nothing is wrong
	Message string // says what is wrong and what to do, for a person
}

// Status says how the mounts are. It is a value that nobody changes.
type Status struct{ Mounts []Mount }

// condition is an error that is a state of a mount.
type condition struct{ reason, message string }

func (c *condition) Error() string { return c.message }

func conditionf(reason, format string, args ...any) error {
	return &condition{reason, fmt.Sprintf(format, args...)}
}

// with returns the mount with what err says of it.
func (m Mount) with(err error) Mount {
	m.Mounted = err == nil
	if err == nil {
		return m
	}
	m.Reason, m.Message = ReasonFailed, err.Error()
	if c, ok := errors.AsType[*condition](err); ok {
		m.Reason = c.reason
		m.Mounted = c.reason == ReasonReadOnly
	}
	return m
}

// Status returns how the mounts are. It may be called at any time.
func (r *Reconciler) Status() Status {
	r.board.Lock()
	defer r.board.Unlock()
	return Status{slices.Clone(r.status.Mounts)}
}

// Problems returns what is wrong with the mounts, a sentence for each; none:
// nothing is.
func (r *Reconciler) Problems() []string {
	var out []string
	for _, m := range r.Status().Mounts {
		if m.Reason != "" {
			out = append(out, fmt.Sprintf("mount %s: %s", m.Directory, m.Message))
		}
	}
	return out
}

// Changed returns a channel that is closed as soon as Status returns something
// else than it does now. Take it before Status, and no change is missed.
func (r *Reconciler) Changed() <-chan struct{} {
	r.board.Lock()
	defer r.board.Unlock()
	return r.changed
}

// publish shows a new status, and says once what is new in it.
func (r *Reconciler) publish(list []Mount) {
	r.board.Lock()
	old := r.status.Mounts
	if !slices.Equal(old, list) {
		r.status = Status{list}
		close(r.changed)
		r.changed = make(chan struct{})
	}
	r.board.Unlock()
	for _, m := range list {
		if slices.Contains(old, m) {
			continue
		}
		i := slices.IndexFunc(old, func(o Mount) bool { return o.Directory == m.Directory && o.Device == m.Device })
		before := Mount{}
		if i >= 0 {
			before = old[i]
		}
		r.tell(before, m)
	}
}

// tell logs and reports what changed about one mount.
func (r *Reconciler) tell(before, m Mount) {
	log := r.cfg.Log.With("directory", m.Directory, "device", m.Device)
	switch {
	case m.Reason != "" && m.Reason != before.Reason:
		log.Warn("mount is not as it is configured, will look again", "reason", m.Reason, "problem", m.Message)
		r.emit("warn", m.Reason, fmt.Sprintf("mount %s: %s", m.Directory, m.Message))
	case m.Reason == "" && m.Mounted && (before.Reason != "" || !before.Mounted):
		log.Info("mount is as it is configured", "type", m.Type)
	}
}

func (r *Reconciler) emit(kind, reason, message string) {
	if r.cfg.Event != nil {
		r.cfg.Event(protocol.EventInfo{Type: kind, Reason: reason, Message: message})
	}
}

// joined is a list of errors in one line.
func joined(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }
