package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/project-flotta/flotta-agent/internal/console"
	"github.com/project-flotta/flotta-agent/internal/datasync"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// dataSync says in a heartbeat how the data paths of a workload are; nil: it has
// none.
func dataSync(sync datasync.Status, workload string) *protocol.DataSyncStatus {
	i := slices.IndexFunc(sync.Workloads, func(w datasync.WorkloadStatus) bool { return w.Name == workload })
	if i < 0 {
		return nil
	}
	out := protocol.DataSyncStatus{
		Egress: heartbeatDirection(sync.Workloads[i].Egress), Ingress: heartbeatDirection(sync.Workloads[i].Ingress),
	}
	if out.Egress == nil && out.Ingress == nil {
		return nil
	}
	return &out
}

func heartbeatDirection(d datasync.DirectionStatus) *protocol.DataDirectionStatus {
	if d.Empty() {
		return nil
	}
	out := protocol.DataDirectionStatus{
		PendingFiles: d.Pending, PendingBytes: d.PendingBytes, FailedFiles: d.Failed,
		LastError: d.LastError, Blocked: d.Blocked, Paused: d.Paused,
	}
	if !d.LastSuccess.IsZero() {
		out.LastSuccess = protocol.NewTime(d.LastSuccess)
	}
	for _, p := range d.Problems {
		out.Problems = append(out.Problems, protocol.DataProblem(p))
	}
	return &out
}

// namedDirection is one direction of one workload.
type namedDirection struct {
	name string
	datasync.DirectionStatus
}

func directions(w datasync.WorkloadStatus) [2]namedDirection {
	return [2]namedDirection{{"egress", w.Egress}, {"ingress", w.Ingress}}
}

// syncProblems says which directions of which workload's data do not go on, and
// what is wrong with them for longer. That nothing travels because the settings
// say so is no problem.
func syncProblems(sync datasync.Status) []string {
	var problems []string
	if sync.IndexError != "" {
		problems = append(problems, "no data is synchronised: "+sync.IndexError)
	}
	for _, w := range sync.Workloads {
		for _, d := range directions(w) {
			switch {
			case d.LastError != "":
				problems = append(problems, fmt.Sprintf("%s of %s: %s", d.name, w.Name, d.LastError))
			case d.Blocked != "":
				problems = append(problems, fmt.Sprintf("%s of %s: %s", d.name, w.Name, d.Blocked))
			}
			for _, p := range d.Problems {
				problems = append(problems, fmt.Sprintf("%s of %s: %s: %s", d.name, w.Name, p.Reason, p.Message))
			}
		}
	}
	return problems
}

// consoleSync says to the person at the device how the data paths are.
func consoleSync(sync datasync.Status, now time.Time) []console.DataSync {
	var out []console.DataSync
	for _, w := range sync.Workloads {
		s := console.DataSync{
			Workload: w.Name, LastUpload: w.LastUpload,
			Egress: consoleDirection(w.Egress, now), Ingress: consoleDirection(w.Ingress, now),
		}
		out = append(out, s)
	}
	return out
}

func consoleDirection(d datasync.DirectionStatus, now time.Time) *console.DataDirection {
	if d.Empty() {
		return nil
	}
	out := console.DataDirection{
		Files: d.Files, Bytes: d.Bytes, Seconds: d.Spent.Seconds(), Pending: d.Pending, PendingBytes: d.PendingBytes,
		Failed: d.Failed, Skipped: d.Skipped, Refused: d.Refused,
		LastSuccess: d.LastSuccess, LastError: d.LastError, Blocked: d.Blocked, Paused: d.Paused,
	}
	for _, t := range d.Flying {
		transfer := console.Transfer{Path: t.Path, Size: t.Size, Done: t.Done, Since: t.Since}
		if spent := now.Sub(t.Since); spent > 0 && t.Done > 0 {
			transfer.Rate = int64(float64(t.Done) / spent.Seconds())
		}
		out.InFlight = append(out.InFlight, transfer)
	}
	for _, p := range d.Problems {
		out.Problems = append(out.Problems, console.DataProblem(p))
	}
	return &out
}

// synchronise looks at data paths now, those of all workloads at once, because
// the person at the device asks for it.
func (r *reporting) synchronise(ctx context.Context, request console.SyncRequest) []console.SyncResult {
	names := request.Workloads
	if len(names) == 0 {
		for _, w := range r.sync.Status().Workloads {
			names = append(names, w.Name)
		}
	}
	names = slices.Compact(slices.Sorted(slices.Values(names)))
	results := make([][]console.SyncResult, len(names))
	var all sync.WaitGroup
	for i, name := range names {
		all.Go(func() {
			if request.Audit {
				results[i] = r.audit(ctx, name)
			} else {
				results[i] = r.cycle(ctx, name)
			}
		})
	}
	all.Wait()
	return slices.Concat(results...)
}

const noDataPaths = "there is no such workload, or it has no data paths that are in use"

func (r *reporting) cycle(ctx context.Context, workload string) []console.SyncResult {
	var out []console.SyncResult
	for _, o := range r.sync.Cycle(ctx, workload) {
		result := console.SyncResult{Workload: workload, Direction: o.Direction}
		if o.Err != nil {
			result.Error = o.Err.Error()
		}
		out = append(out, result)
	}
	if len(out) == 0 {
		out = append(out, console.SyncResult{Workload: workload, Error: noDataPaths})
	}
	return out
}

func (r *reporting) audit(ctx context.Context, workload string) []console.SyncResult {
	missing, err := r.sync.Audit(ctx, workload)
	out := console.SyncResult{Workload: workload, Direction: "egress", Missing: missing}
	switch {
	case errors.Is(err, datasync.ErrNotSynced):
		out.Direction, out.Error = "", "there is no such workload, or it has no egress that is in use"
	case err != nil:
		out.Error = err.Error()
	}
	return []console.SyncResult{out}
}
