package osupdate

import (
	"context"
	"errors"
)

// ErrNoTool says that nothing on this host can update its operating system as a
// whole.
var ErrNoTool = errors.New("this host has neither rpm-ostree nor bootc, or was not booted from what they manage")

// Deployment is one operating system on the host's disk.
type Deployment struct {
	// ID is what a Goal calls it: a commit of ostree, or the reference of an
	// image.
	ID string
	// Commit is what heartbeats call it: the commit, or the digest of the image.
	Commit string
	// Key tells it from another deployment of the same ID; empty: the tool does
	// not say. It is what the folder of the deployment is called.
	Key     string
	Version string // for a person
	// Staged says that it becomes a deployment only when the machine is shut
	// down in order, and is lost when the power is.
	Staged bool
}

// System is what there is on the host's disk.
type System struct {
	Tool   string // rpm-ostree or bootc
	Images bool   // whether it takes images, not commits
	Booted Deployment
	// Pending is what the next boot takes, unless it is the same as the booted
	// one; the first one of several.
	Pending []Deployment
	// Fallback are the others.
	Fallback []Deployment
	// Busy names what somebody else is doing to the deployments; empty: nothing.
	Busy string
}

// next returns what the next boot takes; false: what is booted now.
func (s System) next() (Deployment, bool) {
	if len(s.Pending) == 0 {
		return Deployment{}, false
	}
	return s.Pending[0], true
}

// finished reports whether there is a deployment of that key that is not booted
// and was more than staged: one that was booted, or could have been.
func (s System) finished(key string) bool {
	if key == "" {
		return false
	}
	for _, list := range [][]Deployment{s.Pending, s.Fallback} {
		for _, d := range list {
			if d.Key == key && !d.Staged {
				return true
			}
		}
	}
	return false
}

// Target is the tool that changes the operating system. Every method may block
// until ctx ends, and may be called again after any failure. The others are
// called after a Read that worked.
type Target interface {
	// Read returns what there is, and changes nothing. The error is ErrNoTool
	// where there is nothing to ask.
	Read(ctx context.Context) (System, error)
	// Lookup returns nil when the goal can be fetched. It changes nothing.
	Lookup(ctx context.Context, goal Goal) error
	// Source makes the host fetch from where the goal says, and writes nothing
	// when it does already.
	Source(ctx context.Context, goal Goal) error
	// Stage fetches the goal and makes it what the next boot takes. It does not
	// reboot.
	Stage(ctx context.Context, goal Goal) error
	// Unstage undoes Stage.
	Unstage(ctx context.Context) error
}
