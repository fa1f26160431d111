package agent

import (
	"context"
	"fmt"
	"slices"

	"github.com/project-flotta/flotta-agent/internal/console"
	"github.com/project-flotta/flotta-agent/internal/datasync"
	"github.com/project-flotta/flotta-agent/internal/desired"
	"github.com/project-flotta/flotta-agent/internal/heartbeat"
	"github.com/project-flotta/flotta-agent/internal/host/osupdate"
	"github.com/project-flotta/flotta-agent/internal/host/playbook"
	"github.com/project-flotta/flotta-agent/internal/identity"
	"github.com/project-flotta/flotta-agent/internal/workload"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// maxDetailBytes bounds what all workloads say about themselves in a heartbeat.
// The server takes 1 MiB; JSON can need six bytes for one of them, and there are
// events and the hardware beside.
const maxDetailBytes = 96 << 10

// reporting makes one report of what the components publish, so that neither
// they nor the heartbeat know of each other.
type reporting struct {
	reporter  *heartbeat.Reporter
	store     *desired.Store
	workloads *workload.Reconciler
	sync      *datasync.Engine
	who       *identity.Device
	// recovered is called when the control plane is reached again.
	recovered func()
	// queues returns what waits to be delivered; nil: there is none.
	queues func() []console.Queue
	// told is what the person at the device is told.
	told func() console.Document
	// others returns what is wrong with components that have nothing else to
	// report; nil: there are none.
	others func() []string
	// system updates the operating system; nil: nobody does.
	system *osupdate.Reconciler
	// playbooks runs those of the control plane; nil: nobody does.
	playbooks *playbook.Runner
	// device is what the person at the device is told but for what is wrong with
	// the operating system.
	device func() console.Document
}

// collect returns the report of this moment.
func (r *reporting) collect() heartbeat.Report {
	// Read before the snapshot, so that it is never taken for a newer one's.
	workloads := r.workloads.Status()
	out := report(workloads, r.sync.Status(), r.store.Current().Digest())
	out.Degraded = slices.Concat(out.Degraded, r.problems(), r.osProblems())
	if r.system != nil {
		out.Upgrade = r.system.Upgrade()
	}
	if r.playbooks != nil {
		out.Playbooks = r.playbooks.Statuses()
	}
	return out
}

// problems are those that are neither a workload's nor of its data.
func (r *reporting) problems() []string {
	var out []string
	if problem := r.who.Problem(); problem != "" {
		out = append(out, problem)
	}
	if r.others != nil {
		out = append(out, r.others()...)
	}
	return out
}

// report says what the components publish. The digest is that of the
// configuration that the report goes out with.
func report(workloads workload.Status, sync datasync.Status, digest string) heartbeat.Report {
	var out heartbeat.Report
	for _, w := range workloads.Workloads {
		status := workloadStatus(w)
		status.LastDataUpload = protocol.NewTime(sync.LastUpload(w.Name))
		status.DataSync = dataSync(sync, w.Name)
		if workloads.ConfigDigest != digest {
			// What it says of another configuration must not be taken for news
			// of this one.
			status.DesiredDigest = ""
		}
		out.Workloads = append(out.Workloads, status)
		if w.Reason != "" && !protocol.InProgress(w.Reason) {
			out.Degraded = append(out.Degraded, fmt.Sprintf("workload %s: %s", w.Name, w.Reason))
		}
	}
	out.Workloads = protocol.Bounded(out.Workloads, maxDetailBytes)
	out.Degraded = append(out.Degraded, syncProblems(sync)...)
	return out
}

func workloadStatus(w workload.State) protocol.WorkloadStatus {
	status := protocol.WorkloadStatus{
		Name:          w.Name,
		Status:        w.Phase,
		Reason:        w.Reason,
		Message:       w.Message,
		DesiredDigest: w.Desired,
		AppliedDigest: w.Applied,
		Restarts:      int64(w.Restarts),
		Notes:         w.Notes,
	}
	if !w.Since.IsZero() {
		status.Since = protocol.NewTime(w.Since)
	}
	for _, i := range w.Images {
		status.Images = append(status.Images, protocol.WorkloadImage(i))
	}
	return status
}

// wakeOnChange makes a heartbeat follow soon when the state of a workload
// changes.
func (r *reporting) wakeOnChange(ctx context.Context) error {
	var told workload.Status
	for {
		changed := r.workloads.Changed()
		if now := r.workloads.Status(); isNews(told, now) {
			told = now
			r.reporter.Wake()
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil
		}
	}
}

// isNews reports whether what changed is worth a heartbeat of its own. Counts
// and the progress of a pull change every second: they go with the next one.
func isNews(before, now workload.Status) bool {
	return !slices.EqualFunc(before.Workloads, now.Workloads, func(a, b workload.State) bool {
		return a.Name == b.Name && a.Phase == b.Phase && a.Reason == b.Reason && a.Desired == b.Desired && a.Applied == b.Applied &&
			(a.Message == b.Message || protocol.InProgress(a.Reason)) && slices.Equal(a.Images, b.Images) && slices.Equal(a.Notes, b.Notes)
	})
}
