package osupdate

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/project-flotta/flotta-agent/internal/durable"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// Phase says how far an update has come. It is on disk before what it names is
// done.
type Phase string

// The phases, in their order.
const (
	PhaseIdle       Phase = "idle"       // nothing was done for the goal
	PhaseLookedUp   Phase = "looked-up"  // the goal can be fetched
	PhaseStaging    Phase = "staging"    // it may be staged, or half fetched
	PhaseStaged     Phase = "staged"     // the next reboot is into it
	PhaseDraining   Phase = "draining"   // what is to be done before the reboot may have been done
	PhaseRebooting  Phase = "rebooting"  // the reboot may have been asked for
	PhaseConfirming Phase = "confirming" // it was booted, and is not known to work
	PhaseDone       Phase = "done"       // it runs
)

// open reports whether a reboot ends the phase in one way or the other.
func (p Phase) open() bool {
	switch p {
	case PhaseLookedUp, PhaseStaging, PhaseStaged, PhaseDraining, PhaseRebooting:
		return true
	case PhaseIdle, PhaseConfirming, PhaseDone:
	}
	return false
}

const (
	recordKind    = "os-update"
	recordVersion = 1
)

// record is the document on disk.
type record struct {
	Phase   Phase  `json:"phase"`
	Goal    Goal   `json:"goal"`
	ID      string `json:"id,omitempty"`      // what the host calls the goal
	From    string `json:"from,omitempty"`    // what ran when the update began
	Boot    string `json:"boot,omitempty"`    // the kernel's id of the boot that the phase is of
	Ours    string `json:"ours,omitempty"`    // what this package staged, or was staging, in that boot
	Key     string `json:"key,omitempty"`     // of the deployment that was staged
	Reboots int    `json:"reboots,omitempty"` // asked for
	Well    bool   `json:"well,omitempty"`    // the device was healthy before

	Late bool `json:"late,omitempty"` // it did not become healthy in time, which was told

	// Failed is why the goal is not tried again; empty: it may be.
	Failed string `json:"failed,omitempty"`

	// The outcome of the last update, whose goal may have been another one.
	Outcome string `json:"outcome,omitempty"` // protocol.UpgradeSucceeded or protocol.UpgradeFailed
	Time    string `json:"time,omitempty"`    // RFC 3339
	Reason  string `json:"reason,omitempty"`  // of a failure
}

// outcome returns the record with the outcome of this moment.
func (r record) outcome(status, reason string) record {
	r.Outcome, r.Reason = status, reason
	// The clock of the device, right or wrong: it is for a person and decides
	// nothing.
	r.Time = time.Now().UTC().Format(time.RFC3339)
	return r
}

// loadRecord returns what is on disk. A document that cannot be trusted is set
// aside: the device is then looked at as if nothing had been begun.
func loadRecord(path string, log *slog.Logger) (record, error) {
	var rec record
	err := durable.LoadDocument(path, recordKind, recordVersion, &rec)
	switch {
	case err == nil && rec.sane():
		return rec, nil
	case err == nil:
		err = errors.New("it makes no sense")
	case errors.Is(err, durable.ErrNotExist):
		return record{Phase: PhaseIdle}, nil
	case !errors.Is(err, durable.ErrCorrupt) && !errors.Is(err, durable.ErrVersion):
		return record{}, fmt.Errorf("load state of updates: %w", err)
	}
	aside, aerr := durable.SetAside(path)
	if aerr != nil && aside == "" {
		return record{}, fmt.Errorf("load state of updates: %w", errors.Join(err, aerr))
	}
	log.Error("state of operating system updates was damaged and is set aside; a failed commit may be tried again", "path", aside, "err", err)
	return record{Phase: PhaseIdle}, nil
}

// sane reports whether a later step can rely on the record.
func (r record) sane() bool {
	switch r.Phase {
	case PhaseIdle:
		return true
	case PhaseConfirming, PhaseDone:
		return r.ID != ""
	case PhaseLookedUp, PhaseStaging, PhaseStaged, PhaseDraining, PhaseRebooting:
		return r.ID != "" && r.Boot != "" && r.Reboots >= 0
	}
	return false
}

// upgrade returns what heartbeats say.
func (r record) upgrade(system System) *protocol.UpgradeStatus {
	return &protocol.UpgradeStatus{CurrentCommitID: system.Booted.Commit, LastUpgradeStatus: r.Outcome, LastUpgradeTime: r.Time}
}

// bootID returns the kernel's name for the time since the last boot. Unlike the
// uptime it does not depend on a clock.
func bootID() (string, error) {
	raw, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("tell this boot from others: %w", err)
	}
	id := strings.TrimSpace(string(raw))
	if id == "" {
		return "", errors.New("tell this boot from others: the kernel gives it no id")
	}
	return id, nil
}

// removeRecord removes the document.
func removeRecord(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("forget updates: %w", err)
	}
	return durable.SyncDir(filepath.Dir(path))
}
