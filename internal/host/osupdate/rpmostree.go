package osupdate

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	shortTimeout  = 2 * time.Minute // what only asks; the daemon may have to start
	lookupTimeout = 5 * time.Minute
	// stageTimeout is for a slow link. What was fetched is kept, so that the next
	// attempt goes on there.
	stageTimeout = 6 * time.Hour

	maxDeployments = 64
)

// rpmOstree updates a host through rpm-ostree.
type rpmOstree struct {
	run     runner
	root    string
	scratch string

	mu     sync.Mutex
	origin string // of what is booted, as last seen
}

// rpmOstreeStatus is what `rpm-ostree status --json` says, of which only this is
// read.
type rpmOstreeStatus struct {
	Deployments []rpmOstreeDeployment `json:"deployments"`
	Transaction json.RawMessage       `json:"transaction"` // null, or title, client and address
}

type rpmOstreeDeployment struct {
	OSName       string `json:"osname"`
	Checksum     string `json:"checksum"`
	BaseChecksum string `json:"base-checksum"` // where packages were layered
	Serial       int    `json:"serial"`
	Version      string `json:"version"`
	Origin       string `json:"origin"`
	Booted       bool   `json:"booted"`
	Staged       bool   `json:"staged"`
}

// Read implements Target.
func (t *rpmOstree) Read(ctx context.Context) (System, error) {
	raw, err := t.run.run(ctx, shortTimeout, "rpm-ostree", "status", "--json")
	if err != nil {
		return System{}, err
	}
	system, origin, err := parseRpmOstree(raw)
	if err != nil {
		return System{}, fmt.Errorf("understand rpm-ostree status: %w", err)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.origin = origin
	return system, nil
}

// parseRpmOstree returns also the origin of what is booted.
func parseRpmOstree(raw []byte) (System, string, error) {
	var status rpmOstreeStatus
	if err := json.Unmarshal(raw, &status); err != nil {
		return System{}, "", errors.New("it is not the JSON that was asked for")
	}
	if len(status.Deployments) > maxDeployments {
		return System{}, "", fmt.Errorf("it names %d deployments", len(status.Deployments))
	}
	booted := -1
	for i, d := range status.Deployments {
		switch {
		case !commitForm.MatchString(d.Checksum) || d.BaseChecksum != "" && !commitForm.MatchString(d.BaseChecksum):
			return System{}, "", fmt.Errorf("deployment %d has the checksum %.80q", i, d.Checksum)
		case d.Booted && booted >= 0:
			return System{}, "", errors.New("it names two deployments that are booted")
		case d.Booted:
			booted = i
		}
	}
	if booted < 0 {
		return System{}, "", errors.New("it names no deployment that is booted")
	}
	system := System{Tool: "rpm-ostree", Busy: transaction(status.Transaction)}
	for i, d := range status.Deployments {
		switch {
		case i == booted:
			system.Booted = d.deployment()
		case d.OSName != status.Deployments[booted].OSName: // another operating system's
		case i < booted:
			system.Pending = append(system.Pending, d.deployment())
		default:
			system.Fallback = append(system.Fallback, d.deployment())
		}
	}
	return system, strings.TrimPrefix(status.Deployments[booted].Origin, "ostree://"), nil
}

func (d rpmOstreeDeployment) deployment() Deployment {
	out := Deployment{ID: d.Checksum, Key: d.Checksum + "." + strconv.Itoa(d.Serial), Version: clip(d.Version, 100), Staged: d.Staged}
	if d.BaseChecksum != "" {
		out.ID = d.BaseChecksum
	}
	out.Commit = out.ID
	return out
}

// transaction names what is going on; empty: nothing is.
func transaction(raw json.RawMessage) string {
	var parts []string
	switch err := json.Unmarshal(raw, &parts); {
	case len(raw) == 0 || bytes.Equal(raw, []byte("null")):
		return ""
	case err != nil || len(parts) == 0 || strings.TrimSpace(parts[0]) == "":
		return "unknown" // something is
	}
	return clip(parts[0], 100)
}

// remote returns the remote that the host is updated from, as last seen.
func (t *rpmOstree) remote() (remote, error) {
	t.mu.Lock()
	origin := t.origin
	t.mu.Unlock()
	name, _, is := strings.Cut(origin, ":")
	if !is || !remoteForm.MatchString(name) {
		return remote{}, fmt.Errorf("the booted deployment comes from %.80q and not from a remote: rebase the host to REMOTE:REF once", origin)
	}
	return findRemote(t.root, name)
}

// Lookup implements Target.
func (t *rpmOstree) Lookup(ctx context.Context, goal Goal) error {
	r, err := t.remote()
	if err != nil {
		return err
	}
	return lookup(ctx, t.run, t.scratch, r, goal.URL, goal.Commit)
}

// Source implements Target.
func (t *rpmOstree) Source(_ context.Context, goal Goal) error {
	if goal.URL == "" {
		return nil
	}
	r, err := t.remote()
	if err != nil {
		return err
	}
	_, err = r.set(goal.URL)
	return err
}

// Stage implements Target.
func (t *rpmOstree) Stage(ctx context.Context, goal Goal) error {
	// A commit that the configuration names need not be in the history of the
	// branch: images are often built without one, and it may be older.
	_, err := t.run.run(ctx, stageTimeout, "rpm-ostree", "deploy", "--skip-branch-check", "revision="+goal.Commit)
	return err
}

// Unstage implements Target.
func (t *rpmOstree) Unstage(ctx context.Context) error {
	_, err := t.run.run(ctx, shortTimeout, "rpm-ostree", "cleanup", "--pending")
	return err
}
