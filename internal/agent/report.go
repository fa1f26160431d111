package agent

import (
	"context"
	"fmt"

	"github.com/project-flotta/flotta-agent/internal/datasync"
	"github.com/project-flotta/flotta-agent/internal/heartbeat"
	"github.com/project-flotta/flotta-agent/internal/identity"
	"github.com/project-flotta/flotta-agent/internal/workload"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// reporting makes one report of what the components publish, so that neither
// they nor the heartbeat know of each other.
type reporting struct {
	reporter  *heartbeat.Reporter
	workloads *workload.Reconciler
	sync      *datasync.Engine
	who       *identity.Device
}

// collect returns the report of this moment.
func (r *reporting) collect() heartbeat.Report {
	out := report(r.workloads.Status(), r.sync.Status())
	if problem := r.who.Problem(); problem != "" {
		out.Degraded = append(out.Degraded, problem)
	}
	return out
}

func report(workloads workload.Status, sync datasync.Status) heartbeat.Report {
	var out heartbeat.Report
	for _, w := range workloads.Workloads {
		out.Workloads = append(out.Workloads, protocol.WorkloadStatus{
			Name:           w.Name,
			Status:         w.Phase,
			LastDataUpload: protocol.NewTime(sync.LastUpload(w.Name)),
		})
		if w.Reason != "" {
			out.Degraded = append(out.Degraded, fmt.Sprintf("workload %s: %s", w.Name, w.Reason))
		}
	}
	for _, w := range sync.Workloads {
		for _, d := range []struct {
			name  string
			state datasync.DirectionStatus
		}{{"egress", w.Egress}, {"ingress", w.Ingress}} {
			switch {
			case d.state.LastError != "":
				out.Degraded = append(out.Degraded, fmt.Sprintf("%s of %s: %s", d.name, w.Name, d.state.LastError))
			case d.state.Blocked != "":
				out.Degraded = append(out.Degraded, fmt.Sprintf("%s of %s: %s", d.name, w.Name, d.state.Blocked))
			}
		}
	}
	return out
}

// wakeOnChange makes a heartbeat follow soon when the state of a workload
// changes.
func (r *reporting) wakeOnChange(ctx context.Context) error {
	for {
		changed := r.workloads.Changed()
		select {
		case <-changed:
			r.reporter.Wake()
		case <-ctx.Done():
			return nil
		}
	}
}
