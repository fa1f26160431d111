package heartbeat

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/project-flotta/flotta-agent/internal/desired"
	"github.com/project-flotta/flotta-agent/internal/diskq"
	"github.com/project-flotta/flotta-agent/internal/pulse"
	"github.com/project-flotta/flotta-agent/internal/transport"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

const (
	// settle is how long news waits for more of the kind: a pod that starts
	// changes its state several times within a second.
	settle = 1500 * time.Millisecond
	// minGap is between two beats that news caused. A workload that crashes in a
	// loop makes at most this many.
	minGap = 5 * time.Second
	// sendTimeout is longer than yggd's own 20 s and what a slow link adds.
	sendTimeout = 60 * time.Second
	// The waits after failures. A server that cannot be reached costs nothing
	// to try; one that answers with errors is given time.
	firstRetry     = 2 * time.Second
	maxRetry       = 2 * time.Minute
	maxUnreachable = 15 * time.Second
	jitterPart     = 0.1
)

// Sender posts one message and waits for the answer; *transport.Transport's Send.
type Sender interface {
	Send(ctx context.Context, m transport.Message) (transport.Reply, error)
}

// Source is the desired state; *desired.Store.
type Source interface {
	Current() *desired.Snapshot
	Rejected() (desired.Rejection, bool)
}

// Report is what the components have to say at one moment.
type Report struct {
	Workloads []protocol.WorkloadStatus // in any order
	Degraded  []string                  // why the device is degraded; empty: it is up
	Upgrade   *protocol.UpgradeStatus
	Playbooks []protocol.PlaybookExecutionStatus
}

// Config is what a Reporter works with. Sender, Desired and Events are
// required.
type Config struct {
	Sender  Sender
	Desired Source
	Events  *diskq.Queue // open; closed by the caller after Run
	// Collect is called once for each beat, from Run. Nil: nothing to report.
	Collect func() Report
	// Delivered is called with a report that the control plane has taken in, from
	// Run; it must not block. Nil: nobody wants to know.
	Delivered func(Report)
	// Ready is closed when the device may report: it is registered. Nil: now.
	Ready <-chan struct{}
	// Hardware returns the whole of the hardware; full says that the control
	// plane wants it in each beat, as opposed to after changes. Nil: never sent.
	Hardware func(full bool) *protocol.HardwareInfo
	// Unauthorized is called when the control plane does not accept the device's
	// certificate any more, once for each such answer. It must not block.
	Unauthorized func()
	// Recovered is called when the control plane is reached after it was not, also
	// for the first time. It must not block.
	Recovered func()
	// Jitter varies a wait. Nil: by up to a tenth, either way.
	Jitter func(time.Duration) time.Duration
	Log    *slog.Logger // discards when nil
}

// Status is how reporting goes, for the person at the device.
type Status struct {
	LastSuccess time.Time // zero: not since the start
	LastAttempt time.Time
	Err         string   // of the last attempt; empty: it succeeded
	Degraded    []string // as last reported
	Waiting     uint64   // events
}

// Reporter sends heartbeats. Event and Wake may be called from any goroutine,
// also before Run; Run only once.
type Reporter struct {
	cfg   Config
	wake  chan struct{}
	pulse pulse.Pulse

	mu        sync.Mutex
	status    Status
	lastEvent []byte // appended since the last beat was built

	// Only Run's.
	limit      int // events in the next beat
	hardware   []byte
	rejectedAt time.Time
	problemsOf string // digest whose problems are an event
}

// New returns a reporter. It does no I/O.
func New(cfg Config) (*Reporter, error) {
	switch {
	case cfg.Sender == nil:
		return nil, errors.New("heartbeat config: Sender is missing")
	case cfg.Desired == nil:
		return nil, errors.New("heartbeat config: Desired is missing")
	case cfg.Events == nil:
		return nil, errors.New("heartbeat config: Events is missing")
	}
	if cfg.Collect == nil {
		cfg.Collect = func() Report { return Report{} }
	}
	if cfg.Delivered == nil {
		cfg.Delivered = func(Report) {}
	}
	if cfg.Recovered == nil {
		cfg.Recovered = func() {}
	}
	if cfg.Unauthorized == nil {
		cfg.Unauthorized = func() {}
	}
	if cfg.Jitter == nil {
		cfg.Jitter = func(d time.Duration) time.Duration {
			return d + time.Duration(jitterPart*(2*rand.Float64()-1)*float64(d))
		}
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Reporter{cfg: cfg, wake: make(chan struct{}, 1), pulse: pulse.New(), limit: maxEvents}, nil
}

// Wake says that something worth a report changed. The beat follows within a few
// seconds, one for all that comes together. It never blocks.
func (r *Reporter) Wake() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// Event puts e in the queue of events, durably, and wakes the reporter. It takes
// one fsync. An event equal to the one before it is dropped as long as that one
// was in no beat yet. An event that the disk does not take is lost, with a log
// line.
func (r *Reporter) Event(e protocol.EventInfo) {
	data, err := json.Marshal(trim(e))
	if err != nil { // three texts always encode
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if string(data) == string(r.lastEvent) {
		return
	}
	if err := r.cfg.Events.Append(data); err != nil {
		r.cfg.Log.Error("event lost", "reason", e.Reason, "err", err)
		return
	}
	r.lastEvent = data
}

// Status returns how reporting goes.
func (r *Reporter) Status() Status {
	waiting := r.cfg.Events.Stats().Entries
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.status
	s.Waiting = waiting
	return s
}

// Run reports until ctx ends, and then returns nil. Failures to send never end
// it.
func (r *Reporter) Run(ctx context.Context) error {
	if r.cfg.Ready != nil && !r.await(ctx, r.cfg.Ready) {
		return nil
	}
	var p pace
	for ctx.Err() == nil {
		// Taken before the beat reads, so that what comes meanwhile is news.
		snap, events := r.cfg.Desired.Current(), r.cfg.Events.Wait()
		if !snap.State().Managed() { // there is nobody to tell
			r.await(ctx, snap.Superseded())
			continue
		}
		result := r.beat(ctx, snap)
		if ctx.Err() != nil {
			return nil
		}
		now := time.Now()
		period := r.cfg.Jitter(snap.State().Heartbeat.Period)
		p.after(now, result, period, r.cfg.Jitter)
		// More than one beat carries: but not when the next one tries an event
		// that may have been refused.
		if result == accepted && r.limit > 1 && r.cfg.Events.Stats().Entries > 0 {
			p.news(now)
		}
		r.wait(ctx, &p, snap, events)
	}
	return nil
}

// await waits for done, and reports whether it came before ctx ended.
func (r *Reporter) await(ctx context.Context, done <-chan struct{}) bool {
	for {
		select {
		case <-ctx.Done():
			return false
		case <-done:
			return true
		case <-r.pulse.Beat():
		}
	}
}

// Alive returns nil as soon as the loop that Run runs waits for what to report or for
// the network, and an error when that does not happen before ctx ends.
func (r *Reporter) Alive(ctx context.Context) error { return r.pulse.Feel(ctx) }

// wait returns when the next beat is due.
func (r *Reporter) wait(ctx context.Context, p *pace, snap *desired.Snapshot, events <-chan struct{}) {
	for {
		timer := time.NewTimer(max(1, time.Until(p.due)))
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
			return
		case <-snap.Superseded():
			next := r.cfg.Desired.Current()
			if d := next.State().Heartbeat.Period; d != snap.State().Heartbeat.Period {
				p.period(r.cfg.Jitter(d))
			}
			if next.Digest() != snap.Digest() {
				p.news(time.Now())
			}
			snap = next
		case <-r.pulse.Beat():
		case <-r.wake:
			p.news(time.Now())
		case <-events:
			events = r.cfg.Events.Wait()
			// Those that came while the last beat was built were in it.
			if r.cfg.Events.Stats().Entries > 0 {
				p.news(time.Now())
			}
		}
		timer.Stop()
	}
}
