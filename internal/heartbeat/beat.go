package heartbeat

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/project-flotta/flotta-agent/internal/desired"
	"github.com/project-flotta/flotta-agent/internal/diskq"
	"github.com/project-flotta/flotta-agent/internal/transport"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

const (
	// maxEvents is what one beat carries; with maxMessage it stays well below
	// the request bodies that a server takes.
	maxEvents  = 100
	maxMessage = 2 << 10
	maxReason  = 128
	// lateEvent is when an event says itself when it happened, because the
	// control plane can only know when it heard of it.
	lateEvent = 2 * time.Minute
)

// beat sends one heartbeat and acknowledges what it carried.
func (r *Reporter) beat(ctx context.Context, snap *desired.Snapshot) outcome {
	rep := r.cfg.Collect()
	hb, degraded := r.report(snap, rep)
	entries, err := r.takeEvents()
	if err != nil {
		r.cfg.Log.Error("events not read", "err", err)
	}
	hb.Events = decodeEvents(entries, time.Now())
	hardware := r.hardwareOf(snap.State().Heartbeat, &hb)
	o, err := r.send(ctx, hb)
	if ctx.Err() != nil {
		return o
	}
	r.record(o, err, degraded)
	if o != accepted {
		return o
	}
	r.hardware = hardware
	if len(entries) > 0 {
		if err := r.cfg.Events.Ack(entries[len(entries)-1].Seq); err != nil {
			r.cfg.Log.Error("events not acknowledged, they are sent again", "err", err)
		}
	}
	r.cfg.Delivered(rep)
	return o
}

// report returns all of a heartbeat but events and hardware, and why the device is
// degraded.
func (r *Reporter) report(snap *desired.Snapshot, rep Report) (protocol.Heartbeat, []string) {
	state := snap.State()
	hb := protocol.Heartbeat{
		Status:             protocol.StatusUp,
		Version:            state.Version,
		Workloads:          slices.Clone(rep.Workloads),
		PlaybookExecutions: slices.Clone(rep.Playbooks),
		Upgrade:            rep.Upgrade,
	}
	if hb.Workloads == nil {
		hb.Workloads = []protocol.WorkloadStatus{}
	}
	if hb.PlaybookExecutions == nil {
		hb.PlaybookExecutions = []protocol.PlaybookExecutionStatus{}
	}
	// In order, so that the same state is the same bytes.
	slices.SortStableFunc(hb.Workloads, func(a, b protocol.WorkloadStatus) int { return strings.Compare(a.Name, b.Name) })

	degraded := slices.Concat(rep.Degraded, state.Problems)
	if len(state.Problems) > 0 && r.problemsOf != snap.Digest() {
		r.Event(protocol.EventInfo{
			Reason: "ConfigurationProblem", Type: protocol.EventWarnType, Message: strings.Join(state.Problems, "; "),
		})
	}
	r.problemsOf = snap.Digest()
	if rejection, ok := r.cfg.Desired.Rejected(); ok {
		text := fmt.Sprintf("configuration %q is refused: %s", rejection.Version, rejection.Reason)
		degraded = append(degraded, text)
		if !rejection.Time.Equal(r.rejectedAt) {
			r.rejectedAt = rejection.Time
			r.Event(protocol.EventInfo{Reason: "ConfigurationRejected", Type: protocol.EventWarnType, Message: text})
		}
	}
	if len(degraded) > 0 {
		hb.Status = protocol.StatusDegraded
	}
	return hb, degraded
}

// takeEvents reads what the next beat carries. They stay in the queue.
func (r *Reporter) takeEvents() ([]diskq.Entry, error) {
	r.mu.Lock()
	r.lastEvent = nil
	r.mu.Unlock()
	if r.limit == 0 {
		return nil, nil
	}
	return r.cfg.Events.Read(r.limit)
}

// decodeEvents returns the events of entries, without repetitions of the one
// before. It is never nil.
func decodeEvents(entries []diskq.Entry, now time.Time) []protocol.EventInfo {
	events := []protocol.EventInfo{}
	var before []byte
	for _, e := range entries {
		var info protocol.EventInfo
		if bytes.Equal(e.Data, before) || json.Unmarshal(e.Data, &info) != nil {
			continue // what is not an event is acknowledged with the others
		}
		before = e.Data
		if now.Sub(e.Time) > lateEvent {
			info.Message = strings.TrimSpace(info.Message + " (at " + e.Time.UTC().Format(time.RFC3339) + ")")
		}
		events = append(events, info)
	}
	return events
}

// trim bounds an event's texts.
func trim(e protocol.EventInfo) protocol.EventInfo {
	e.Reason, e.Message = cut(e.Reason, maxReason), cut(e.Message, maxMessage)
	if e.Type == "" {
		e.Type = protocol.EventInfoType
	}
	return e
}

func cut(text string, size int) string {
	const mark = "..."
	if len(text) <= size {
		return text
	}
	// A character that the cut goes through goes away with it.
	return strings.ToValidUTF8(text[:size-len(mark)], "") + mark
}

// hardwareOf puts the hardware into hb where it belongs in this beat, and
// returns its form, to be remembered once it arrived.
func (r *Reporter) hardwareOf(want desired.Heartbeat, hb *protocol.Heartbeat) []byte {
	if !want.IncludeHardware || r.cfg.Hardware == nil {
		return nil // whole again as soon as it is wanted again
	}
	hw := r.cfg.Hardware(!want.DeltaHardware)
	if hw == nil {
		return r.hardware
	}
	form, err := json.Marshal(hw)
	if err != nil { // a number that JSON has not
		r.cfg.Log.Error("hardware not reported", "err", err)
		return r.hardware
	}
	if !want.DeltaHardware || !bytes.Equal(form, r.hardware) {
		hb.Hardware = hw
	}
	return form
}

// send posts hb and says what became of it.
func (r *Reporter) send(ctx context.Context, hb protocol.Heartbeat) (outcome, error) {
	content, err := json.Marshal(hb)
	if err != nil {
		return refused, fmt.Errorf("encode heartbeat: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, sendTimeout)
	defer cancel()
	reply, err := r.post(ctx, transport.Message{
		ID: uuid.NewString(), Directive: protocol.DirectiveHeartbeat, Content: content,
	})
	switch {
	case errors.Is(err, transport.ErrUnavailable):
		return unreachable, err
	case err != nil:
		return refused, err
	case reply.Status >= 200 && reply.Status < 300:
		r.limit = min(max(2*r.limit, 1), maxEvents)
		return accepted, nil
	case reply.Status == http.StatusUnauthorized:
		r.cfg.Unauthorized()
	case reply.Status == http.StatusBadRequest, reply.Status == http.StatusRequestEntityTooLarge:
		// Perhaps an event is what it does not like: the state of the device
		// must get through beside it.
		r.limit /= 2
	}
	return refused, fmt.Errorf("heartbeat answered with status %d", reply.Status)
}

// post sends m. The loop lives meanwhile: to wait for the network is not to hang.
func (r *Reporter) post(ctx context.Context, m transport.Message) (reply transport.Reply, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		reply, err = r.cfg.Sender.Send(ctx, m)
	}()
	for {
		select {
		case <-done:
			return reply, err
		case <-r.pulse.Beat():
		}
	}
}

// record keeps the outcome for Status, and logs when it is another one than
// before.
func (r *Reporter) record(o outcome, err error, degraded []string) {
	r.mu.Lock()
	before := r.status
	r.status.LastAttempt = time.Now()
	r.status.Degraded = degraded
	r.status.Err = ""
	if err != nil {
		r.status.Err = err.Error()
	}
	if o == accepted {
		r.status.LastSuccess = r.status.LastAttempt
	}
	after := r.status
	r.mu.Unlock()
	switch {
	case after.Err != "" && after.Err != before.Err:
		r.cfg.Log.Warn("heartbeat not delivered", "err", err)
	case after.Err == "" && (before.Err != "" || before.LastSuccess.IsZero()):
		r.cfg.Log.Info("heartbeat delivered")
		r.cfg.Recovered()
	}
	if !slices.Equal(before.Degraded, degraded) {
		r.cfg.Log.Info("device condition changed", "degraded", degraded)
	}
}
