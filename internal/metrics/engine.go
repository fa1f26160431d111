package metrics

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/project-flotta/flotta-agent/internal/desired"
	"github.com/project-flotta/flotta-agent/internal/diskq"
	"github.com/project-flotta/flotta-agent/internal/metrics/remotewrite"
	"github.com/project-flotta/flotta-agent/internal/metrics/series"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// Desired is where the configuration comes from; *desired.Store is one.
type Desired interface {
	Current() *desired.Snapshot
}

// Config is what the engine needs. Log and Event may be nil.
type Config struct {
	Dir       string // of the spool; made when missing
	Desired   Desired
	UserAgent string // of the requests
	Log       *slog.Logger
	// Event takes what the control plane should hear of. It is called from any
	// goroutine and must not block.
	Event func(protocol.EventInfo)

	connect func(remotewrite.Config) (sender, error) // tests; nil: the real one
}

// sender is what is used of a *remotewrite.Client.
type sender interface {
	Address() string
	Send(ctx context.Context, body []byte) remotewrite.Answer
	Close()
}

// Engine keeps samples and delivers them. Its methods may be called from any
// goroutine between Open and Close.
type Engine struct {
	cfg   Config
	queue *diskq.Queue

	mu       sync.Mutex
	status   Status
	changed  chan struct{}
	told     uint64 // dropped scrapes that there was an event for
	toldAt   time.Time
	events   map[string]time.Time // the last one of each reason
	flushing int                  // callers of Flush
	hurry    chan struct{}        // closed while there are any
}

// New checks the configuration.
func New(cfg Config) (*Engine, error) {
	switch {
	case cfg.Dir == "":
		return nil, errors.New("metrics: config: Dir is empty")
	case cfg.Desired == nil:
		return nil, errors.New("metrics: config: Desired is nil")
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Event == nil {
		cfg.Event = func(protocol.EventInfo) {}
	}
	if cfg.connect == nil {
		cfg.connect = func(c remotewrite.Config) (sender, error) { return remotewrite.New(c) }
	}
	return &Engine{cfg: cfg, changed: make(chan struct{}), hurry: make(chan struct{}), events: map[string]time.Time{}}, nil
}

const (
	// segmentBytes is the unit in which the oldest samples are dropped.
	segmentBytes = 1 << 20
	// syncEvery is what a power cut may cost: not more often than that the disk
	// is told to write, as flash wears out.
	syncEvery = time.Minute
	syncBytes = 1 << 20
)

// Open opens the spool, with the retention that is in force.
func (e *Engine) Open() error {
	s := settingsOf(e.cfg.Desired.Current().State())
	q, err := diskq.Open(diskq.Config{
		Dir: e.cfg.Dir, MaxBytes: s.maxBytes, MaxAge: s.maxAge, SegmentBytes: min(segmentBytes, s.maxBytes/2),
		SyncEvery: syncEvery, SyncBytes: syncBytes, Log: e.cfg.Log,
	})
	if err != nil {
		return fmt.Errorf("open spool of metrics: %w", err)
	}
	d := q.Stats().Dropped
	e.mu.Lock()
	defer e.mu.Unlock()
	e.queue = q
	e.told = d.Size + d.Age
	return nil
}

// spool returns the spool; nil: it could not be opened yet.
func (e *Engine) spool() *diskq.Queue {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.queue
}

var errNoSpool = errors.New("the spool could not be opened")

// opened tries until there is a spool; false: the context ended before.
func (e *Engine) opened(ctx context.Context) bool {
	for failures := 1; e.spool() == nil; failures++ {
		err := e.Open()
		e.problem(ReasonSpoolFails, err)
		if err == nil {
			break
		}
		select {
		case <-ctx.Done():
			return false
		case <-time.After(backOff(failures)):
		}
	}
	return true
}

// Close closes the spool, after Run has returned.
func (e *Engine) Close() error {
	q := e.spool()
	if q == nil {
		return nil
	}
	if err := q.Close(); err != nil {
		return fmt.Errorf("close spool of metrics: %w", err)
	}
	return nil
}

// Put keeps the samples of one scrape of one target until they are delivered.
// None is no error. It blocks for as long as the disk takes. After an error some
// of the samples may be kept; the others are counted as dropped.
func (e *Engine) Put(ctx context.Context, samples []series.Sample) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("put samples: %w", err)
	}
	entries, unfit, err := pack(samples)
	if err != nil {
		e.update(func(s *Status) { s.Unkept += uint64(unfit) }) //nolint:gosec // a count
	}
	if len(entries) > 0 {
		werr := errNoSpool
		if q := e.spool(); q != nil {
			werr = q.Append(entries...)
		}
		e.problem(ReasonSpoolFails, werr)
		if werr != nil {
			e.update(func(s *Status) { s.Unkept += uint64(len(samples) - unfit) }) //nolint:gosec // a count
			err = errors.Join(err, werr)
		}
		e.tellDropped(time.Now())
	}
	if err != nil {
		return fmt.Errorf("put samples: %w", err)
	}
	return nil
}

const (
	// entryBytes bounds the samples of one entry, so that no entry is a large part
	// of a request or of the smallest spool.
	entryBytes = 128 << 10
	// maxSampleBytes and maxSampleLabels bound the labels of one sample.
	maxSampleBytes  = 32 << 10
	maxSampleLabels = 128
)

// pack makes entries of samples, in their order. Samples that fit into none are
// counted and left out, and the error names one of them.
func pack(samples []series.Sample) (entries [][]byte, unfit int, err error) {
	start, size := 0, 0
	flush := func(end int) {
		if end == start {
			return
		}
		entry, aerr := series.Append(nil, samples[start:end])
		if aerr != nil { // never, with the bounds above
			unfit, err = unfit+end-start, aerr
			return
		}
		entries = append(entries, entry)
	}
	for i, s := range samples {
		n := 16
		for _, l := range s.Labels {
			n += len(l.Name) + len(l.Value) + 8
		}
		if n > maxSampleBytes || len(s.Labels) > maxSampleLabels {
			flush(i)
			start, size = i+1, 0
			unfit, err = unfit+1, fmt.Errorf("a sample has %d labels of %d bytes, at most %d of %d are kept", len(s.Labels), n, maxSampleLabels, maxSampleBytes)
			continue
		}
		if size+n > entryBytes {
			flush(i)
			start, size = i, 0
		}
		size += n
	}
	flush(len(samples))
	return entries, unfit, err
}

// Run delivers until the context ends. A spool that Open could not open is
// tried again. A change of the receiver takes effect at
// once, also while a request is under way.
func (e *Engine) Run(ctx context.Context) error {
	if !e.opened(ctx) {
		return nil
	}
	snap := e.cfg.Desired.Current()
	now := settingsOf(snap.State())
	for ctx.Err() == nil {
		e.bound(now)
		sending, cancel := context.WithCancel(ctx)
		var done sync.WaitGroup
		done.Go(func() { e.deliver(sending, now.receiver) })
		next := now
		for ctx.Err() == nil && next.receiver == now.receiver {
			select {
			case <-ctx.Done():
			case <-snap.Superseded():
				snap = e.cfg.Desired.Current()
				next = settingsOf(snap.State())
				e.bound(next)
			}
		}
		cancel()
		done.Wait()
		now = next
	}
	return nil
}

// bound puts the retention into force.
func (e *Engine) bound(s settings) {
	if err := e.spool().SetBounds(s.maxBytes, s.maxAge); err != nil {
		e.cfg.Log.Warn("retention of metrics", "err", err)
	}
	e.tellDropped(time.Now())
}

// ErrNoReceiver says that nothing can be delivered, as no receiver is configured.
var ErrNoReceiver = errors.New("no receiver of metrics is configured")

// Flush delivers what was put until now, without the pauses that spare line and
// receiver, and returns when that is done, or with an error when ctx ends. Run
// must be running. A receiver that refuses everything is asked no more often.
func (e *Engine) Flush(ctx context.Context) error {
	e.hasten(1)
	defer e.hasten(-1)
	q := e.spool()
	if q == nil {
		return fmt.Errorf("flush metrics: %w", errNoSpool)
	}
	for newest := q.Stats().Newest; ; {
		changed := e.Changed()
		st := q.Stats()
		if st.Entries == 0 || st.Acked >= newest {
			return nil
		}
		if settingsOf(e.cfg.Desired.Current().State()).receiver.url == "" {
			return fmt.Errorf("flush metrics: %d scrapes wait: %w", st.Entries, ErrNoReceiver)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("flush metrics: %d scrapes wait: %w", st.Entries, ctx.Err())
		}
	}
}

// Retry has the next attempt made soon that follows a failure, for who knows that
// the network is back. It does not wait.
func (e *Engine) Retry() {
	e.hasten(1)
	e.hasten(-1)
}

// hasten adds to the number of those who are in a hurry.
func (e *Engine) hasten(n int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	before := e.flushing
	e.flushing += n
	switch {
	case before == 0:
		close(e.hurry)
	case e.flushing == 0:
		e.hurry = make(chan struct{})
	}
}

// Forget drops what waits, for a device that is no longer managed. It is not
// counted.
func (e *Engine) Forget() error {
	q := e.spool()
	if q == nil {
		return nil
	}
	if err := q.Clear(); err != nil {
		return fmt.Errorf("forget metrics: %w", err)
	}
	return nil
}
