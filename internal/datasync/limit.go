package datasync

import (
	"context"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/time/rate"
)

const (
	// lookEach is how often the wall clock is looked at when it matters. No timer
	// is set for the end of a window: the clock may be set at any time.
	lookEach = 5 * time.Second
	// maxPieceBytes bounds what travels without a look at the limit.
	maxPieceBytes = 256 << 10
)

// limits says how fast files may travel now, and whether they may.
type limits struct {
	table Timetable
	zone  func() *time.Location

	mu  sync.Mutex // held while it changes
	now atomic.Pointer[limit]
}

// limit is what holds until changed is closed.
type limit struct {
	ruling

	upload, download *rate.Limiter // nil: no bound
	changed          chan struct{}
}

// newLimits returns limits that allow what holds outside of all windows until
// look is called.
func newLimits(table Timetable, zone func() *time.Location) *limits {
	l := &limits{table: table, zone: zone}
	l.now.Store(newLimit(ruling{rate: table.Otherwise}))
	return l
}

func newLimit(r ruling) *limit {
	return &limit{
		ruling: r, changed: make(chan struct{}),
		upload: limiter(r.rate.Upload), download: limiter(r.rate.Download),
	}
}

func limiter(bytes int64) *rate.Limiter {
	if bytes <= 0 {
		return nil
	}
	piece := min(max(bytes/8, minRate), maxPieceBytes)
	return rate.NewLimiter(rate.Limit(bytes), int(piece))
}

// look makes what the timetable says of this moment hold.
func (l *limits) look() {
	l.mu.Lock()
	defer l.mu.Unlock()
	before := l.now.Load()
	if fresh := l.table.at(l.clock()); fresh != before.ruling {
		l.now.Store(newLimit(fresh))
		close(before.changed)
	}
}

// clock returns the device's wall clock.
func (l *limits) clock() time.Time { return time.Now().Round(0).In(l.zone()) }

// paused says until when nothing travels by itself; empty: it does.
func (l *limits) paused() string {
	if !l.now.Load().paused {
		return ""
	}
	return l.table.why(l.clock())
}

// wait returns when so many bytes more may travel in the direction. A limit that
// changes meanwhile counts at once.
func (l *limits) wait(ctx context.Context, d direction, bytes int64) error {
	for bytes > 0 {
		now := l.now.Load()
		lim := now.upload
		if d == ingress {
			lim = now.download
		}
		if lim == nil {
			return nil
		}
		piece := min(bytes, int64(lim.Burst()))
		turn := lim.ReserveN(time.Now(), int(piece))
		delay := turn.Delay()
		if delay > 0 {
			timer := time.NewTimer(delay)
			select {
			case <-timer.C:
			case <-now.changed:
				timer.Stop()
				continue
			case <-ctx.Done():
				timer.Stop()
				turn.Cancel()
				return context.Cause(ctx)
			}
		}
		bytes -= piece
	}
	return nil
}

// piece returns how much an upload may read at once; 0: any number of bytes. Many
// uploads share a limit, and a connection on which nothing moves is given up.
func (l *limits) piece() int {
	const slow, small = 256 << 10, 1 << 10
	if lim := l.now.Load().upload; lim != nil && lim.Limit() < slow {
		return small
	}
	return 0
}

// paced returns what an upload is to tell of each piece before it travels: it
// counts the piece and holds it back for as long as the limit wants.
func (e *Engine) paced(ctx context.Context, d direction, moved func(bytes int64)) func(bytes int64) {
	return func(bytes int64) {
		// So many bytes at once did not travel: the store has them already.
		if bytes <= maxPieceBytes {
			_ = e.limits.wait(ctx, d, bytes) // the request ends with ctx by itself
		}
		moved(bytes)
	}
}

// throttle returns a reader of src that is no faster than the limit, and that
// counts.
func (e *Engine) throttle(ctx context.Context, d direction, src io.Reader, moved func(bytes int64)) io.Reader {
	return &pacedReader{ctx: ctx, src: src, dir: d, limits: e.limits, moved: moved}
}

type pacedReader struct {
	ctx    context.Context //nolint:containedctx // a reader has no other place for it.
	src    io.Reader
	dir    direction
	limits *limits
	moved  func(bytes int64)
}

func (r *pacedReader) Read(p []byte) (int, error) {
	n, err := r.src.Read(p[:min(len(p), maxPieceBytes)])
	if n == 0 {
		return n, err
	}
	r.moved(int64(n))
	if slow := r.limits.wait(r.ctx, r.dir, int64(n)); slow != nil {
		return n, slow
	}
	return n, err
}

// keepTime makes the timetable hold until ctx ends. When a pause begins it ends
// the transfers under way, but for those of groups that somebody waits for.
func (e *Engine) keepTime(ctx context.Context) {
	tick := time.NewTicker(lookEach)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		e.limits.look()
		if e.limits.now.Load().paused {
			e.lanes.ground()
		}
	}
}

// localZone returns a function that returns the device's time zone, also after
// it was changed: the standard library reads it once.
func localZone() func() *time.Location {
	const path = "/etc/localtime"
	if _, set := os.LookupEnv("TZ"); set {
		return func() *time.Location { return time.Local }
	}
	var mu sync.Mutex
	zone := time.Local
	var known [3]int64 // what the file was when it was read
	return func() *time.Location {
		mu.Lock()
		defer mu.Unlock()
		info, err := os.Stat(path)
		if err != nil {
			return zone
		}
		now := [3]int64{info.ModTime().UnixNano(), info.Size()}
		if st, ok := info.Sys().(*syscall.Stat_t); ok {
			now[2] = int64(st.Ino) //nolint:gosec // only compared.
		}
		if now == known {
			return zone
		}
		if data, err := os.ReadFile(path); err == nil {
			if fresh, err := time.LoadLocationFromTZData("Local", data); err == nil {
				zone, known = fresh, now
			}
		}
		return zone
	}
}
