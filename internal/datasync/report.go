package datasync

import (
	"fmt"
	"sync"

	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// Reasons of the events that this package reports.
const (
	reasonPathRefused   = "DataPathRefused"    // a configured path is not acceptable
	reasonPathLoop      = "DataPathLoop"       // egress and ingress would feed each other
	reasonStorage       = "StorageInvalid"     // the bucket's settings are not usable
	reasonFileSkipped   = "FileSkipped"        // not a regular file
	reasonFileRefused   = "FileRefused"        // a name that S3 can't hold
	reasonObjectRefused = "ObjectRefused"      // a key that the device can't hold
	reasonFileKept      = "LocalFileKept"      // a conflict: what the workload wrote was put aside
	reasonFailing       = "DataSyncFailing"    // a direction does not work at the moment
	reasonRecovered     = "DataSyncRecovered"  // it works again
	reasonDiskFull      = "DiskReserveReached" // downloads wait for space
	reasonDiskFreed     = "DiskReserveFreed"   // they go on
	reasonQuotaReached  = "QuotaReached"       // downloads wait for space in their own volume
	reasonQuotaFreed    = "QuotaFreed"         // they go on
	reasonWatchLimit    = "WatchLimit"         // the kernel gives no more notifications: changes are seen by walks
	reasonWatchBack     = "WatchLimitLifted"   // it gives them again
	reasonPathOverlap   = "DataPathOverlap"    // two data paths lead to the same place
	reasonCollision     = "ObjectsCollide"     // two keys would be the same file
	reasonMissing       = "ObjectsMissing"     // an audit found less in the bucket than was sent
)

// maxReports bounds how many files of one kind are reported one by one: whoever
// writes into a volume must not be able to flood the control plane.
const maxReports = 16

// reporter reports each thing once. It is safe for concurrent use.
type reporter struct {
	workload string
	dir      direction
	event    func(protocol.EventInfo)

	mu   sync.Mutex
	seen map[string]map[string]bool // reason, then path
}

// once reports a path, unless that was done before.
func (r *reporter) once(reason, path, why string) {
	r.mu.Lock()
	seen := r.seen[reason]
	if seen == nil {
		seen = map[string]bool{}
		r.seen[reason] = seen
	}
	if seen[path] || len(seen) > maxReports {
		r.mu.Unlock()
		return
	}
	seen[path] = true
	last := len(seen) > maxReports
	r.mu.Unlock()
	if last {
		r.send(reason, protocol.EventWarnType, "there are more of them; no further ones are reported")
		return
	}
	r.send(reason, protocol.EventWarnType, fmt.Sprintf("%q: %s", path, why))
}

func (r *reporter) send(reason, kind, message string) {
	r.event(protocol.EventInfo{
		Reason:  reason,
		Type:    kind,
		Message: fmt.Sprintf("workload %s, %s: %s", r.workload, r.dir, message),
	})
}
